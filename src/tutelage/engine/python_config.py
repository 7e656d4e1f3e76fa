"""The config.toml of a run that was started from Python: for people, and to tell one run from another."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from torch import nn

from tutelage.engine.settings import Settings
from tutelage.graph.graph import Graph
from tutelage.graph.naming import describe
from tutelage.models.network import body_of


def described_in(out: Path, graph: Graph, models: Mapping[str, nn.Module], settings: Settings) -> str:
    """The text of this run; of a run of an older version the text that it has, where both mean the same."""
    return _as_there(out, described(graph, models, settings))


def described(graph: Graph, models: Mapping[str, nn.Module], settings: Settings) -> str:
    """Graph, settings, optimizers and networks as TOML."""
    numbers = {key: value for key, value in vars(settings).items()
               if key not in ("optimizer", "rate") and value not in (None, ())}
    optimizers = settings.optimizer if isinstance(settings.optimizer, Mapping) else {"": settings.optimizer}
    lines = ["# started from Python: run your script again to resume", "[python]", f"graph = '''\n{graph}\n'''",
             *(f"{key} = {json.dumps(value)}" for key, value in numbers.items()),
             f"rate = {json.dumps(describe(settings.rate))}", "[python.optimizer]",
             *(f"{json.dumps(name)} = {json.dumps(describe(make))}" for name, make in optimizers.items()),
             "[python.models]",
             *(f"{json.dumps(node)} = {json.dumps(f'{type(body_of(network)).__name__}, {_count(network)} parameters')}"
               for node, network in models.items())]
    return "\n".join(lines) + "\n"


def _as_there(out: Path, config: str) -> str:
    """The text that a folder has of this run from Python: settings that an older version did not know are defaults."""
    try:
        there = (out / "config.toml").read_text(encoding="utf-8")
        old, new = (tomllib.loads(text)["python"] for text in (there, config))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError):
        return config
    defaults = {setting.name: setting.default for setting in fields(Settings) if setting.default is not None}
    return there if {**defaults, **old} == {**defaults, **new} else config


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
