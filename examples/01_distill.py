"""A frozen teacher and a small student on the handwritten digits that come with scikit-learn."""

from functools import partial

import torch

import tutelage as tl
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.methods.distill import distill
from tutelage.methods.scratch import scratch
from tutelage.models.architecture import Architecture
from tutelage.models.build import build

sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
data = load_data(DataSettings("digits", image_size=8))  # images [B, 1, 8, 8], ten classes
models = {name: build(Architecture(arch), class_names=data.classes, channels=1, name=name)
          for name, arch in {"teacher": "resnet14", "student": "resnet8"}.items()}

for epoch in tl.train(scratch("teacher"), models, data, epochs=3, optimizer=sgd, batch_size=32):
    print(epoch)

graph = distill("teacher", "student", temperature=4.0)
print(graph)
for epoch in tl.train(graph, models, data, epochs=2, optimizer=sgd, batch_size=32):
    print(epoch)

assert data.test is not None
scores = tl.evaluate(graph, models, data.test, classes=len(data.classes))
for node in ("teacher", "student"):
    count = sum(parameter.numel() for parameter in models[node].parameters())
    print(f"test: {node} {scores['nodes'][node]['top1']:.1%}, {count} parameters")
