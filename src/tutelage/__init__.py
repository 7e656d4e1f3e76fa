"""Knowledge distillation as a graph of who learns from whom.

The names below are loaded when they are first used, so that neither `import tutelage` nor `tutelage --help` waits
for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tutelage.evaluation import evaluate as evaluate
    from tutelage.graph import Computed as Computed
    from tutelage.graph import Controller as Controller
    from tutelage.graph import Edge as Edge
    from tutelage.graph import Ema as Ema
    from tutelage.graph import Ensemble as Ensemble
    from tutelage.graph import Frozen as Frozen
    from tutelage.graph import Graph as Graph
    from tutelage.graph import Trained as Trained
    from tutelage.objective import edge_loss as edge_loss
    from tutelage.objective import forward as forward
    from tutelage.objective import losses as losses
    from tutelage.training import load as load
    from tutelage.training import train as train
    from tutelage.types import Batch as Batch

_PAGES = {
    "Batch": "types", "Computed": "graph", "Controller": "graph", "Edge": "graph", "Ema": "graph",
    "Ensemble": "graph", "Frozen": "graph", "Graph": "graph", "Trained": "graph", "edge_loss": "objective",
    "evaluate": "evaluation", "forward": "objective", "load": "training", "losses": "objective", "train": "training",
}
__all__ = sorted(_PAGES)  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _PAGES:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return vars(import_module(f"tutelage.{_PAGES[name]}"))[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
