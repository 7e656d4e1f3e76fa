"""The training loop that most people write: images through PIL one by one, float32, every loss by itself.

It is here to be measured against, and to be agreed with: nothing of it is shared with the loop of the package, so
where both compute the same losses step for step, a difference in time is no difference in work.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from tutelage.data.augment import Augmentation
from tutelage.data.memory import MemorySource
from tutelage.data.source import Data, Source
from tutelage.data.stream import KeptSource, StreamSource
from tutelage.engine.settings import Settings
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.graph import Graph
from tutelage.graph.naming import unbound
from tutelage.graph.nodes import Computed, Frozen, Trained
from tutelage.graph.objective import edge_loss
from tutelage.graph.sample_weights import entropy
from tutelage.types import Batch, one_tensor

Loss = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""(node -> logits, labels) -> the loss of all."""


def is_plain(graph: Graph) -> bool:
    """Whether a graph is what such a loop is written for: teachers, students, and losses between their logits.

    Losses may have sample weights that a function makes of the logits.
    """
    networks = {node for node, kind in graph.nodes.items() if isinstance(kind, Frozen | Trained)}
    weights = {node: kind for node, kind in graph.nodes.items() if isinstance(kind, Computed)}
    made = all({*kind.of} <= networks and not isinstance(unbound(kind.by), nn.Module) for kind in weights.values())
    plain = networks | {"labels"}
    edges = all({edge.student, edge.teacher} <= plain and {*edge.ends} <= plain | {*weights} for edge in graph.edges)
    return made and edges and networks | {*weights} == {*graph.nodes} and not graph.controllers


def without_peers(graph: Graph, student: str) -> Graph:
    """One of the students without the others: what it learns from labels and frozen networks."""
    edges = [edge for edge in graph.edges
             if edge.student == student and not isinstance(graph.nodes.get(edge.teacher), Trained)]
    named = {student, *(end for edge in edges for end in edge.ends)} - {"labels"}
    named |= {end for node in named if isinstance(kind := graph.nodes[node], Computed) for end in kind.of}
    return Graph({node: kind for node, kind in graph.nodes.items() if node in named}, edges)


def by_hand(graph: Graph, models: Mapping[str, nn.Module], data: Data, settings: Settings,
            device: torch.device) -> Callable[[], Tensor]:
    """A step of that loop, on copies of the models; it gives the loss and goes round the first images."""
    networks = copies_on(graph, models, device)
    optimizers = optimizers_of(graph, networks, settings)
    pictures, labels = _pictures(data, 4, settings.batch_size)
    draw, step = draw_by_pil(policy(data.train), data.shape), partial(hand_step, loss_by_hand(graph), graph, networks)
    size, place = settings.batch_size, 0

    def next_step() -> Tensor:
        nonlocal place
        rows = range(place, place + size)
        place = rows.stop % len(pictures)
        inputs = torch.stack([draw(pictures[row]) for row in rows])
        batch = Batch(inputs.to(device), labels[rows.start : rows.stop].to(device), torch.arange(size))
        loss = step(optimizers, batch)
        loss.item()  # for a meter
        return loss
    return next_step


def copies_on(graph: Graph, models: Mapping[str, nn.Module], device: torch.device) -> dict[str, nn.Module]:
    """Copies of the networks that the graph names, in the modes they are trained in."""
    return {node: deepcopy(models[node]).to(device).train(isinstance(kind, Trained))
            for node, kind in graph.nodes.items() if not isinstance(kind, Computed)}


def optimizers_of(graph: Graph, networks: Mapping[str, nn.Module], settings: Settings) -> list[torch.optim.Optimizer]:
    """The optimizers of the settings, as one calls them without knowing of fused ones."""
    given = settings.optimizer
    made = []
    for node in graph.named(Trained):
        make = given if callable(given) else given.get(node, given.get(""))
        assert make is not None, "every network has an optimizer"
        made.append(make(networks[node].parameters()))
    return made


