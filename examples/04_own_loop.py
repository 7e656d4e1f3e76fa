"""Your own training loop around the heart: `forward` gives every output once, `losses` one number for each edge."""

from functools import partial

import torch

import tutelage as tl
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.methods.dual_student import dual_student
from tutelage.methods.scratch import scratch
from tutelage.models.architecture import Architecture
from tutelage.models.build import build

data = load_data(DataSettings("digits", image_size=8))
networks = {"teacher": "resnet14", "resnet8": "resnet8", "resnet14": "resnet14"}
models = {name: build(Architecture(arch), class_names=data.classes, channels=1, name=name)
          for name, arch in networks.items()}
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
for _ in tl.train(scratch("teacher"), models, data, epochs=3, optimizer=sgd, batch_size=32):
    pass

students = ["resnet8", "resnet14"]
graph = dual_student("teacher", students, peer_warmup=0.5)
models["teacher"].eval().zero_grad()  # in a loop of your own, the modes are yours to set
for student in students:
    models[student].train()
optimizer = torch.optim.SGD([p for student in students for p in models[student].parameters()], lr=0.05, momentum=0.9)

epochs, batch_size = 2, 32
rows = len(data.train.ids)
steps, step = epochs * (rows // batch_size), 0
sums = dict.fromkeys((edge.name for edge in graph.edges), 0.0)
for epoch in range(epochs):
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch))
    plan = order[: rows // batch_size * batch_size].split(batch_size)
    for inputs, labels, _ in data.train.batches(plan, draw=epoch):
        outputs = tl.forward(graph, models, inputs)  # end -> tensor; one pass for each network
        terms = tl.losses(graph, outputs, labels, graph.weights(step / steps))  # edge -> scalar
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # reaches the student ends only
        optimizer.step()
        step += 1
        for edge, term in terms.items():
            sums[edge] += term.item() / steps
    print(f"epoch {epoch + 1} of {epochs}")

for edge, mean in sums.items():
    print(f"mean loss {edge} {mean:.4f}")
untouched = all(parameter.grad is None for parameter in models["teacher"].parameters())
print(f"steps {step}; the teacher has no gradient: {untouched}")
scores = tl.evaluate(graph, models, data.validation, classes=len(data.classes))
for student in students:
    print(f"validation: {student} {scores['nodes'][student]['top1']:.1%}")
