"""Pictures of fusion: the infrared and the visible image of a pair, and beside them what each network makes of both."""

import io
from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from tutelage.tasks.fusion.rows import sources_of
from tutelage.types import BatchLabels

SIDE = 256
"""Pixels of the longer side at most."""
OF_SOURCES = ("infrared", "visible")


def draw_strips(labels: BatchLabels, said: Mapping[str, Tensor]) -> Sequence[Mapping[str, bytes]]:
    """Of each sample, its sources and what each node says of it, name -> PNG file; `said` is node -> [B, 1, H, W]."""
    shown = {**dict(zip(OF_SOURCES, sources_of(labels).split(1, 1), strict=True)), **said}
    return [{name: grey_png(images[row]) for name, images in shown.items()} for row in range(len(sources_of(labels)))]


def grey_png(image: Tensor) -> bytes:
    """An image [1, H, W] in [0, 1] as a PNG file of at most 256 pixels a side."""
    levels = (image[0].detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    picture = Image.fromarray(levels)
    times = max(1, SIDE // 2 // max(picture.size))
    picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()
