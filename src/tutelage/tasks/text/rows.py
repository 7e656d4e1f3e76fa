"""What the rows of a sentence are: its words with their tags, or the pieces of it that are hidden.

Networks give logits [B, P, K] of a fixed number of places in each sentence; labels of hidden pieces are [B, P], those
of slots "tags" and "there" [B, P].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.types import BatchLabels, Rows


@dataclass(frozen=True)
class TextRows:
    """A function of rows that are places of sentences: what they are called, and what of the labels [B, P] they read.

    `read` gives the class numbers, -1 where there is none, and which places count.
    """

    name: str
    read: Callable[[BatchLabels], tuple[Tensor, Tensor]]

    @property
    def __name__(self) -> str:
        """What it is called, as of any function."""
        return self.name

    def __call__(self, values: Mapping[str, Tensor], labels: BatchLabels) -> Rows:
        """Rows [B P, K] of these ends."""
        said, count = self.read(labels)
        rows = {end: _of_places(end, value, said).flatten(0, 1) for end, value in values.items()}
        kind = next((value.dtype for value in rows.values()), torch.float32)
        sample = torch.arange(len(said), device=said.device).repeat_interleave(said.shape[1])
        return Rows(rows, said.flatten(), count.flatten().to(kind), sample=sample)

    def total(self, labels: BatchLabels) -> Tensor:
        """How many places count."""
        return self.read(labels)[1].sum()


def tags_of(labels: BatchLabels) -> tuple[Tensor, Tensor]:
    """The tags of words [B, W], -1 where there is none, and which of them are words."""
    if isinstance(labels, Tensor) or not {"tags", "there"} <= labels.keys():
        raise ModelError("labels without tags of words", where="labels",
                         found="one tensor" if isinstance(labels, Tensor) else ", ".join(sorted(labels)),
                         expected='those of task = "slots"')
    return labels["tags"], labels["there"] > 0


def pieces_of(labels: BatchLabels) -> tuple[Tensor, Tensor]:
    """The hidden pieces [B, P], -1 where there are fewer, and which are there."""
    if not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        raise ModelError("labels that are no hidden pieces", where="labels",
                         found=f"{list(labels.shape)}" if isinstance(labels, Tensor) else ", ".join(sorted(labels)),
                         expected="[B, places] whole numbers")
    return labels, labels >= 0


def _of_places(end: str, value: Tensor, labels: Tensor) -> Tensor:
    if value.dim() != 3 or value.shape[:2] != labels.shape:
        raise ModelError("an end that says nothing of these places", where=f"end {end!r}",
                         found=f"shape {list(value.shape)}", expected=f"[B, {labels.shape[1]}, classes]",
                         fix="take a network that speaks of words, such as word_encoder")
    return value


slots = TextRows("slots", tags_of)
"""A row is a word, at the first of its pieces; one without a tag is heard from a teacher, and learned from nothing."""
words = TextRows("words", pieces_of)
"""A row is a hidden piece; where there are fewer than places a row does not count."""
