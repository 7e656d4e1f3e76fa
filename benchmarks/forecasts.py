"""`python benchmarks/forecasts.py`: a step of dckd on forecasts, beside a loop written by hand with the same losses.

As `pixels.py`, with recurrent networks on the made set waves_forecast. Relations are worked out for all steps at once.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from pixels import Networks, ours
from torch import Tensor

from tutelage.data.settings import DataSettings
from tutelage.data.source import Data
from tutelage.engine.loop import set_modes, start
from tutelage.engine.precision import default_executions
from tutelage.engine.settings import Settings
from tutelage.methods.dckd import dckd
from tutelage.models.forecast import forecast_gru
from tutelage.system.distributed import World
from tutelage.system.machine import describe_machine
from tutelage.tasks.forecast.task import FORECAST
from tutelage.tasks.named import data_for
from tutelage.types import Batch, one_tensor

SIZES = {"small": (8, 1, 32), "middle": (48, 1, 128), "large": (96, 2, 256)}
"""Name -> width and depth of the student, and windows of a step; the teacher is twice as wide."""


def networks(width: int, depth: int) -> Networks:
    torch.manual_seed(0)
    return {"t": forecast_gru(3, 2, width=2 * width, depth=depth), "s": forecast_gru(3, 2, width=width, depth=depth)}


def by_hand(nets: Networks, optimizers: Mapping[str, torch.optim.Optimizer], batch: Batch) -> float:
    """One step as one would write it."""
    assert not isinstance(batch.labels, Tensor)
    values, target = one_tensor(batch.inputs), batch.labels["target"]
    with torch.no_grad():
        m, s = _gaussian(nets["t"](values))
    mean, spread = _gaussian(nets["s"](values))
    nll = (spread.log() + ((target - mean) / spread).square() / 2).mean() + 0.9189385332
    ratio = s / spread
    soft = ((ratio.square() - 1) / 2 - ratio.log() + ((mean - m) / spread).square() / 2).mean()
    far, near = _related(mean, spread)
    wanted, alike = _related(m, s)
    loss = nll + soft + 0.5 * F.smooth_l1_loss(far, wanted) + 0.5 * F.smooth_l1_loss(near, alike)
    optimizers["s"].zero_grad(set_to_none=True)
    loss.backward()
    optimizers["s"].step()
    return float(loss.detach())


def _gaussian(said: Tensor) -> tuple[Tensor, Tensor]:
    return said[..., 0], F.softplus(said[..., 1]) + 1e-3


def _related(mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    m, s = mean.t(), spread.t()
    apart, sharp, square = (m[:, :, None] - m[:, None]).square(), s.square().reciprocal(), s.square()
    far = (sharp[:, :, None] + sharp[:, None]) / 2 * ((s[:, :, None] - s[:, None]).square() + apart)
    there = far > 0
    far = far / ((far * there).sum((1, 2), keepdim=True) / there.sum((1, 2), keepdim=True).clamp(min=1))
    both = square[:, :, None] + square[:, None]
    return far, (2 * s[:, :, None] * s[:, None] / both).sqrt() * (-apart / (2 * both)).exp()


def compare(data: Data, size: tuple[int, int, int], precision: str, steps: int) -> dict[str, object]:
    """What a step of dckd takes of one by hand, in seconds of the process."""
    width, depth, rows = size
    sgd, mine, hand = partial(torch.optim.SGD, lr=0.01), networks(width, depth), networks(width, depth)
    world = World(torch.device("cpu"))
    settings = Settings(1, sgd, batch_size=rows, precision=precision)
    run = start(dckd("t", "s", task=FORECAST), mine, data, settings, world,
                default_executions(mine, precision, world.device))
    set_modes(run)
    hand["t"].eval()
    optimizers: dict[str, torch.optim.Optimizer] = {"s": sgd(hand["s"].parameters())}
    order = torch.arange(len(data.train.ids))
    batches = list(data.train.batches([order[i * rows % 900:][:rows] for i in range(steps)], draw=0))
    ratios, apart, by_hand_seconds = [], 0.0, []
    for number, batch in enumerate(batches):
        sides = [("ours", partial(ours, run, batch)), ("by hand", partial(by_hand, hand, optimizers, batch))]
        found, took = {}, {}
        for side, step in sides if number % 2 else reversed(sides):
            began = time.process_time()
            found[side] = step()
            took[side] = time.process_time() - began
        if not number:  # later steps carry the rounding of all before them
            apart = abs(found["ours"] / found["by hand"] - 1)
        ratios.append(took["ours"] / took["by hand"])
        by_hand_seconds.append(took["by hand"])
    low, middle, high = statistics.quantiles(ratios[5:], n=4)
    return {"precision": precision, "weights": sum(p.numel() for p in hand["s"].parameters()), "batch": rows,
            "ms_by_hand": round(1000 * statistics.median(by_hand_seconds[5:]), 2), "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)], "losses_apart": apart, "n": steps - 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--to", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = data_for(DataSettings("waves_forecast", window=24, horizon=3))
    found = [{"size": name, **compare(data, size, precision, asked.steps)}
             for name, size in SIZES.items() for precision in ("auto", "exact")]
    for row in found:
        print(f"{row['size']:7} {row['precision']:6} {row['weights']:7} weights, {row['ms_by_hand']:8} ms by hand, "
              f"ratio {row['ratio']} {row['quartiles']}, losses within {row['losses_apart']:.0e}, n = {row['n']}")
    if asked.to:
        asked.to.write_text(json.dumps({"machine": describe_machine("cpu"), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
