"""The vectors of a recommender as a file: of users and items, with their names, ready for an index."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from tutelage.data.user_source import UserSource
from tutelage.errors import ModelError, UsageError
from tutelage.exporting.module import Choice
from tutelage.models.network import body_of
from tutelage.models.recommend import Recommender
from tutelage.system import files

VECTORS = "tutelage-vectors-1"
_TRIED = 64
"""So many users' scores are compared with the network's own."""


def vectors_bytes(network: nn.Module, users: Sequence[str], items: Sequence[str],
                  columns: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file with `users` [U, D] and `items` [I, D], float32: a score is the product of two rows.

    Its metadata hold "user_ids" and "item_ids", JSON lists of the names in the order of the rows, and "columns", how a
    file of interactions calls its columns.
    """
    body = body_of(network)
    if not isinstance(body, Recommender):
        raise ModelError("a network without vectors of users and items", found=type(body).__name__,
                         expected="mf or lightgcn")
    with torch.no_grad():
        of_users, of_items = (vectors.float().cpu().contiguous() for vectors in body.vectors())
    assert (len(users), len(items)) == (len(of_users), len(of_items)), "made for these data"
    return save({"users": of_users, "items": of_items},
                {"format": VECTORS, "user_ids": json.dumps(list(users)), "item_ids": json.dumps(list(items)),
                 "columns": json.dumps(dict(columns or {}))})


def export_vectors(network: nn.Module, classes: Sequence[str], source: UserSource, node: str, target: Path,
                   choice: Choice, columns: Mapping[str, str] | None = None) -> dict[str, object]:
    """Write the vectors to `target` and what was measured to FILE.json, which is returned; what differs is refused."""
    if choice.format != "safetensors" or choice.int8 or choice.resize:
        raise UsageError("a recommender is exported as its vectors", where="--to", found=choice.format,
                         expected="FILE.safetensors", fix="leave --int8 and --resize out")
    data = vectors_bytes(network, source.names, classes, columns)
    users = torch.arange(min(_TRIED, len(source.names)))
    difference = _difference(network, load(data), users)
    if not difference <= 1e-4:
        raise ModelError("the vectors do not give the network's scores", where=f"network {node!r}",
                         found=f"a difference of {difference:.2g}", expected="1e-4 at most")
    report: dict[str, object] = {
        "file": target.name, "kind": "vectors", "format": VECTORS, "node": node, "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(), "users": len(source.names), "items": len(classes),
        "numbers": load(data)["items"].shape[1], "checked": {"users": len(users), "difference": difference}}
    files.write(target, data)
    files.write_json(target.with_name(target.name + ".json"), report)
    return report


@torch.no_grad()
def _difference(network: nn.Module, read: dict[str, Tensor], users: Tensor) -> float:
    said = network.eval()(users=users).float()
    return (read["users"][users] @ read["items"].t() - said).abs().max().item()
