"""PeerAiD, adversarial distillation from a specialized peer tutor: Jung et al., CVPR 2024, arXiv:2403.06668.

Two networks start together. The peer learns on the images that are to make the student err, so that it becomes good at
these, and helps the student on them. With images x in [0, 1], peer P, student S, logits [B, C], labels y:

    x* = argmax over |x' - x| <= eps of KL(P(x) || S(x')), by `steps` sign steps from x + 0.001 N(0, 1)
    L_peer    = peer_hard CE(P(x*), y) + peer_soft T_p^2 KL(S(x*) || P(x*))
    L_student = hard CE(S(x*), y) + soft T^2 KL(P(x*) || S(x*)) + consistency T^2 KL(S(x) || S(x*))

each KL of softmax(logits / T), means over the batch. The student passes over x* once; the authors' code passes twice,
so that its BatchNorm statistics see more of x* than of x: `twice` does that too. The gradient of L_peer reaches the
peer, that of L_student the student; as in the authors' code that of KL(S(x*) || P(x*)) reaches the student too, and
that of KL(S(x) || S(x*)) both its ends, unless they are detached. Nothing learns by the attack, in which both networks
are in eval mode.

The code takes the mean of KL over the classes too, "element_mean" here, which divides these terms by C. Weights and
temperatures are those of its CIFAR-10 run; for sums over the classes, the default, they are divided by 10 here, so that
on ten classes both are the same. Its average of the student's weights over the last epochs is not here.
"""

import math

from tutelage.errors import UsageError, unknown
from tutelage.graph.divergences import cross_entropy, kl, reverse_kl
from tutelage.graph.edge import Edge
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Trained
from tutelage.tasks.classification.attacks import VIEW, Adversary, Attack
from tutelage.types import Logits, PerSample

WEIGHTS = {"batchmean": (0.1, 0.1, 0.01), "element_mean": (1.0, 1.0, 0.1)}
"""`soft`, `consistency` and `peer_soft`, by how KL is reduced."""


def peeraid(peer: str, student: str, *, temperature: float = 5.0, peer_temperature: float = 1.0, hard: float = 0.0,
            soft: float | None = None, consistency: float | None = None, peer_hard: float = 1.0,
            peer_soft: float | None = None, reduction: str = "batchmean", detach_student: bool = False,
            detach_clean: bool = False, eps: float = 8 / 255, step_size: float = 2 / 255,
            steps: int = 10, noise: float = 0.001, twice: bool = False) -> Graph:
    """A student and a peer start together; the peer specialises in the student's adversarial examples and helps it.

    `soft`, `consistency` and `peer_soft` are 0.1, 0.1 and 0.01, and 1, 1 and 0.1 if `reduction` is "element_mean".
    `detach_student`: the peer's loss does not train the student. `detach_clean`: the consistency does not train what
    the student says of the plain image. `twice`: x* moves the student's statistics once more in each step.
    """
    if peer == student:
        raise UsageError("a network cannot be its own peer", where="peer", found=repr(peer))
    if reduction not in WEIGHTS:
        raise unknown("reduction", reduction, WEIGHTS, where="reduction")
    if not 0 <= noise < math.inf:
        raise UsageError("a noise that cannot be", where="noise", found=noise, expected="0 or more")
    given = zip((soft, consistency, peer_soft), WEIGHTS[reduction], strict=True)
    soft, consistency, peer_soft = (usual if weight is None else weight for weight, usual in given)
    forward, mirrored = (kl, reverse_kl) if reduction == "batchmean" else (element_mean_kl, element_mean_reverse_kl)
    adversary = Adversary(peer, student, Attack(eps, step_size, steps), noise, twice)
    hurt, aid = f"{student}@{VIEW}", f"{peer}@{VIEW}"
    edges = [Edge("labels", aid, cross_entropy, peer_hard), Edge(hurt, aid, forward, peer_soft, peer_temperature),
             Edge("labels", hurt, cross_entropy, hard), Edge(aid, hurt, forward, soft, temperature),
             Edge(student, hurt, forward, consistency, temperature)]
    if not detach_student:
        edges.append(Edge(aid, hurt, mirrored, peer_soft, peer_temperature))
    if not detach_clean:
        edges.append(Edge(hurt, student, mirrored, consistency, temperature))
    return Graph({peer: Trained(), student: Trained()}, edges, {"adversary": adversary})


def element_mean_kl(student: Logits, teacher: Logits, labels: object = None) -> PerSample:
    """KL(teacher || student) / C."""
    return kl(student, teacher) / student.shape[-1]


def element_mean_reverse_kl(student: Logits, teacher: Logits, labels: object = None) -> PerSample:
    """KL(student || teacher) / C."""
    return reverse_kl(student, teacher) / student.shape[-1]
