"""AKD, context-aware distillation with adaptive weighting: Li, arXiv:2509.05319.

The balance between labels and a frozen teacher adapts, and a module looks at both predictions and weighs the teacher's
logits class by class before the student hears them. On rows of logits [B, C], h the weight of the labels,

    L = 1/B sum_i [h_i CE(z_student,i, y_i) + (1 - h_i) T^2 KL(softmax(a z_teacher,i / T) || softmax(z_student,i / T))]

Three ideas, each of which can be switched off: h learns ("learnable"), h follows from how far the student is from the
teacher ("discrepancy"), and the weights a [B, C] are a module's (`context`). The paper has these three; their equations
were not at hand, so those below, and all numbers, are this project's choice.

    learnable     h = low + (high - low) sigmoid(r), by the gradient of L - entropy_bonus * H(h, 1 - h) for r alone
    held_out      the same h, by the gradient for r alone of the labels' loss on held-out images after one step,
                  L_held-out(w - e dL/dw), w the student's weights and e its learning rate: with the gradients g_labels
                  and g_teacher of the two terms of L, dL_held-out/dh = -e <dL_held-out/dw, g_labels - g_teacher>
    discrepancy   h = high - (high - low) d, d the running mean of sum_c |p_teacher,c - p_student,c| / 2 over batches
    per_sample    the same with each row's own distance
    context       a = 2 sigmoid(MLP and attention over classes), by the gradient of CE(a z_teacher, y)
                  + closeness * mean_c (a - 1)^2 for the module alone

The gradient of L reaches the student alone: were the module trained by L, it could flatten the teacher.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tutelage.errors import DataError, ModelError, UsageError, unknown
from tutelage.graph.controller import Controller, RunView
from tutelage.graph.divergences import cross_entropy, kl, value
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Computed, Frozen, Kind, Trained
from tutelage.graph.sample_weights import discrepancy, labelled
from tutelage.graph.taps import logits_of
from tutelage.system.distributed import World, average
from tutelage.system.random import derive, permutation
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task, for_classes_alone
from tutelage.types import Batch, Labels, Logits, PerSample, one_tensor, plain_view

LEARNED = ("learnable", "held_out")
BALANCES = (*LEARNED, "discrepancy", "per_sample", "fixed")
FOR = Task.has_choices
"""Which tasks the method is for."""
SLOWLY = 0.01
"""How much slower than the networks the learnable balance moves, under SGD: it has the learning rate that they have."""


def akd(teacher: str, student: str, *, temperature: float = 4.0, balance: str = "learnable",
        context: bool | None = None, hard: float = 0.5, low: float = 0.1, high: float = 0.9,
        entropy_bonus: float = 0.1, closeness: float = 0.1, task: Task = CLASSIFICATION) -> Graph:
    """The student learns from labels and a frozen teacher; their balance adapts, and so does what the teacher says.

    `balance` is "learnable", "held_out", "discrepancy", "per_sample" or "fixed". `hard` is the labels' weight h: all
    along if it is fixed, at the start if it learns; `low` and `high` bound it. `entropy_bonus` keeps a learnable h from
    running to the smaller loss; `closeness` holds the module's weights near 1. "held_out" takes a batch of validation
    images for each step. `context` is, unless it is given, there for classes of whole samples.
    """
    if teacher == student:
        raise UsageError("a network cannot be its own teacher", where="teacher", found=teacher)
    _check(balance, hard, low, high, entropy_bonus)
    context = _check_task(task, balance, context)
    source, judge = f"{teacher}_context" if context else teacher, f"{student}_balance"
    nodes: dict[str, Kind] = {teacher: Frozen(), student: Trained()}
    edges, controllers = list[Edge](), dict[str, Controller]()
    if context:
        nodes[source] = Computed((teacher, student), Context())
        edges += [*task.from_labels(source), Edge("labels", f"{source}.change", value, weight=closeness)]
    if balance == "fixed":
        edges += [*task.from_labels(student, weight=hard),
                  *task.from_network(source, student, weight=1 - hard, temperature=temperature)]
        return Graph(nodes, edges)
    if balance == "learnable":
        nodes[judge] = own = task.computed(Learnable(hard, low, high, temperature, entropy_bonus), student, source,
                                           labels=True)
        edges.append(Edge(task.label_end, f"{judge}.loss", value, weight=SLOWLY, rows=own.rows))
    elif balance == "held_out":
        nodes[judge] = Computed((student,), HeldOut(hard, low, high))
        edges.append(Edge("labels", f"{judge}.loss", value))  # its gradient has the learning rate in it already
        controllers["look_ahead"] = LookAhead(teacher, student, judge, source if context else None, temperature)
    elif balance == "discrepancy":
        nodes[judge] = task.computed(Discrepancy(low, high), student, teacher, labels=task.has_parts())
    else:
        nodes[judge] = task.computed(partial(by_sample, low=low, high=high), student, teacher)
    edges += [*task.from_labels(student, sample_weight=judge, rest=hard),
              *task.from_network(source, student, temperature=temperature, sample_weight=f"{judge}.soft",
                                 rest=1 - hard)]
    return Graph(nodes, edges, controllers)


def _check_task(task: Task, balance: str, context: bool | None) -> bool:
    """Whether there is a context; UsageError for what the task does not have."""
    if not task.has_choices():
        raise UsageError("akd is for tasks in which a network chooses among several", where="task", found=task.name)
    if context and not task.classifies:
        raise for_classes_alone("the context", task, "context")
    if balance == "held_out" and task != CLASSIFICATION:
        raise for_classes_alone('balance = "held_out"', task, "balance")
    return task.classifies if context is None else context


def _check(balance: str, hard: float, low: float, high: float, entropy_bonus: float) -> None:
    if balance not in BALANCES:
        raise unknown("balance", balance, BALANCES, where="balance")
    if not 0 <= low < high <= 1:
        raise UsageError("bounds that cannot be", where="low, high", found=f"low = {low}, high = {high}",
                         expected="0 <= low < high <= 1")
    if not 0 <= hard <= 1 or (balance in LEARNED and not low < hard < high):
        raise UsageError("a weight of the labels that cannot be", where="hard", found=hard,
                         expected="between low and high" if balance in LEARNED else "0 .. 1")
    if not 0 <= entropy_bonus < math.inf:
        raise UsageError("a bonus that cannot be", where="entropy_bonus", found=entropy_bonus, expected="0 or more")


class Learnable(nn.Module):
    """A balance that learns: h of every row [B]; taps `soft` [B], 1 - h, and `loss` [B], what r minimises.

    Plain descent moves h towards the smaller loss; the entropy bonus draws it to 1/2.
    """

    def __init__(self, hard: float, low: float, high: float, temperature: float, entropy_bonus: float) -> None:
        super().__init__()
        self.low, self.high, self.temperature, self.entropy_bonus = low, high, temperature, entropy_bonus
        self.r = _parameter(hard, low, high)

    def forward(self, student: Logits, teacher: Logits, labels: Labels) -> dict[str, Tensor]:
        """(student, teacher, labels) -> h, 1 - h and the balance's own loss, each [B]."""
        student, teacher, T = student.detach(), teacher.detach(), self.temperature  # noqa: N806 - the equation's name
        h = _bounded(self.r, self.low, self.high).to(student.dtype).expand(len(student))
        rows = h * cross_entropy(student, labels) + (1 - h) * T**2 * kl(student / T, teacher / T)
        least = torch.finfo(h.dtype).tiny  # at 0 the entropy's slope is infinite
        entropy = torch.special.entr(h.clamp(min=least)) + torch.special.entr((1 - h).clamp(min=least))
        return {"logits": h, "soft": 1 - h, "loss": rows - self.entropy_bonus * entropy}


