"""Supervision complexity: how hard the targets of a teacher are for the kernel of a student.

Harutyunyan et al., "Supervision complexity and its role in knowledge distillation", ICLR 2023, arXiv:2301.12245. For
targets Y [n, d] and a kernel matrix K [n d, n d], symmetric and positive semi-definite,

    complexity = sqrt(vec(Y)' K^-1 vec(Y))                  the norm of the smoothest function that meets the targets
    adjusted   = sqrt(vec(Y)' K^-1 vec(Y) * tr K) / n       the same whatever the scale of K

K is the neural tangent kernel, K = J J' with J [n d, P] the derivatives of n images' d logits by the P parameters. A
shared kernel [n, n] stands for K = kernel x identity of d: `ntk` gives the mean over the logits of J_c J_c', which is
the nearest such K to the exact one in Frobenius' norm. Everything is in float64. The paper itself was not at hand: the
formulas, a small number on the diagonal, centred targets and the shared kernel are what this project chose to compute.
To ask for what a network f_0 has yet to learn, give Y - f_0(X).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from tutelage.errors import ModelError, NumericError, ResourceError, UsageError
from tutelage.graph.taps import logits_of

KERNELS = ("shared", "exact")
JITTER = 1e-6
MOST_BYTES = 4 * 2**30
"""What the derivatives of all images may take in memory."""
CHUNK = 16
"""Images whose derivatives are taken at once."""


@dataclass(frozen=True)
class Complexity:
    """`value` and `adjusted` as this page defines them; `jitter` was added to K's diagonal.

    `smallest` is K's smallest eigenvalue before that, by its mean one: not far above 0, the jitter decides the value.
    """

    value: float
    adjusted: float
    jitter: float
    smallest: float


def supervision_complexity(targets: Float[Tensor, "rows outputs"], kernel: Float[Tensor, "size size"], *,
                           jitter: float = JITTER) -> Complexity:
    """The complexity of targets Y [n, d] under a kernel [n, n], shared by the outputs, or [n d, n d], row after row.

    `jitter` times the mean of K's diagonal is added to that. UsageError for other shapes, NumericError if K is still
    not positive definite or anything is not finite.

    >>> found = supervision_complexity(torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), jitter=0)
    >>> round(found.value, 6), round(found.adjusted, 6)
    (0.816497, 0.816497)
    """
    return complexities([targets], kernel, jitter=jitter)[0]


def complexities(targets: Sequence[Float[Tensor, "rows outputs"]], kernel: Float[Tensor, "size size"], *,
                 jitter: float = JITTER) -> list[Complexity]:
    """`supervision_complexity` of several targets of one shape under one kernel, which is factored once."""
    rows, outputs = targets[0].shape
    shared = len(kernel) == rows
    if len(kernel) not in (rows, rows * outputs):
        raise UsageError("the kernel does not fit the targets", found=f"a kernel {list(kernel.shape)}",
                         expected=f"[{rows}, {rows}] or [{rows * outputs}, {rows * outputs}]")
    kernel = kernel.double()
    if not bool(kernel.isfinite().all() and all(one.isfinite().all() for one in targets)):
        raise NumericError("the kernel or the targets are not finite")
    mean = float(kernel.diagonal().mean())
    smallest = float(torch.linalg.eigvalsh(kernel)[0])
    added = jitter * mean
    factor, failed = torch.linalg.cholesky_ex(kernel + added * torch.eye(len(kernel), dtype=kernel.dtype))
    if mean <= 0 or int(failed):
        raise NumericError("the kernel is not positive definite", found=f"smallest eigenvalue {smallest:.3g}",
                           expected="J J' of a network that learns", fix="leave out images that are there twice")
    trace, found = float(kernel.trace()) * (outputs if shared else 1), []
    for one in targets:
        wanted = one.double() if shared else one.double().reshape(-1, 1)
        square = float(torch.linalg.solve_triangular(factor, wanted, upper=False).square().sum())
        found.append(Complexity(square**0.5, (square * trace) ** 0.5 / rows, added, smallest / mean))
    return found


def soft_targets(logits: Float[Tensor, "rows classes"], temperature: float = 1.0) -> Float[Tensor, "rows classes"]:
    """softmax(logits / T) - 1 / C in float64: probabilities, centred."""
    return (logits.double() / temperature).softmax(1) - 1 / logits.shape[1]


def hard_targets(labels: Int[Tensor, " rows"], classes: int) -> Float[Tensor, "rows classes"]:
    """Labels as probabilities, centred, in float64."""
    return F.one_hot(labels, classes).double() - 1 / classes


def ntk(network: nn.Module, images: Float[Tensor, "rows channels height width"],
        kind: str = "shared") -> Float[Tensor, "size size"]:
    """The neural tangent kernel of a network at these images, in eval mode: "shared" [n, n], or "exact" [n C, n C].

    Row i C + c of the exact one is logit c of image i. The network is not changed. ResourceError where the derivatives
    do not fit into `MOST_BYTES`, ModelError where torch cannot take them image by image.
    """
    if kind not in KERNELS:
        raise UsageError("unknown kernel", found=kind, expected=" or ".join(KERNELS))
    own = copy.deepcopy(network).double().eval()
    weights = {name: value.detach() for name, value in own.named_parameters()}
    state = {name: value.detach() for name, value in own.named_buffers()}
    images = images.double()

    def logits(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return logits_of(functional_call(own, (parameters, state), (image[None],)))[0]

    if not weights:
        raise ModelError("this network has no parameters, so it has no kernel")
    with torch.no_grad():
        classes = len(logits(weights, images[0]))
    _require_memory(sum(value.numel() for value in weights.values()), len(images), 1 if kind == "shared" else classes)
    try:
        if kind == "exact":
            derivatives = vmap(jacrev(logits), (None, 0), chunk_size=CHUNK)(weights, images)
            return _gram(derivatives, len(images) * classes)
        each = [_gram(_of_output(logits, weights, images, output), len(images)) for output in range(classes)]
        return torch.stack(each).mean(0)
    except (RuntimeError, NotImplementedError) as error:
        raise ModelError("torch cannot take this network's derivatives image by image",
                         found=str(error).splitlines()[0]) from None


def fill_batch_norms(network: nn.Module, images: Float[Tensor, "rows channels height width"]) -> nn.Module:
    """A copy of a network that has not learned yet, in eval mode, whose batch norms know the statistics of the images.

    As it is made, they know none, and what flows through its layers grows with every block.
    """
    own = copy.deepcopy(network).eval()
    for module in own.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        own(images)
    return own.eval()


def _of_output(logits: Callable[[dict[str, Tensor], Tensor], Tensor], weights: dict[str, Tensor], images: Tensor,
               output: int) -> dict[str, Tensor]:
    """The derivatives of one logit by each parameter: [n, ...]."""
    one = grad(lambda parameters, image: logits(parameters, image)[output])
    return vmap(one, (None, 0), chunk_size=CHUNK)(weights, images)


def _gram(derivatives: dict[str, Tensor], rows: int) -> Tensor:
    flat = [value.detach().reshape(rows, -1) for value in derivatives.values()]
    return torch.stack([one @ one.T for one in flat]).sum(0)


def _require_memory(parameters: int, images: int, outputs: int) -> None:
    wanted = 8 * parameters * images * outputs
    if wanted > MOST_BYTES:
        raise ResourceError("the derivatives of this network do not fit into memory",
                            found=f"{wanted / 2**30:.1f} GiB: {parameters} parameters, {images} images, "
                                  f"{outputs} outputs at a time",
                            expected=f"at most {MOST_BYTES / 2**30:.0f} GiB",
                            fix=f"--images {max(1, MOST_BYTES * images // wanted)}"
                                + (", or --kernel shared" if outputs > 1 else ""))
