"""What the rows of fusion are: images. A network gives one image [B, 1, H, W] in [0, 1] of sources [B, C, H, W].

Labels are {"sources": [B, C, H, W]}, the sources themselves, for a fused image can be learned from these too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import BatchLabels, Rows


@dataclass(frozen=True)
class FusedRows:
    """A function of rows: a row is a sample, with the image [B, 1, H, W] of each end and its sources."""

    name: str

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return self.name

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """The rows of these ends; their label is "sources"."""
        sources = sources_of(labels)
        for end, value in values.items():
            if value.dim() != 4 or value.shape[1] != 1 or value.shape[2:] != sources.shape[2:]:
                raise ModelError("an end that is no fused image of these sources", where=f"end {end!r}",
                                 found=f"shape {list(value.shape)}, sources {list(sources.shape)}",
                                 expected=f"[B, 1, {sources.shape[2]}, {sources.shape[3]}]",
                                 fix="take a network that fuses, such as fusion_dense")
        return Rows(values, {"sources": sources})

    def total(self, labels: BatchLabels) -> Tensor:
        """How many rows there are."""
        sources = sources_of(labels)
        return torch.tensor(len(sources), device=sources.device)

    def check(self, values: Mapping[str, Tensor]) -> None:
        """Refuse images outside of [0, 1], before a run."""
        for end, value in values.items():
            least, most = (float(number) for number in value.detach().aminmax())
            if not (least >= 0 and most <= 1):
                raise ModelError("a network gives images outside of [0, 1]", where=f"end {end!r}",
                                 found=f"{least:.3g} .. {most:.3g}", expected="0 .. 1",
                                 fix="let it end in a sigmoid, or in (tanh + 1) / 2")


def sources_of(labels: BatchLabels) -> Tensor:
    """The sources [B, C, H, W] of a batch; ModelError if there are none."""
    sources = None if isinstance(labels, Tensor) else labels.get("sources")
    if sources is None or sources.dim() != 4 or not sources.is_floating_point():
        found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else f"{sorted(labels)}"
        raise ModelError("labels that are no sources of a fused image", where="labels", found=found,
                         expected='"sources", numbers in [0, 1] [B, channels, height, width]')
    return sources


def mean_image(*images: Tensor) -> Tensor:
    """The mean of several images [B, 1, H, W].

    >>> mean_image(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).item()
    0.5
    """
    if any(one.shape != images[0].shape or one.dim() != 4 for one in images):
        raise ModelError("a mean of what is not images of one size", found=str([list(one.shape) for one in images]),
                         expected="[B, 1, height, width] of each")
    return torch.stack(images).mean(0)


fused = FusedRows("fused")
"""A row is a sample: its image [B, 1, H, W] and its sources [B, C, H, W]."""
