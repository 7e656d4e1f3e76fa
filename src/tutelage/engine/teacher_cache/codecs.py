"""How the rows of a teacher's end are kept: the whole row, or its largest logits and what is needed besides.

Both forms turn float32 rows into columns that can be stored, and back. Coming back is all that training sees, also
of rows that were just computed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.types import PerSampleFn

Columns = dict[str, Tensor]
"""Name of a file -> what it holds of each row, [B, ...]."""
LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Whole:
    """All of a row: as it is if `exact`, else in float16; of `logits` the differences from the row's largest.

    The largest is kept as float32, so that the error is small where the probability is large.
    """

    logits: bool
    exact: bool

    @property
    def types(self) -> Mapping[str, torch.dtype]:
        """Column -> its type."""
        return {"values": torch.float32 if self.exact else torch.float16, "tops": torch.float32}

    def encode(self, rows: Tensor) -> Columns:
        """Columns of float32 rows [B, ...]; tops [B] are zeros where nothing is subtracted."""
        if not self._from_largest(rows):
            return {"values": rows if self.exact else _half(rows), "tops": rows.new_zeros(len(rows))}
        tops = rows.amax(-1)
        return {"values": _half(rows - tops[:, None]), "tops": tops.float()}

    def decode(self, columns: Columns) -> Tensor:
        """float32 rows from what `encode` gave."""
        values = columns["values"].float()
        return values + columns["tops"][:, None] if self._from_largest(values) else values

    def _from_largest(self, rows: Tensor) -> bool:
        """Whether rows are kept as differences: of maps of logits that is not worth a column."""
        return self.logits and not self.exact and rows.dim() == 2

    def weights(self, columns: Columns) -> tuple[Tensor, ...]:
        """No sample weights are kept: the row tells them."""
        return ()


@dataclass(frozen=True)
class Top:
    """The `count` largest of `classes` logits with their class numbers, exact at one temperature; and sample weights.

    At that temperature the probability of each kept class is the teacher's, because what all others hold together is
    kept too, as the logit that each of them would have if they shared it evenly: nothing is known of them that would
    prefer one. (The mean of exp(z / T) differs from temperature to temperature, so one row cannot be right at two.)
    A sample weight that the teacher alone decides (`of`) needs the whole row at a temperature of its own; its value
    is kept instead, one float32 each. So the gradient of KL is the teacher's for every kept class, and w(x) is exact.
    """

    count: int
    classes: int
    temperature: float
    of: tuple[PerSampleFn, ...] = ()

    @property
    def types(self) -> Mapping[str, torch.dtype]:
        """Column -> its type."""
        number = torch.int16 if self.classes <= torch.iinfo(torch.int16).max else torch.int32
        return {"values": torch.float16, "numbers": number, "beside": torch.float32}

    def encode(self, rows: Tensor) -> Columns:
        """Columns of logits [B, classes]; `beside` is [B, 2 + weights]: the largest, the others' level below, w."""
        values, numbers = rows.topk(self.count)
        others = rows.scatter(1, numbers, -math.inf) / self.temperature
        level = self.temperature * (others.logsumexp(-1) - math.log(self.classes - self.count))
        level = (level - values[:, 0]).clamp(min=-LARGEST)
        beside = torch.stack([values[:, 0], level, *(weight(rows, rows, rows) for weight in self.of)], 1)
        return {"values": _half(values - values[:, :1]), "numbers": numbers.to(self.types["numbers"]),
                "beside": beside.float()}

    def decode(self, columns: Columns) -> Tensor:
        """Logits [B, classes]: those that were kept, and for all others their common level."""
        largest, level = columns["beside"][:, :1], columns["beside"][:, 1:2]
        rows = (largest + level).repeat(1, self.classes)
        return rows.scatter(1, columns["numbers"].long(), largest + columns["values"].float())

    def weights(self, columns: Columns) -> tuple[Tensor, ...]:
        """The sample weights, in the order of `of`."""
        return columns["beside"][:, 2:].unbind(1)

    def losses(self, rows: Tensor) -> tuple[float, float, float]:
        """What is lost of such rows: KL at the temperature; the probability that is spread; the largest change of w."""
        columns = self.encode(rows)
        exact, kept = ((logits / self.temperature).log_softmax(-1) for logits in (rows, self.decode(columns)))
        inside = exact.gather(1, columns["numbers"].long()).exp().sum(-1)
        moved = [(kept - weight(rows, rows, rows)).abs().max()
                 for weight, kept in zip(self.of, self.weights(columns), strict=True)]
        return (float((exact.exp() * (exact - kept)).sum(-1).mean()), float((1 - inside).mean()),
                max(map(float, moved), default=0.0))


Form = Whole | Top


def _half(rows: Tensor) -> Tensor:
    # Beyond float16's largest number would be infinite, and infinity times a share of 0 no number.
    return rows.clamp(-LARGEST, LARGEST).half()
