"""Knowledge distillation as a graph of who learns from whom.

The names below are loaded when they are first used, so that neither `import tutelage` nor `tutelage --help` waits
for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tutelage.engine.predict import evaluate as evaluate
    from tutelage.engine.train import load as load
    from tutelage.engine.train import train as train
    from tutelage.graph import divergences as divergences
    from tutelage.graph import fused_images as fused_images
    from tutelage.graph import gaussians as gaussians
    from tutelage.graph import sample_weights as sample_weights
    from tutelage.graph import schedules as schedules
    from tutelage.graph.controller import Controller as Controller
    from tutelage.graph.edge import Edge as Edge
    from tutelage.graph.graph import Graph as Graph
    from tutelage.graph.nodes import Computed as Computed
    from tutelage.graph.nodes import Ema as Ema
    from tutelage.graph.nodes import Ensemble as Ensemble
    from tutelage.graph.nodes import Frozen as Frozen
    from tutelage.graph.nodes import Trained as Trained
    from tutelage.graph.objective import edge_loss as edge_loss
    from tutelage.graph.objective import forward as forward
    from tutelage.graph.objective import losses as losses
    from tutelage.types import Batch as Batch

_MODULES = {
    "Batch": "types", "Computed": "graph.nodes", "Controller": "graph.controller", "Edge": "graph.edge",
    "Ema": "graph.nodes", "Ensemble": "graph.nodes", "Frozen": "graph.nodes", "Graph": "graph.graph",
    "Trained": "graph.nodes", "edge_loss": "graph.objective", "evaluate": "engine.predict",
    "forward": "graph.objective", "load": "engine.train", "losses": "graph.objective", "train": "engine.train",
}
_PAGES = ("divergences", "fused_images", "gaussians", "sample_weights", "schedules")
"""Modules of `tutelage.graph` that whoever writes a method reads: `tutelage.divergences.kl`."""
__all__ = sorted([*_MODULES, *_PAGES])  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in _PAGES:
        return import_module(f"tutelage.graph.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return vars(import_module(f"tutelage.{_MODULES[name]}"))[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
