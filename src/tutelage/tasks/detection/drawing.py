"""Boxes drawn into an image. No torch in it, for a device draws them too."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

Corners = tuple[float, float, float, float]
"""Left, top, right and lower edge in pixels."""
COLOURS = ((0, 158, 115), (213, 94, 0), (0, 114, 178), (230, 159, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66))
"""Of the classes, over again where there are more: told apart also by the colour-blind (Okabe and Ito)."""
UNDER = (255, 255, 255)
"""What the gaps of a dashed line are filled with, so that it is seen on any ground."""
LEAST_FONT = 10


class Box(NamedTuple):
    """A box in pixels, the number of its class, and what is written at it."""

    corners: Corners
    number: int
    words: str = ""


def draw_on(image: Image.Image, said: Sequence[Box], true: Sequence[Box] = ()) -> Image.Image:
    """A copy in RGB, with the boxes that are `said` as full lines, and over them the `true` ones as dashed lines."""
    picture = image.convert("RGB")
    pen = ImageDraw.Draw(picture)
    width = max(1, round(max(picture.size) / 250))
    font = ImageFont.load_default(max(LEAST_FONT, round(max(picture.size) / 45)))
    for box in reversed(said):  # the first, which is the surest, on top
        colour = COLOURS[box.number % len(COLOURS)]
        pen.rectangle(_within(box.corners, picture), outline=colour, width=width)
    for box in true:
        _dashed(pen, _within(box.corners, picture), COLOURS[box.number % len(COLOURS)], width)
    for box in reversed(said):
        _write(pen, picture.size, box, font)
    return picture


def png_of(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def _within(corners: Corners, picture: Image.Image) -> Corners:
    """The corners on pixels of the picture, the left and the top one first."""
    left, top = (min(max(0.0, round(corner)), side - 1) for corner, side in zip(corners[:2], picture.size, strict=True))
    right, lower = (min(max(low, round(corner) - 1), side - 1)
                    for corner, low, side in zip(corners[2:], (left, top), picture.size, strict=True))
    return left, top, right, lower


def _dashed(pen: ImageDraw.ImageDraw, corners: Corners, colour: tuple[int, int, int], width: int) -> None:
    left, top, right, lower = corners
    pen.rectangle(corners, outline=UNDER, width=width)
    dash = 4 * width
    for along in range(int(left), int(right) + 1, 2 * dash):
        for side in (top, lower - width + 1):
            pen.rectangle((along, side, min(along + dash - 1, right), side + width - 1), fill=colour)
    for along in range(int(top), int(lower) + 1, 2 * dash):
        for side in (left, right - width + 1):
            pen.rectangle((side, along, side + width - 1, min(along + dash - 1, lower)), fill=colour)


def _write(pen: ImageDraw.ImageDraw, size: tuple[int, int], box: Box, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
           ) -> None:
    """The words above the box, or inside where there is no room, on a ground of its colour."""
    if not box.words:
        return
    words = box.words if isinstance(font, ImageFont.FreeTypeFont) else box.words.encode("ascii", "replace").decode()
    wide, high = (int(x) for x in pen.textbbox((0, 0), words, font=font)[2:])
    left = max(0, min(round(box.corners[0]), size[0] - wide - 2))
    top = round(box.corners[1]) - high - 2
    top = top if top >= 0 else max(0, round(box.corners[1]))
    colour = COLOURS[box.number % len(COLOURS)]
    pen.rectangle((left, top, left + wide + 1, top + high + 1), fill=colour)
    dark = sum(c * part for c, part in zip(colour, (0.299, 0.587, 0.114), strict=True)) < 140
    pen.text((left + 1, top), words, fill=(255, 255, 255) if dark else (0, 0, 0), font=font)
