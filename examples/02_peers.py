"""One teacher, weighted image by image by how sure it is, and two unlike students that also learn from each other."""

from functools import partial

import torch

import tutelage as tl
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.methods.dual_student import dual_student
from tutelage.methods.scratch import scratch
from tutelage.models.architecture import Architecture
from tutelage.models.build import build

sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
data = load_data(DataSettings("digits", image_size=8))
networks = {"teacher": "resnet14", "resnet8": "resnet8", "mobilenetv2": "mobilenetv2"}
models = {name: build(Architecture(arch), class_names=data.classes, channels=1, name=name)
          for name, arch in networks.items()}

for epoch in tl.train(scratch("teacher"), models, data, epochs=3, optimizer=sgd, batch_size=32):
    print(epoch)

graph = dual_student("teacher", ["resnet8", "mobilenetv2"], peer_warmup=0.2)
print(graph)

# What other tools call a callback is the body of this loop: here it stops early.
for epoch in tl.train(graph, models, data, epochs=2, optimizer=sgd, batch_size=32):
    print({node: f"{share:.1%}" for node, share in epoch.accuracy.items()})
    if min(epoch.accuracy["resnet8"], epoch.accuracy["mobilenetv2"]) > 0.99:
        break

assert data.test is not None
scores = tl.evaluate(graph, models, data.test, classes=len(data.classes))
for node in networks:
    own = scores["nodes"][node]
    print(f"test: {node} {own['top1']:.1%}, calibration error {own['ece']:.3f}")
pair = scores["pairs"]["resnet8|mobilenetv2"]
print(f"the students agree on {pair['agreement']:.1%} of the test images")
