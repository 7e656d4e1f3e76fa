"""From an image file to the numbers a network receives: what `decoding` reads, as tensors."""

import io
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tutelage.data.decoding import EXTENSIONS as EXTENSIONS
from tutelage.data.decoding import MAX_PIXELS, Preparation, decode, pixels
from tutelage.data.decoding import Orientation as Orientation
from tutelage.data.decoding import Range as Range
from tutelage.data.decoding import Sides as Sides
from tutelage.data.decoding import as_array as as_array
from tutelage.data.decoding import count_frames as count_frames
from tutelage.data.decoding import flatten as flatten
from tutelage.data.decoding import header as header
from tutelage.data.decoding import is_range as is_range
from tutelage.data.decoding import open_regular as open_regular
from tutelage.data.decoding import pair as pair
from tutelage.data.decoding import preparation as preparation
from tutelage.data.decoding import printable as printable
from tutelage.data.decoding import require_image as require_image

LARGEST_SIDE = 128
"""Pixels of an example image; a report shows 48 of them."""


def read_image(path: Path, how: Preparation, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "channels height width"]:
    """The image file as a network wants it, before the division by 255."""
    image = decode(path, how.channels, max_pixels, orientation=how.orientation, value_range=how.value_range)
    return prepare_image(image, how)


def prepare_image(image: Image.Image, how: Preparation) -> UInt8[Tensor, "channels height width"]:
    """A decoded image, cut, scaled and padded, as `decoding.pixels` does it.

    >>> prepare_image(Image.new("RGB", (40, 30)), Preparation(3, 32, 28, pad=2)).shape
    torch.Size([3, 32, 32])
    """
    return torch.from_numpy(pixels(image, how))


def as_tensor(image: Image.Image) -> UInt8[Tensor, "channels height width"]:
    """A grey or RGB image as a tensor of its own memory."""
    return torch.from_numpy(as_array(image))


def as_image(pixels: UInt8[Tensor, "channels height width"]) -> Image.Image:
    """A tensor of 1 or 3 channels as a grey or RGB image; `as_tensor` the other way round."""
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())


def png(image: Tensor) -> bytes:
    """An image [channels, height, width] in [0, 1] as a PNG file of at most 128 pixels a side, grey or RGB."""
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    picture = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()
