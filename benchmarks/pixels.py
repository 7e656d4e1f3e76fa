"""`python benchmarks/pixels.py`: a step of dual_student on pixels, beside a loop written by hand with the same losses.

Both sides take the same batches of the made shapes through the same U-Nets, a frozen teacher and two students, with SGD
and one thread. Steps take turns; what is told is the CPU time of a step, the median of the ratios of all turns with the
quartiles, and how far the losses of the first step are apart. `--to FILE` keeps it as JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.data.settings import DataSettings
from tutelage.data.source import Data
from tutelage.engine.autotune import tune
from tutelage.engine.loop import set_modes, start, train_step
from tutelage.engine.precision import default_executions
from tutelage.engine.run import Run
from tutelage.engine.settings import Settings
from tutelage.methods.dual_student import dual_student
from tutelage.models.unet import unet
from tutelage.system.distributed import World
from tutelage.system.machine import describe_machine
from tutelage.tasks.named import data_for
from tutelage.tasks.segmentation.task import SEGMENTATION
from tutelage.tasks.task import Task
from tutelage.types import Batch, one_tensor, plain_view

SIZES = {"small": (2, 1, 8), "middle": (6, 2, 16), "large": (16, 3, 16)}
"""Name -> width and depth of the networks, and images of a step."""
WARM, LR = 4.0, 0.01
Networks = dict[str, nn.Module]
Step = Callable[[Networks, Mapping[str, torch.optim.Optimizer], Batch], float]


def networks(width: int, depth: int) -> Networks:
    torch.manual_seed(0)
    return {node: unet(3, width=width, depth=depth) for node in ("t", "a", "b")}


def by_hand(nets: Networks, optimizers: Mapping[str, torch.optim.Optimizer], batch: Batch) -> float:
    """One step as one would write it: maps [B, K, h, w] as they come, means over the pixels that count."""
    images, labels = one_tensor(batch.inputs), one_tensor(batch.labels)
    with torch.no_grad():
        teacher = nets["t"](images)
    said = {node: nets[node](images) for node in "ab"}
    counts = (labels >= 0).float()
    total = counts.sum().clamp(min=1)
    p = teacher.softmax(1)
    w = 1 + (p * p.clamp_min(1e-30).log()).sum(1) / torch.tensor(float(p.shape[1])).log()

    def pull(student: Tensor, target: Tensor) -> Tensor:
        warm = (target.detach() / WARM).log_softmax(1)
        return WARM**2 * (warm.exp() * (warm - (student / WARM).log_softmax(1))).sum(1)

    loss = torch.zeros(())
    for node, other in ("ab", "ba"):
        hard = F.cross_entropy(said[node], labels, ignore_index=-1, reduction="sum") / total
        soft = (counts * w * pull(said[node], teacher)).sum() / total
        peer = (counts * pull(said[node], said[other])).sum() / total
        loss = loss + (hard + soft + peer) / 3
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()
    return loss.item()


def ours(run: Run, batch: Batch) -> float:
    before = {name: pair[0].item() for name, pair in run.means.state().items()}
    train_step(run, [batch])
    return sum(pair[0].item() - before.get(name, 0.0) for name, pair in run.means.state().items())


def compare(data: Data, task: Task, make: Callable[[], Networks], hand_step: Step, size: int, precision: str,
            steps: int) -> dict[str, object]:
    """What a step of dual_student takes of one by hand, with networks t, a and b and `size` images a step."""
    graph = dual_student("t", ["a", "b"], temperature=WARM, task=task)
    sgd, mine, hand = partial(torch.optim.SGD, lr=LR), make(), make()
    world, settings = World(torch.device("cpu")), Settings(1, sgd, batch_size=size, precision=precision)
    (first,) = data.train.batches([torch.arange(size)], draw=0)
    choices = default_executions(mine, precision, world.device)
    if precision == "auto":
        choices = tune(graph, mine, plain_view(first.inputs), 10_000, choices).choices
    choices = {node: replace(choice, compiled=False) for node, choice in choices.items()}  # by hand nothing is either
    run = start(graph, mine, data, settings, world, choices)
    set_modes(run)
    plain = deepcopy(hand)
    plain["t"].eval()
    optimizers: dict[str, torch.optim.Optimizer] = {node: sgd(plain[node].parameters()) for node in "ab"}
    rows = torch.arange(len(data.train.ids))
    batches = list(data.train.batches([rows[i * size % 300:][:size] for i in range(steps)], draw=0))
    ratios, apart, seconds = [], 0.0, {"ours": [], "by hand": []}
    for number, batch in enumerate(batches):
        sides = [("ours", partial(ours, run, batch)),
                 ("by hand", partial(hand_step, plain, optimizers, batch))]
        found = {}
        for side, step in sides if number % 2 else reversed(sides):
            began = time.process_time()
            found[side] = step()
            seconds[side].append(time.process_time() - began)
        if not number:  # later steps carry the rounding of all before them
            apart = abs(found["ours"] / found["by hand"] - 1)
        ratios.append(seconds["ours"][-1] / seconds["by hand"][-1])
    low, middle, high = statistics.quantiles(ratios[5:], n=4)
    return {"precision": precision, "weights": sum(p.numel() for p in hand["a"].parameters()),
            "batch": size, "ms_by_hand": round(1000 * statistics.median(seconds["by hand"][5:]), 2),
            "ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)],
            "losses_apart": apart, "n": steps - 5}


def tell(words: str | None, data: Data, task: Task, sides: Mapping[str, tuple[Callable[[], Networks], int]],
         hand_step: Step) -> None:
    """Compare networks of each size, by what the command line asks for, and print and keep what was found."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--to", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = [{"size": name, **compare(data, task, make, hand_step, size, precision, asked.steps)}
             for name, (make, size) in sides.items() for precision in ("auto", "exact")]
    for row in found:
        print(f"{row['size']:7} {row['precision']:6} {row['weights']:7} weights, {row['ms_by_hand']:8} ms by hand, "
              f"ratio {row['ratio']} {row['quartiles']}, losses within {row['losses_apart']:.0e}, n = {row['n']}")
    if asked.to:
        asked.to.write_text(json.dumps({"machine": describe_machine("cpu"), "rows": found}, indent=1) + "\n")


def main() -> None:
    sides = {name: (partial(networks, width, depth), size) for name, (width, depth, size) in SIZES.items()}
    tell(__doc__, data_for(DataSettings("shapes", augment="none")), SEGMENTATION, sides, by_hand)


if __name__ == "__main__":
    main()
