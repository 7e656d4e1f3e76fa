"""Number formats that the runs of a study share: its methods must not differ in how they compute.

Which format is fastest is found by trying, and a loaded machine says one thing now and another later. So the first run
that needs a network settles how it computes, and every later run on this processor does the same. Choices that give the
same bits, such as recorded steps, are left to each run. A study's numerics/settled.json holds them:

    {"format": 1, "adopted": ..., "machines": {PROCESSOR: {"networks": {NETWORK: CHOICE}, "compiled_losses", "cached"}}}

"adopted" is what finished runs of an older study did, by the names of nodes: a processor that has settled nothing yet
begins with it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.engine.precision import Execution, is_tapped
from tutelage.errors import ModelError
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Ema
from tutelage.models.network import body_of
from tutelage.runs.folder import read_json
from tutelage.system.files import write_json

NUMERICS_FILE = Path("numerics", "settled.json")
"""In a study's folder; what lies beside it is a lock of its own."""


@dataclass
class Settled:
    """How networks compute on one processor, by `key_of` or `name_of`; None is not settled yet.

    `cached` says whether what a teacher says is kept as float16 where neither the recipe nor the graph decides.
    """

    networks: dict[str, Execution] = field(default_factory=dict)
    compiled_losses: bool | None = None
    cached: bool | None = None

    def choices(self, graph: Graph, networks: Mapping[str, nn.Module], shape: Sequence[int]) -> dict[str, Execution]:
        """Node -> its choice, where that is settled; `shape` is that of an image, (channels, height, width)."""
        found: dict[str, Execution] = {}
        for node, network in networks.items():
            choice = self.networks.get(network_key(graph, node, network, shape),
                                       self.networks.get(network_label(graph, node)))
            if choice is not None and not isinstance(graph.nodes[node], Ema):
                found[node] = replace(choice, compiled=choice.compiled and not is_tapped(graph, node))
        followed = {node: kind.of for node, kind in graph.nodes.items() if isinstance(kind, Ema) and kind.of in found}
        return found | {node: replace(found[of], compiled=False) for node, of in followed.items()}

    def settle(self, graph: Graph, networks: Mapping[str, nn.Module], shape: Sequence[int],
               chosen: Mapping[str, Execution], compiled_losses: bool) -> tuple[dict[str, Execution], bool]:
        """Settle what was not; the choices by node, and whether losses are compiled, as they hold from now on."""
        for node in sorted(networks, key=lambda node: chosen[node].bf16):  # of two alike float32 holds for both
            if not isinstance(graph.nodes[node], Ema):
                self.networks.setdefault(network_key(graph, node, networks[node], shape), chosen[node])
        if self.compiled_losses is None:
            self.compiled_losses = compiled_losses
        return self.choices(graph, networks, shape), self.compiled_losses

    def settle_cached(self, wanted: bool) -> bool:
        """Settle whether teachers' outputs are kept, if it was not; what holds from now on."""
        if self.cached is None:
            self.cached = wanted
        return self.cached


def network_key(graph: Graph, node: str, network: nn.Module, shape: Sequence[int]) -> str:
    """What a network is whatever the run: its role, its layers' weights by name and shape, and the images it takes."""
    body = body_of(network)
    shapes = [[name, list(tensor.shape)] for name, tensor in body.state_dict().items()]
    digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]
    return f"{_role(graph, node)} {type(body).__name__} {digest}, images {'x'.join(map(str, shape))}"


def network_label(graph: Graph, node: str) -> str:
    """What a network is called in a study, where nothing more is known of it."""
    return f"{_role(graph, node)} {node}"


def read_settled(path: Path, processor: str) -> Settled:
    """What is settled on this processor."""
    told = _read(path)
    return told["machines"].get(processor, told["adopted"])


def write_settled(path: Path, processor: str, settled: Settled) -> None:
    """Put down what is settled on this processor; for whoever holds the lock of the file's folder."""
    told = _read(path)
    _write(path, told["adopted"], {**told["machines"], processor: settled})


def adopt(path: Path, settled: Settled) -> None:
    """Begin the file of a study, with what its runs did before there was one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, settled, {})


def processors(path: Path) -> list[str]:
    """The processors that have settled something."""
    return sorted(_read(path)["machines"])


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"adopted": Settled(), "machines": {}}
    told = read_json(path)
    try:
        return {"adopted": _settled(told["adopted"]),
                "machines": {name: _settled(own) for name, own in told["machines"].items()}}
    except (LookupError, TypeError, AttributeError):
        raise ModelError("settled number formats that cannot be read", where=path,
                         fix="take the file away: what the study's runs did is adopted") from None


def _settled(told: Mapping[str, Any]) -> Settled:
    networks = {network: Execution(**choice) for network, choice in told["networks"].items()}
    return Settled(networks, told["compiled_losses"], told["cached"])


def _write(path: Path, adopted: Settled, machines: Mapping[str, Settled]) -> None:
    write_json(path, {"format": 1, "adopted": asdict(adopted),
                      "machines": {name: asdict(own) for name, own in machines.items()}})


def _role(graph: Graph, node: str) -> str:
    return type(graph.nodes[node]).__name__.lower()
