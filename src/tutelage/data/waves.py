"""Made series of four classes: sines, squares, saws and chirps in noise, of two channels and unlike lengths.

They are written as .ts files and read back by the reader of such files, so that a machine without any data has some. A
number depends on the split and the series alone.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from tutelage.system.random import derive, uniform

WAVE_CLASSES = ("sine", "square", "saw", "chirp")
SERIES = {"TRAIN": 300, "TEST": 150}
SHORTEST, LONGEST = 40, 64
NOISE = 0.6
"""The standard deviation of the noise, beside waves between -1 and 1."""


def write_waves(folder: Path) -> None:
    """Write waves_TRAIN.ts and waves_TEST.ts into a folder."""
    for split, count in SERIES.items():
        header = ["@problemName waves", "@timeStamps false", "@missing false", "@univariate false", "@dimensions 2",
                  "@equalLength false", f"@classLabel true {' '.join(WAVE_CLASSES)}", "@data"]
        series = [f"{':'.join(map(_text, wave.tolist()))}:{WAVE_CLASSES[number % 4]}"
                  for number, wave in enumerate(waves(split, count))]
        (folder / f"waves_{split}.ts").write_text("\n".join([*header, *series, ""]), encoding="utf-8")


def waves(split: str, count: int) -> list[Tensor]:
    """The first series of a split, each [2, 40 .. 64] float64; number n is of class n % 4.

    The second channel is a quarter of a turn behind the first.
    """
    ids = torch.arange(count)
    facts = uniform(derive("waves", split), ids, 3).double()
    lengths = SHORTEST + (facts[:, 0] * (LONGEST - SHORTEST + 1)).long()
    time, late = torch.arange(LONGEST).double(), torch.tensor([[0.0], [0.25]]).double()
    steady = (1 / 16 + facts[:, 1, None, None] / 16) * time
    kind = (ids % 4)[:, None, None]
    turns = facts[:, 2, None, None] + torch.where(kind == 3, steady * (0.4 + 1.2 * time / LONGEST), steady) - late
    part = turns % 1
    clean = (2 * math.pi * turns).sin()
    clean = torch.where(kind == 1, torch.where(part < 0.5, 1.0, -1.0), torch.where(kind == 2, 2 * part - 1, clean))
    # The sum of twelve uniform numbers is as good as normal here, and the same on every machine.
    drawn = uniform(derive("noise of waves", split), ids, 2 * LONGEST * 12).double().view(count, 2, LONGEST, 12).sum(-1)
    made = clean + NOISE * (drawn - 6)
    return [series[:, :length] for series, length in zip(made, lengths.tolist(), strict=True)]


def _text(channel: list[float]) -> str:
    return ",".join(f"{value:.3f}" for value in channel)