def _parameter(hard: float, low: float, high: float) -> nn.Parameter:
    share = (hard - low) / (high - low)
    return nn.Parameter(torch.tensor(math.log(share / (1 - share))))


def _bounded(r: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * r.sigmoid()


class HeldOut(nn.Module):
    """A balance that learns from held-out images: h of every row [B]; taps `soft`, 1 - h, and `loss`, h * slope, [B].

    `slope` is dL_held-out/dh, which `LookAhead` sets before each step; it is no state.
    """

    slope: Tensor

    def __init__(self, hard: float, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.r = _parameter(hard, low, high)
        self.register_buffer("slope", torch.zeros(()), persistent=False)

    @property
    def hard(self) -> Tensor:
        """h now, a scalar."""
        return _bounded(self.r, self.low, self.high)

    def forward(self, student: Logits) -> dict[str, Tensor]:
        """student -> h, 1 - h and the balance's own loss, each [B]."""
        h = self.hard.to(student.dtype).expand(len(student))
        return {"logits": h, "soft": 1 - h, "loss": h * self.slope}


class LookAhead(Controller):
    """Takes the next step of the student for trial, and tells the balance how h would change a held-out loss by it.

    The step is one of plain descent at the step's learning rate, with the statistics of each batch. Held-out images are
    validation images with a label, as many as a micro-batch has, drawn by (seed, step). With accumulation each
    micro-batch looks ahead by itself. No weight, statistic or gradient is touched. The student runs forward twice and
    backward three times more, in float32.
    """

    def __init__(self, teacher: str, student: str, judge: str, context: str | None, temperature: float) -> None:
        super().__init__()
        self.teacher, self.student, self.judge, self.context = teacher, student, judge, context
        self.temperature = temperature

    def before_forward(self, run: RunView, batch: Batch) -> Batch:
        """Set the balance's slope."""
        student, balance = run.models[self.student], run.graph.parts()[self.judge]
        assert isinstance(balance, HeldOut)
        rate, h = run.optimizers[self.student].param_groups[0]["lr"], balance.hard.detach()
        weights: dict[str, Tensor] = {name: weight for name, weight in student.named_parameters()
                                      if weight.requires_grad}
        hard, soft = (_gradients(term, weights, run.world) for term in self._terms(run, weights, batch))
        ahead = {name: (weight.detach() - rate * (h * x + (1 - h) * y)).requires_grad_()
                 for (name, weight), x, y in zip(weights.items(), hard, soft, strict=True)}
        images, labels = _held_out(run, batch.ids.device)
        loss = cross_entropy(_said(student, ahead, images), labels).mean()
        pull = _gradients(loss, ahead, run.world)
        balance.slope.copy_(-rate * sum(((x - y) * z).sum() for x, y, z in zip(hard, soft, pull, strict=True)))
        return batch

    def _terms(self, run: RunView, weights: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """The two terms of L on this rank's rows: the labels', and the teacher's."""
        images = one_tensor(plain_view(batch.inputs))
        said, T = _said(run.models[self.student], weights, images), self.temperature  # noqa: N806 - the equation's name
        with torch.no_grad():
            heard = run.logits(self.teacher, images)
            if self.context is not None:
                heard = run.graph.parts()[self.context](heard, said)["logits"]
        return cross_entropy(said, one_tensor(batch.labels)).mean(), T**2 * kl(said / T, heard / T).mean()


def _said(network: nn.Module, weights: dict[str, Tensor], images: Tensor) -> Logits:
    """What the network says with these weights; its own statistics stay as they are."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return logits_of(functional_call(network, {**weights, **buffers}, (images,)))


def _gradients(loss: Tensor, weights: dict[str, Tensor], world: World) -> list[Tensor]:
    """The gradients of the mean of the loss over the ranks."""
    found = list(torch.autograd.grad(loss, list(weights.values()), retain_graph=True, materialize_grads=True))
    average(found, world)
    return found


def _held_out(run: RunView, device: torch.device) -> tuple[Tensor, Labels]:
    """This rank's share of some labelled validation images, and their labels."""
    source, world = run.data.validation, run.world
    rows = (source.labels >= 0).nonzero()[:, 0]
    count = min(len(rows) // world.size * world.size, run.settings.batch_size // run.settings.accumulate)
    if count < 2 * world.size:
        raise DataError("there is too little to look ahead to", found=f"{len(rows)} validation images with a label",
                        expected="two or more for each rank")
    chosen = rows[permutation(derive(run.settings.seed, "held out", run.step, run.micro), len(rows))[:count]]
    batch = next(iter(source.batches([world.own(chosen)], draw=None)))
    return one_tensor(batch.inputs).to(device), one_tensor(batch.labels).to(device)


class Discrepancy(nn.Module):
    """A balance by the running mean of how far the student is from the teacher; it remembers, and learns nothing.

    d <- 0.9 d + 0.1 (mean over the batch), begun by the first batch. It is h of every row [B]; tap `soft`, 1 - h.
    """

    distance: Tensor
    batches: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.register_buffer("distance", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Logits, teacher: Logits, labels: Labels | None = None) -> dict[str, Tensor]:
        """(student, teacher) -> h and 1 - h, each [B]; with labels the mean is that over the rows that have one."""
        apart = discrepancy(student.detach(), teacher.detach())
        share = None if labels is None else labelled(student, teacher, labels)
        now = apart.mean() if share is None else (apart * share).sum() / share.sum().clamp(min=1)
        now = torch.where(self.batches == 0, now, 0.9 * self.distance + 0.1 * now)
        if self.training:
            self.distance.copy_(now)
            self.batches += 1
        return _balanced(now.expand(len(student)), self.low, self.high)


def by_sample(student: Logits, teacher: Logits, *, low: float, high: float) -> dict[str, Tensor]:
    """A balance by how far the student is from the teacher on each row: h [B]; tap `soft`, 1 - h."""
    return _balanced(discrepancy(student.detach(), teacher.detach()), low, high)


def _balanced(distance: PerSample, low: float, high: float) -> dict[str, Tensor]:
    """Far from the teacher the student listens to the teacher, close to it to the labels."""
    hard = high - (high - low) * distance
    return {"logits": hard, "soft": 1 - hard}


class Context(nn.Module):
    """Weighs the teacher's logits class by class, seeing both predictions; at first every weight is 1.

    With u, v the centred logits of teacher and student [B, C], m = MLP([u, v]) [B, C]: class c is the token
    W [u_c, v_c, m_c] of width 16, one head of self-attention over the C tokens gives r [B, C], and a = 2 sigmoid(r).
    Logits: z_teacher + (a - 1) u, which a softmax takes for a u. Tap `change`: mean_c (a - 1)^2, [B].
    Attention takes B * C * C numbers. The student is looked at and not trained.
    """

    WIDTH = 16

    def __init__(self) -> None:
        super().__init__()
        self.mlp: nn.Module | None = None

    def forward(self, teacher: Logits, student: Logits) -> dict[str, Tensor]:
        """(teacher, student) -> re-weighted logits [B, C] and how far the weights are from 1 [B]."""
        teacher, student = teacher.detach(), student.detach()
        if self.mlp is None:
            self._make(teacher)
        assert self.mlp is not None
        u, v = (z - z.mean(-1, keepdim=True) for z in (teacher, student))
        tokens = self.token(torch.stack([u, v, self.mlp(torch.cat([u, v], -1))], -1))
        query, key, content = self.attention(tokens).chunk(3, -1)
        heeded = (query @ key.mT / math.sqrt(self.WIDTH)).softmax(-1) @ content
        extra = 2 * self.out(heeded)[..., 0].sigmoid() - 1
        return {"logits": teacher + extra * u, "change": extra.square().mean(-1)}

    def _make(self, like: Logits) -> None:
        classes, where = like.shape[-1], {"device": like.device, "dtype": like.dtype}
        if classes < 2:
            raise ModelError("there is nothing to weigh between classes", found=f"{classes} class",
                             expected="two or more")
        hidden = max(32, 4 * classes)
        self.mlp = nn.Sequential(nn.Linear(2 * classes, hidden, **where), nn.GELU(),
                                 nn.Linear(hidden, classes, **where))
        self.token = nn.Linear(3, self.WIDTH, bias=False, **where)
        self.attention = nn.Linear(self.WIDTH, 3 * self.WIDTH, bias=False, **where)
        self.out = nn.Linear(self.WIDTH, 1, **where)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
