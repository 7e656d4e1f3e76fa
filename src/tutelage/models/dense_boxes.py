"""What a dense detector says, in one tensor [B, P, 9 + K]: of each place of an image a box, and logits of K classes.

A place is a cell of a grid, or an anchor: its centre and its size, in pixels of the image. Its columns are

    0..3   x, y, width, height of the place
    4..7   distances from its centre to the left, top, right and lower side of the box, in widths and heights of it
    8      the logit of how central the place is in its box; NO_CENTRE where a network does not say
    9..    the logit of each class: all low is no object

One tensor, so that a cache, an ensemble and an exported file hold it like logits of any other kind.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAD = 9
"""So many columns are not classes."""
NO_CENTRE = 1e4
"""The logit of a network that does not say how central a place is: its score is that of the class alone."""
ABSENT = -1e4
"""The logit of a class that a network does not know."""

Packed = Float[Tensor, "batch places columns"]


class Places(NamedTuple):
    """The parts of what a detector says, the places last but one, or alone where they are rows."""

    places: Float[Tensor, "*any 4"]
    distances: Float[Tensor, "*any 4"]
    centres: Float[Tensor, "*any"]
    logits: Float[Tensor, "*any classes"]


def pack_places(places: Float[Tensor, "*any 4"], distances: Float[Tensor, "batch places 4"],
         centres: Float[Tensor, "batch places"] | None, logits: Float[Tensor, "batch places classes"]) -> Packed:
    """One tensor of the parts; `places` [P, 4] may be those of every image. No `centres`: NO_CENTRE.

    >>> pack_places(torch.zeros(5, 4), torch.zeros(2, 5, 4), None, torch.zeros(2, 5, 3)).shape
    torch.Size([2, 5, 12])
    """
    batch, count = distances.shape[:2]
    exact = torch.promote_types(distances.dtype, torch.float32)  # half numbers would move places by whole pixels
    places = places.to(distances.device, exact).expand(batch, count, 4)
    central = places.new_full((batch, count), NO_CENTRE) if centres is None else centres
    return torch.cat([places, distances, central[..., None], logits], -1)


def unpack_places(packed: Float[Tensor, "*any columns"]) -> Places:
    """The parts, as views of the tensor."""
    return Places(packed[..., :4], packed[..., 4:8], packed[..., 8], packed[..., LEAD:])


def boxes_of(places: Float[Tensor, "*any 4"], distances: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """Boxes (left, top, right, lower) in pixels.

    >>> boxes_of(torch.tensor([12.0, 12, 8, 8]), torch.tensor([1.0, 1, 1.5, 2])).tolist()
    [4.0, 4.0, 24.0, 28.0]
    """
    centre, size = places[..., :2], places[..., 2:]
    return torch.cat([centre - distances[..., :2] * size, centre + distances[..., 2:] * size], -1)


def distances_of(places: Float[Tensor, "*any 4"], boxes: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """The inverse of `boxes_of`: distances, in sizes of the places; below 0 where a centre is outside of its box."""
    centre, size = places[..., :2], places[..., 2:]
    return torch.cat([(centre - boxes[..., :2]) / size, (boxes[..., 2:] - centre) / size], -1)


def scores_of(parts: Places) -> Float[Tensor, "*any classes"]:
    """How sure a detector is of each class at each place, in [0, 1].

    The root of the product of the class's probability and that of the centre (as FCOS in torchvision), or the class's
    alone where a network does not say how central a place is.
    """
    classes, central = parts.logits.sigmoid(), parts.centres[..., None]
    return torch.where(central > NO_CENTRE / 2, classes, (classes * central.sigmoid()).sqrt())


def grid_places(size: tuple[int, int], strides: tuple[int, ...], device: torch.device | None = None, *,
                corners: bool = False) -> Float[Tensor, "places 4"]:
    """The cells of grids over an image of `size` (height, width): stride by stride, row by row, each by its middle.

    With `corners` a place is around the upper left corner of its cell, as torchvision has it.

    >>> grid = grid_places((32, 32), (8, 16))
    >>> len(grid), grid[0].tolist(), grid[-1].tolist()
    (20, [4.0, 4.0, 8.0, 8.0], [24.0, 24.0, 16.0, 16.0])
    """
    found = []
    for stride in strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device),
                              indexing="ij")
        centres = torch.stack([x, y], -1).reshape(-1, 2) * stride + (0.0 if corners else stride / 2)
        found.append(torch.cat([centres, torch.full_like(centres, stride)], 1))
    return torch.cat(found).float()