def hand_step(loss: Loss, graph: Graph, networks: Mapping[str, nn.Module],
              optimizers: Sequence[torch.optim.Optimizer], batch: Batch) -> Tensor:
    """Forward, backward, update; the loss."""
    outputs = {}
    for node, network in networks.items():
        with torch.set_grad_enabled(isinstance(graph.nodes[node], Trained)):
            outputs[node] = network(batch.inputs)
    for node, kind in graph.nodes.items():
        if isinstance(kind, Computed):
            outputs[node] = kind.by(*(outputs[end] for end in kind.of))
    total = loss(outputs, one_tensor(batch.labels))
    for optimizer in optimizers:
        optimizer.zero_grad()
    total.backward()
    for optimizer in optimizers:
        optimizer.step()
    return total.detach()


def loss_by_hand(graph: Graph) -> Loss:
    """The losses of a graph, each written out (cross-entropy, KL, the weight by entropy), one after the other."""
    terms = [(edge, weight) for edge in graph.edges if (weight := edge.weight_at(0.0)) > 0]

    def loss(outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        total, sure = torch.zeros((), device=labels.device), dict[str, Tensor]()
        for edge, weight in terms:
            if edge.divergence not in _DIVERGENCES or edge.sample_weight not in (None, *_WEIGHTS):
                total = total + edge_loss(edge, dict(outputs), labels, weight)
                continue
            target = labels if edge.teacher == "labels" else outputs[edge.teacher].detach()
            rows = _DIVERGENCES[edge.divergence](outputs[edge.student], target, edge.temperature)
            if edge.sample_weight in _WEIGHTS:
                if edge.teacher not in sure:
                    sure[edge.teacher] = _WEIGHTS[edge.sample_weight](target)
                rows = sure[edge.teacher] * rows
            total = total + weight * rows.mean()
        return total
    return loss


def policy(source: Source) -> Augmentation:
    """How the images of a source are drawn; not at all where that is not known."""
    match source:
        case KeptSource():
            return source.stream.how
        case MemorySource() | StreamSource():
            return source.how
    return Augmentation()


def draw_by_pil(how: Augmentation, shape: tuple[int, ...]) -> Callable[[Image.Image], Tensor]:
    """The same distribution of images, by torchvision's transforms of one PIL image; mixtures are left out."""
    steps: list[Callable] = []
    if how.randaugment:
        steps.append(transforms.RandAugment(2, 9))
    if how.resized_crop:
        steps.append(transforms.RandomResizedCrop(shape[1:]))
    if how.padding:
        steps.append(transforms.RandomCrop(shape[1:], padding=how.padding))
    if how.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, transforms.ToTensor()])


def _pictures(data: Data, batches: int, size: int) -> tuple[list[Image.Image], Tensor]:
    """The first images, in whole batches, as PIL has them."""
    rows = torch.arange(min(batches, len(data.train.ids) // size) * size)
    (batch,) = data.train.batches([rows], draw=None)
    images = (one_tensor(batch.inputs) * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1)
    grey = images.shape[-1] == 1
    shown = [Image.fromarray(image[..., 0].numpy() if grey else image.numpy()) for image in images]
    return shown, one_tensor(batch.labels).cpu()


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    rows = F.kl_div(F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="none")
    return temperature**2 * rows.sum(-1)


def _cross_entropy(student: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy(student, labels, ignore_index=-1, reduction="none")


def _certainty(teacher: Tensor) -> Tensor:
    p = teacher.softmax(-1)
    return 1 + (p * p.clamp_min(1e-30).log()).sum(-1) / math.log(p.shape[-1])


_DIVERGENCES: Mapping[object, Callable[[Tensor, Tensor, float], Tensor]] = {cross_entropy: _cross_entropy, kl: _kl}
_WEIGHTS: Mapping[object, Callable[[Tensor], Tensor]] = {entropy: _certainty}
"""What most people write for these."""
