"""Two students, two ways to learn from one teacher: Niyaz, Sambyal & Bathula, arXiv:2212.02931.

The first student learns from the teacher's predictions and from its peer's feature maps, the second from the teacher's
feature maps and from its peer's predictions. With logits z [B, C], feature maps f [B, K, H, W], D_T(a -> b) =
1/B sum_i T^2 KL(softmax(z_a,i / T) || softmax(z_b,i / T)), and n(f) each channel divided by its norm over H x W:

    F(a -> b) = 1/B sum_i 1/(K H W) ||n(P f_b,i) - n(f_a,i)||^2       P: pooled to H x W, then a 1x1 convolution
    L_1 = CE(z_1, y) + soft * D_T(teacher -> 1) + peer_features * F(2 -> 1)
    L_2 = CE(z_2, y) + features * F(teacher -> 2) + peer * D_T_p(1 -> 2)

The gradient of L_k reaches student k and the projections P of its own edges; what it learns from is a target. The paper
says who learns what from whom; the equations, the norm, weights and temperatures are this project's choice.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from tutelage.errors import UsageError, unknown
from tutelage.graph.divergences import mse
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.modules import Projected
from tutelage.graph.nodes import Frozen, Trained
from tutelage.methods.peer_cohort import check_cohort
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.task import Task
from tutelage.types import Features, PerSample

GIVEN = {"predictions": ("predictions",), "features": ("features",), "both": ("predictions", "features"), "none": ()}


def learning_styles(teacher: str, students: Sequence[str], layers: Mapping[str, str], *, soft: float = 1.0,
                    temperature: float = 4.0, features: float = 10.0, peer: float = 1.0, peer_temperature: float = 1.0,
                    peer_features: float = 10.0, from_teacher: Sequence[str] = ("predictions", "features"),
                    from_peer: Sequence[str] = ("features", "predictions"), online: bool = False,
                    task: Task = CLASSIFICATION) -> Graph:
    """Two students learn in two styles from a teacher, and each from what the other has learned.

    `layers` names the layer of each of the three networks whose output are its features. `from_teacher` and
    `from_peer` say for each student what it is given: "predictions", "features", "both" or "none". With `online` the
    teacher is not frozen, but learns from labels beside them. Features are compared place by place where the task says
    how, each place at norm 1, and else as whole maps, each channel at norm 1.
    """
    check_cohort(teacher, students)
    if len(students) != 2:
        raise UsageError("learning_styles is for two students", where="students", found=list(students))
    check_layers(layers, (teacher, *students))
    learners = (teacher, *students) if online else students
    edges = [edge for network in learners for edge in task.from_labels(network)]
    for source, styles, where in ((teacher, from_teacher, "from_teacher"), (None, from_peer, "from_peer")):
        for student, given in zip(students, _styles(styles, where), strict=True):
            other = source or next(name for name in students if name != student)
            if "predictions" in given:
                weight, warm = (soft, temperature) if source else (peer, peer_temperature)
                edges += task.from_network(other, student, weight=weight, temperature=warm)
            if "features" in given:
                edges.append(Edge(f"{other}.{layers[other]}", f"{student}.{layers[student]}",
                                  Projected(channel_mse), features if source else peer_features, rows=task.places))
    return Graph({teacher: Trained() if online else Frozen(), **dict.fromkeys(students, Trained())}, edges)


def channel_mse(student: Features, teacher: Features, labels: object = None) -> PerSample:
    """Mean squared difference of features whose channels have norm 1: how large they are does not count.

    Of maps [B, K, H, W] a channel is H x W numbers, of tokens [B, N, D] it is N; a vector [B, D], such as that of a
    place, is one channel.
    """
    return mse(_unit(student), _unit(teacher), labels)


def _unit(features: Tensor) -> Tensor:
    # A channel that is all 0 stays 0, and its gradient is finite.
    over = (2, 3) if features.dim() == 4 else (1,)
    return features / (features.square().sum(over, keepdim=True) + 1e-8).sqrt()


def check_layers(layers: Mapping[str, object], networks: Sequence[str]) -> None:
    """Each of these networks has a layer, and nothing else has one."""
    for name in layers:
        if name not in networks:
            raise unknown("network", name, networks, where="layers")
    for name in networks:
        if not layers.get(name):
            raise UsageError(f"no layer of the network {name!r} is named", where="layers", found=dict(layers),
                             expected=f'{name} = "LAYER"')


def _styles(styles: Sequence[str], where: str) -> list[tuple[str, ...]]:
    if isinstance(styles, str) or len(styles) != 2:
        raise UsageError("one word for each of the two students is needed", where=where, found=repr(styles))
    for style in styles:
        if style not in GIVEN:
            raise unknown("style", style, GIVEN, where=where)
    return [GIVEN[style] for style in styles]
