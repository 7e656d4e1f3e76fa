"""The floor of a step: the best that training the students alone can do.

Images already on the device and laid out, the losses from labels alone, each student in the fastest of the formats that
the tuner knows, the same optimizers; recorded, and side by side, where our own steps are.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.data.source import Data
from tutelage.engine.cuda_graph import NetworkStreams, make_capturable, warm_graph
from tutelage.engine.optimizers import make_optimizers
from tutelage.engine.precision import Execution, lay_out, on_device, prepared_for, run_network
from tutelage.engine.settings import Settings
from tutelage.graph import objective
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.system.distributed import World
from tutelage.tasks.named import task_of
from tutelage.tasks.task import Task
from tutelage.types import BatchLabels, Inputs, one_tensor

Step = Callable[[], object]
FromLabels = Callable[[str, Tensor, BatchLabels], Tensor]
"""(student, what it says, labels) -> its loss."""


def by_task(task: Task) -> FromLabels:
    """The loss by which a task learns from labels, as the reference has it; of classes plain cross-entropy."""
    def loss(student: str, said: Tensor, labels: BatchLabels) -> Tensor:
        graph = Graph({student: Trained()}, task.from_labels(student))
        return torch.stack(list(objective.losses(graph, {student: said}, labels).values())).sum()
    return class_loss if task.classifies else loss


def class_loss(student: str, said: Tensor, labels: BatchLabels) -> Tensor:
    """Cross-entropy of one class a sample."""
    return F.cross_entropy(said, one_tensor(labels), ignore_index=-1)


def floor_of(students: Mapping[str, nn.Module], data: Data, settings: Settings, choices: Mapping[str, Execution],
           world: World, *, recorded: bool) -> Step:
    """The floor of a recipe's students: a step on its first batch."""
    (batch,) = data.train.batches([torch.arange(settings.batch_size)], draw=0)
    task, told = task_of(data), on_device(batch, world.device).labels
    labels = data.train.labels[: settings.batch_size].to(world.device) if task.classifies else told
    step = partial(floor_step(students, settings, choices, world, recorded=recorded, loss_of=by_task(task)),
                   laid_out(batch.inputs), labels)
    return warm_graph(step) if recorded else step


def laid_out(given: Inputs) -> dict[bool, Tensor]:
    """The images channels first (False) and channels last (True)."""
    inputs = one_tensor(given)
    if inputs.dim() != 4:
        return {False: inputs, True: inputs}
    return {last: inputs.contiguous(memory_format=torch.channels_last) if last else inputs for last in (False, True)}


def floor_step(students: Mapping[str, nn.Module], settings: Settings, choices: Mapping[str, Execution], world: World,
               gently: float = 1.0, *, recorded: bool = False,
               loss_of: FromLabels = class_loss) -> Callable[[Mapping[bool, Tensor], BatchLabels], Tensor]:
    """(images in both layouts, labels) -> the loss of a step that trains each student, alone, on labels."""
    networks = {node: deepcopy(model).to(world.device).train() for node, model in students.items()}
    for node, network in networks.items():
        lay_out(network, choices[node])
    ready = {node: prepared_for(network, choices[node], frozen=False, tapped=False)
             for node, network in networks.items()}
    optimizers = make_optimizers(settings.optimizer if callable(settings.optimizer) else
                                 {node: make for node, make in settings.optimizer.items() if node in (*networks, "")},
                                 networks)
    slow_down(optimizers.values(), gently)
    if recorded:
        make_capturable(optimizers.values(), world.device)

    def step(inputs: Mapping[bool, Tensor], labels: BatchLabels) -> Tensor:
        losses, lanes = dict[str, Tensor](), NetworkStreams(ready) if recorded else None
        works = {node: partial(learn, node, inputs, labels) for node in ready}
        for node, work in (lanes.branch(works) if lanes else works).items():
            losses[node] = work()
        if lanes:
            lanes.join()
        return torch.stack(list(losses.values())).sum()

    def learn(node: str, inputs: Mapping[bool, Tensor], labels: BatchLabels) -> Tensor:
        logits = run_network(ready[node], choices[node], inputs[choices[node].channels_last], [""])[""]
        optimizers[node].zero_grad(set_to_none=True)
        loss = loss_of(node, logits, labels)
        loss.backward()
        optimizers[node].step()
        return loss.detach()
    return step


def slow_down(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Multiply all learning rates by `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= factor
