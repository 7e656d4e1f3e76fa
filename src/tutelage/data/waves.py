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
        series = [f"{':'.join(_text(channel) for channel in wave(split, number))}:{WAVE_CLASSES[number % 4]}"
                  for number in range(count)]
        (folder / f"waves_{split}.ts").write_text("\n".join([*header, *series, ""]), encoding="utf-8")


def wave(split: str, number: int) -> Tensor:
    """Series `number` of a split: [2, 40 .. 64] float64, of class number % 4; the second channel is a quarter late."""
    facts = uniform(derive("waves", split), torch.tensor([number]), 3)[0].double()
    length = SHORTEST + int(facts[0] * (LONGEST - SHORTEST + 1))
    time = torch.arange(length, dtype=torch.float64)
    frequency, start = 1 / 16 + facts[1] / 16, facts[2]
    turns = frequency * time
    if WAVE_CLASSES[number % 4] == "chirp":
        turns = turns * (0.4 + 1.2 * time / LONGEST)
    turns = start + turns + torch.tensor([[0.0], [-0.25]], dtype=torch.float64)
    match WAVE_CLASSES[number % 4]:
        case "square":
            clean = torch.where(turns % 1 < 0.5, 1.0, -1.0)
        case "saw":
            clean = 2 * (turns % 1) - 1
        case _:
            clean = (2 * math.pi * turns).sin()
    # The sum of twelve uniform numbers is as good as normal here, and the same on every machine.
    drawn = uniform(derive("noise of waves", split), torch.tensor([number]), 2 * length * 12).double()
    return clean + NOISE * (drawn.view(2, length, 12).sum(-1) - 6)


def _text(channel: Tensor) -> str:
    return ",".join(f"{value:.3f}" for value in channel.tolist())
