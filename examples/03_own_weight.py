"""Your own idea: a divergence and a sample weight are functions (student, teacher, labels) -> [B], used at once."""

from functools import partial

import torch
from torch import Tensor

import tutelage as tl
from tutelage import Edge, Frozen, Graph, Trained
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.graph.divergences import cross_entropy
from tutelage.methods.scratch import scratch
from tutelage.models.architecture import Architecture
from tutelage.models.build import build


def total_variation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Half the sum of the absolute differences of the probabilities: 0 at the teacher, at most 1."""
    return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2


def surprise(student: Tensor, teacher: Tensor, labels: Tensor, *, floor: float = 0.0) -> Tensor:
    """More where the teacher is right and the student is not yet sure. The student comes here without gradient."""
    rows = torch.arange(len(labels), device=labels.device)
    right = teacher.argmax(-1) == labels
    return floor + (1 - floor) * right * (1 - student.softmax(-1)[rows, labels])


sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
data = load_data(DataSettings("digits", image_size=8))
models = {name: build(Architecture(arch), class_names=data.classes, channels=1, name=name)
          for name, arch in {"teacher": "resnet14", "student": "resnet8"}.items()}
for _ in tl.train(scratch("teacher"), models, data, epochs=3, optimizer=sgd, batch_size=32):
    pass

graph = Graph(
    {"teacher": Frozen(), "student": Trained()},
    [
        Edge("labels", "student", cross_entropy),
        Edge("teacher", "student", total_variation, sample_weight=partial(surprise, floor=0.2)),
    ],
)
print(graph)
for epoch in tl.train(graph, models, data, epochs=2, optimizer=sgd, batch_size=32):
    print(f"epoch {epoch.number}: " + ", ".join(f"{edge} {loss:.4f}" for edge, loss in epoch.losses.items()))
    print(f"validation: student {epoch.accuracy['student']:.1%}")
