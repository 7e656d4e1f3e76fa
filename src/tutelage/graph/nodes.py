"""What a node is: how the weights of its network change, or what it is computed from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tutelage.errors import UsageError
from tutelage.graph.modules import mean_probability
from tutelage.types import RowsFn


@dataclass(frozen=True)
class Trained:
    """A network that learns by its own optimizer: a student, a peer, a co-trained teacher.

    In a method of several runs, one after another, `before` names the network whose weights, as the run before this
    one left them, it starts from.
    """

    before: str | None = None


@dataclass(frozen=True)
class Frozen:
    """A network that never changes: always in eval mode, its bytes are checked at the end.

    `before` is as for `Trained`: it is that network, as the run before this one left it. `early` says that it is a
    checkpoint from the beginning of a training: how good it is is not judged at the start.
    """

    before: str | None = None
    early: bool = False


@dataclass(frozen=True)
class Ema:
    """A network whose parameters follow those of the trained node `of`, as a moving average (no gradient).

    After every `every`-th step, w <- a w + (1 - a) w_of with a = min(1 - 1 / (t + 1), decay) at the t-th update
    (Tarvainen & Valpola, 2017). `decay=0` is a copy: a peer as it was up to `every` steps ago.
    With `every=0` it stays as it is but for what a controller does.
    """

    of: str
    decay: float = 0.999
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1 or self.every < 0:
            raise UsageError(f"an Ema node of {self.of!r} that cannot be",
                             found=f"decay={self.decay}, every={self.every}",
                             expected="decay in [0, 1], every >= 0")


@dataclass(frozen=True)
class Computed:
    """A node without a network: `by` gets the ends `of` in order, attached, and returns a tensor or a dict of taps.

    `by` is a function, or a module, which learns if it has parameters and is saved with the run. With `rows` it gets
    and gives rows: it is worked out where the losses are, and only edges of the same rows may read it.
    """

    of: tuple[str, ...]
    by: Callable[..., Tensor | dict[str, Tensor]]
    rows: RowsFn | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", (self.of,) if isinstance(self.of, str) else tuple(self.of))


def Ensemble(of: Sequence[str],  # noqa: N802 - a kind of node, like the four classes above
             mean: Callable[..., Tensor] = mean_probability) -> Computed:
    """The mean probability of several nodes, as log-probabilities (logits that `kl` and `cross_entropy` read).

    What is no logits [B, C] has another `mean`: that of its task.
    """
    if not of:
        raise UsageError("an ensemble of nothing", expected="the names of its members")
    return Computed(tuple(of), mean)


Kind = Trained | Frozen | Ema | Computed
