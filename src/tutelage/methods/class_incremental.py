"""Class-incremental learning whose balance adapts itself: Liu, Li, Schiele & Sun, AAAI 2023, arXiv:2301.05032.

Classes come phase by phase. In each the student goes on from the weights of the phase before, on the images of the new
classes and a small memory of the old ones, and learns from itself as it was. Its classifier is a cosine: with features
h [B, D] at norm 1 and one row of norm 1 for each class, the scores are c [B, C] in [-1, 1], the logits a multiple of
them. n classes were seen before, m with those of this phase; all C have an output from the start.

    L = CE over the m seen classes
      + features * 5 sqrt(n / classes of a phase) * 1/B sum_i (1 - <h_i, h_old,i>)
      + soft * 0.25 T^2 * 1/B sum_i KL over the n old classes(z_old,i / T || z_i / T)
      + margin * mean over images of old classes, and over the 2 best new classes j, of max(0, 0.5 - c_y + c_j)

The gradient reaches the student alone. How strong `features` and `soft` are is chosen in each phase by trying some on
what is in memory: `tutelage.recipes.class_phases`.

The four terms and their constants are those of the authors' code. The procedure around them is simpler: there the rows
of old classes in the classifier stand still, rows of new classes start as the mean of their features, the multiple of
the cosines is learned, the network's last ReLU is left out, the actions are finer and include learning rates and the
kind of classifier, and classes come in the order of another generator. Numbers of the paper are not to be compared with
these.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from tutelage.data.splits import classes_of
from tutelage.errors import UsageError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.models.wrappers import COSINE, FEATURES
from tutelage.types import Labels, Logits, PerSample, hard_labels

BEFORE = "before"
PHASES = True
"""Each run depends on what those before it have found: `recipes.class_phases` trains them."""
FEATURE_SCALE, SOFT_SCALE, MARGIN, RIVALS = 5.0, 0.25, 0.5, 2

Start = Literal["even", "half"]
Policy = Literal["exp3", "exp3_released", "grid", "fixed"]


def class_incremental(student: str, *, phases: int = 5, start: Start = "even", features: float = 1.0, soft: float = 0.0,
                      margin: float = 1.0, temperature: float = 2.0, exemplars: int = 20, policy: Policy = "exp3",
                      actions: Sequence[tuple[float, float]] = ((0.1, 0.1), (1.0, 0.1), (0.1, 1.0), (1.0, 1.0)),
                      rounds: int = 4, trial_epochs: int = 2, rate: float = 0.1, order: int = 1993) -> list[Graph]:
    """A student learns the classes in `phases` runs, all alike ("even") or half of the classes in the first ("half").

    `exemplars` images of each class are kept. Unless `policy` is "fixed", phases after the first try `rounds` times a
    pair (features, soft) of `actions`, each for `trial_epochs`, and choose one; `rate` is that of Exp3. `order` seeds
    the order of the classes.
    """
    for name, value, low, high in (("phases", phases, 2, 1000), ("features", features, 0, 1e6), ("soft", soft, 0, 1e6),
                                   ("margin", margin, 0, 1e6), ("exemplars", exemplars, 2, 1e6),
                                   ("rounds", rounds, 1, 1e6), ("trial_epochs", trial_epochs, 1, 1e6),
                                   ("rate", rate, 0, 1)):
        if not low <= value <= high:
            raise UsageError("an option out of range", where=name, found=value, expected=f"{low:g} .. {high:g}")
    if not actions or any(len(pair) != 2 or not all(0 <= x < math.inf for x in pair) for pair in actions):
        raise UsageError("not a set of actions", where="actions", found=actions,
                         expected="a list of [features, soft], each 0 or more")
    if student == BEFORE:
        raise UsageError("this name is taken by a node of the method's own", where="student", found=repr(student))
    graphs = []
    for phase in range(phases):
        task = partial(classes_of, phase=phase, phases=phases, start=start, order=order)
        edges = [Edge("labels", student, partial(seen_cross_entropy, task=task))]
        if phase == 0:
            graphs.append(Graph({student: Trained()}, edges))
            continue
        strength = features * FEATURE_SCALE * math.sqrt(phase if start == "even" else phases - 2 + phase)
        edges += [
            Edge(f"{BEFORE}.{FEATURES}", f"{student}.{FEATURES}", cosine_distance, strength),
            Edge(BEFORE, student, partial(old_kl, task=task, temperature=temperature), SOFT_SCALE * soft),
            Edge("labels", f"{student}.{COSINE}", partial(margin_ranking, task=task), margin),
        ]
        graphs.append(Graph({BEFORE: Frozen(before=student), student: Trained(before=student)}, edges))
    return graphs


def seen_cross_entropy(student: Logits, teacher: Labels, labels: Labels, *, task: partial) -> PerSample:
    """Cross-entropy over the classes of this phase and those before: [B], 0 for a row without a label."""
    seen = torch.cat(task(student.shape[-1])).to(student.device)
    if teacher.is_floating_point():
        return cross_entropy(student[:, seen], teacher[:, seen], teacher[:, seen])
    places = torch.full((student.shape[-1],), -1, device=student.device).index_put((seen,), _numbers(seen))
    own = places[teacher.clamp(min=0)].where(teacher >= 0, -1)
    return cross_entropy(student[:, seen], own, own)


def old_kl(student: Logits, teacher: Logits, labels: object = None, *, task: partial, temperature: float) -> PerSample:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) over the classes seen before this phase, in nats: [B]."""
    old = task(student.shape[-1])[0].to(student.device)
    return temperature**2 * kl(student[:, old] / temperature, teacher[:, old] / temperature)


def cosine_distance(student: Tensor, teacher: Tensor, labels: object = None) -> PerSample:
    """1 - <student, teacher> of rows [B, D] at norm 1: in [0, 2]."""
    return 1 - (student * teacher).sum(-1)


def margin_ranking(student: Logits, teacher: Labels, labels: Labels, *, task: partial) -> PerSample:
    """How far the best new classes come within 0.5 of the label of an image of an old class, as cosines: [B].

    The mean over these classes, two or as many as there are; 0 for every other row; scaled by B / (images of old
    classes), so that the mean over rows is that over these.
    """
    old, new = (classes.to(student.device) for classes in task(student.shape[-1]))
    labels = hard_labels(labels)
    is_old = torch.isin(labels, old)
    right = student.gather(-1, labels.clamp(min=0)[:, None])
    rivals = student[:, new].topk(min(RIVALS, len(new)), -1).values
    return (MARGIN - right + rivals).clamp(min=0).mean(-1) * is_old * (len(labels) / is_old.sum().clamp(min=1))


def _numbers(like: Tensor) -> Tensor:
    return torch.arange(len(like), device=like.device)
