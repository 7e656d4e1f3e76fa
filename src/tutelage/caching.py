"""A run's use of the teacher cache: which ends it holds, when a draw is opened, filled up and written."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tutelage.data.source import Data
from tutelage.errors import UsageError
from tutelage.files import fingerprint
from tutelage.graph import Controller, Frozen, Graph, parse_end
from tutelage.models.network import preprocessing_of
from tutelage.objective import forward
from tutelage.running import Choice, on_device
from tutelage.teacher_cache import TeacherCache, key_of
from tutelage.world import World, largest

if TYPE_CHECKING:
    from tutelage.loop import Run, Settings


def cached_ends(graph: Graph) -> list[str]:
    """The ends of frozen networks that the graph reads; none where a controller may change the images."""
    plain = Controller.before_forward
    if any(type(controller).before_forward is not plain for controller in graph.controllers.values()):
        return []
    return [end for end in graph.order(graph.ends()) if isinstance(graph.nodes.get(parse_end(end).node), Frozen)]


def cache_folder(graph: Graph, networks: Mapping[str, nn.Module], choices: Mapping[str, Choice], data: Data,
                 settings: "Settings", world: World, root: Path) -> Path | None:
    """Where the outputs of this run's teachers are kept; None without a teacher, or if its images are not known."""
    ends = cached_ends(graph)
    if not ends or not data.augmentation:
        return None
    exact = settings.precision == "exact"
    nodes = sorted({parse_end(end).node for end in ends})
    teachers = {node: [fingerprint(networks[node].state_dict()), preprocessing_of(networks[node]),
                       type(networks[node]).__name__, str(choices[node])] for node in nodes}
    # How many rows go together may move the last bit on some machines.
    together = settings.batch_size // (world.size * settings.accumulate) if exact else 0
    return root / "teachers" / key_of(ends=ends, teachers=teachers, exact=exact, together=together, data=data.digest,
                                      classes=list(data.classes), preprocessing=dict(data.preprocessing),
                                      augmentation=data.augmentation)


def wanted(settings: "Settings", folder: Path | None) -> bool:
    """Whether a new run uses a cache: as it is told, or by itself where draws come again or one is there already."""
    if settings.cache == "auto":
        return folder is not None and (settings.draws < settings.epochs or folder.exists())
    if settings.cache and folder is None:
        raise UsageError("there is nothing to cache", where="cache", found="cache = true",
                         expected="a frozen teacher, no controller that changes images, data that tell their draws",
                         fix='write cache = "auto"')
    return bool(settings.cache)


def attach(run: "Run", folder: Path) -> str | None:
    """Give the run its cache; or say why it gets none."""
    ends = cached_ends(run.graph)
    logits = frozenset(end for end in ends if not parse_end(end).tap)
    exact = run.settings.precision == "exact"
    if exact and not _row_by_row(run, ends):
        return "the teacher's outputs are not kept: on this machine a row's last bits depend on its place in the batch"
    run.cache = TeacherCache(folder, run.data.train.ids.to(run.world.device), ends, logits, exact,
                             round(run.settings.cache_gib * 2**30))
    return None


def open_draw(run: "Run", cache: TeacherCache) -> None:
    """Turn to the draw of this epoch; ranks that found different things on their disks all start with nothing."""
    cache.open(run.draw)
    mark = int(key_of(there={end: int(held.there.sum()) for end, held in cache.held.items()})[:12], 16)
    if largest(mark, run.world) != -largest(-mark, run.world):
        cache.held = {}


def finish_draw(run: "Run", cache: TeacherCache) -> None:
    """At the end of an epoch: the rows that no batch had are computed, so that the draw is whole; then it is kept."""
    _fill(run, cache, cache.lacking(used=True))


def build(run: "Run", draws: int) -> Iterator[int]:
    """Keep every draw ahead of training; the number of each when it is done."""
    assert run.cache is not None, "attached before"
    for draw in range(draws):
        run.step = draw * run.steps_per_epoch
        open_draw(run, run.cache)
        _fill(run, run.cache, run.cache.lacking(used=False))
        yield draw


def _fill(run: "Run", cache: TeacherCache, ends: list[str]) -> None:
    """Compute what these ends lack, in whole batches, and put it on the disk."""
    rows = cache.missing(ends)
    together = run.settings.batch_size // run.settings.accumulate
    if len(rows):
        rows = torch.cat([rows, rows.repeat(together // len(rows) + 1)[: -len(rows) % together]])
        chunks = rows.split(together)
        views = ("", *run.graph.views())
        batches = run.data.train.batches([run.world.own(chunk) for chunk in chunks], draw=cache.draw, views=views)
        with torch.no_grad():
            for chunk, batch in zip(chunks, batches, strict=True):
                cache.look_up(run.data.train.ids[chunk].to(run.world.device))
                forward(run.graph, run.readers, on_device(batch, run.world.device).inputs, ends)
    cache.finish(write=run.world.main)


def _row_by_row(run: "Run", ends: list[str]) -> bool:
    """Whether a row's outputs have the same bits wherever it stands in a batch."""
    rows = run.world.own(torch.arange(run.settings.batch_size // run.settings.accumulate))
    views = ("", *run.graph.views())
    one, other = (on_device(batch, run.world.device).inputs
                  for batch in run.data.train.batches([rows, rows.flip(0)], draw=0, views=views))
    with torch.no_grad():
        there, back = forward(run.graph, run.readers, one, ends), forward(run.graph, run.readers, other, ends)
    # Every rank has turned its own rows around; seen together, those of each rank are.
    same = [torch.equal(there[end], torch.cat([share.flip(0) for share in back[end].chunk(run.world.size)]))
            for end in ends]
    return largest(int(not all(same)), run.world) == 0
