"""The teacher of the comparison: torchvision's resnet50, trained for a few steps or not at all, its BatchNorm measured.

An untrained network keeps its BatchNorm statistics of mean 0 and variance 1 and then says the same of every image;
so they are always taken from images.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from work import BATCH, SGD, make_work

from tutelage.system.files import write
from tutelage.system.machine import keep_memory


def main(steps: int, to: Path) -> None:
    """Train for so many steps, measure BatchNorm over ten batches, write the weights."""
    import safetensors.torch

    keep_memory()
    torch.set_num_threads(1)
    work = make_work(None)
    network, source = work.models["teacher"], work.data.train
    optimizer = SGD(network.parameters(), lr=0.02)
    network.train()
    for step in range(steps):
        rows = torch.randperm(len(source.ids), generator=torch.Generator().manual_seed(step))[:BATCH]
        (batch,) = source.batches([rows], draw=step)
        optimizer.zero_grad()
        F.cross_entropy(network(batch.inputs), batch.labels).backward()
        optimizer.step()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in source.batches(torch.arange(10 * BATCH).split(BATCH), draw=0):
            network(batch.inputs)
    write(to, safetensors.torch.save(network.body.state_dict()))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
