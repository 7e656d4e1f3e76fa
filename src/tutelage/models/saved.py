"""What a file of weights says of itself, and the network rebuilt from that: both sides of the format on one page.

The tensors have the names of the plain network, so timm's and torchvision's own users can load them. The metadata:

    format        "tutelage-1"
    node          the network's name in its run
    classes       JSON list: the names of the rows of its classifier, in their order
    columns       JSON list, only for a network that is cut: which of these are the data's classes, in the data's order;
                  -1 for a class that it does not know
    absent        JSON list of the names of these, only where there are some
    architecture  JSON of an `Architecture`, without weights, pretrained and freeze; absent for a user's own module
    channels, mean, std    of the images, JSON; absent for a user's own module
    sha256        of the tensors (`system.files.fingerprint`), which are compared with it; only in the files of a run
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.errors import ModelError, UsageError
from tutelage.models.architecture import Architecture
from tutelage.models.build import assemble
from tutelage.models.network import Network, preprocessing_of
from tutelage.models.sources import find
from tutelage.models.weights import WeightsFile, json_entry, load_weights, read_weights

FORMAT = "tutelage-1"


def metadata_of(network: nn.Module, class_names: Sequence[str], node: str) -> dict[str, str]:
    """The metadata to write beside `weights_of(network)`."""
    words = {"format": FORMAT, "node": node, "classes": json.dumps(list(class_names))}
    if not isinstance(network, Network):
        return words
    fields = asdict(network.architecture)
    del fields["weights"], fields["pretrained"], fields["freeze"]
    words["architecture"] = json.dumps(fields)
    words |= {key: json.dumps(value) for key, value in preprocessing_of(network).items()}
    if network.columns is not None:
        columns = network.columns.tolist()
        # The data's own names where it has some, so that its names find their rows again.
        own = [(column, name) for column, name in zip(columns, class_names, strict=True) if column >= 0]
        rows = dict(enumerate(network.body_classes)) | dict(own)
        words |= {"columns": json.dumps(columns), "classes": json.dumps(list(rows.values()))}
        if network.knows_some:
            words["absent"] = json.dumps([name for column, name in zip(columns, class_names, strict=True)
                                          if column < 0])
    return words


def load_network(path: str | Path, *, into: nn.Module | None = None,
                 plugins: Sequence[str] = ()) -> tuple[nn.Module, tuple[str, ...]]:
    """The network of a file that `metadata_of` describes, and its classes in the order of its logits.

    A user's own module is not described by its file: give it as `into`, and it is filled and returned. The network is
    in training mode, as every new one is.
    """
    file = read_weights(path)
    _check_format(file)
    rows = file.classes
    assert rows is not None, "_check_format has seen the entry"
    columns = tuple(_numbers(file, "columns", int)) if "columns" in file.metadata else None
    absent = json_entry(file, "absent", list) if "absent" in file.metadata else []
    if any(column not in range(-1 if absent else 0, len(rows)) for column in columns or ()):
        raise _unusable(file, "columns", f"numbers below {len(rows)}")
    if sum(column < 0 for column in columns or ()) != len(absent) or not all(isinstance(name, str) for name in absent):
        raise _unusable(file, "absent", "a name for each column that is -1")
    network = _rebuilt(file, rows, columns, plugins) if into is None else into
    load_weights(network, file.tensors, where=file.path)
    names = iter(absent)
    return network, rows if columns is None else tuple(rows[i] if i >= 0 else next(names) for i in columns)


def _rebuilt(file: WeightsFile, rows: tuple[str, ...], columns: tuple[int, ...] | None,
             plugins: Sequence[str]) -> Network:
    if "architecture" not in file.metadata:
        raise ModelError("this file holds the weights of a user's own module", where=file.path,
                         found="no entry 'architecture' in its metadata", expected="the module to fill",
                         fix="call load_network(path, into=module)")
    channels = json_entry(file, "channels", int)
    spec = _architecture(file)
    return assemble(spec, find(spec, channels, plugins), rows, channels, columns, file.metadata.get("node", "model"), 0)


def _architecture(file: WeightsFile) -> Architecture:
    fields = json_entry(file, "architecture", dict)
    own = {"mean": tuple(_numbers(file, "mean", float)), "std": tuple(_numbers(file, "std", float))}
    try:
        return Architecture(**{**fields, **own})
    except UsageError as problem:
        raise _unusable(file, "architecture", problem.what) from None
    except TypeError as problem:
        raise _unusable(file, "architecture", str(problem)) from None


def _numbers(file: WeightsFile, key: str, kind: type) -> list[Any]:
    values = json_entry(file, key, list)
    if not all(type(value) is kind for value in values):
        raise _unusable(file, key, f"a list of {kind.__name__}")
    return values


def _check_format(file: WeightsFile) -> None:
    found = file.metadata.get("format")
    if found != FORMAT or "classes" not in file.metadata:
        raise ModelError("this file was not written by tutelage, or by a later one", where=file.path,
                         found="no entry 'format'" if found is None else f"format {found!r}", expected=FORMAT,
                         fix="use it as `weights` of a network that you name in the recipe")


def _unusable(file: WeightsFile, key: str, why: str) -> ModelError:
    return ModelError(f"the file's metadata has no usable entry {key!r}", where=file.path, found=file.metadata.get(key),
                      expected=why, fix="write the file again, or take one that this package wrote")
