"""A run's use of the teacher cache: which ends it holds, when a draw is opened, filled up and written."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tutelage.data.source import Data
from tutelage.engine.dry_run import Prepared
from tutelage.engine.precision import Execution, on_device
from tutelage.engine.run import Run
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache.codecs import Form, Top, Whole
from tutelage.engine.teacher_cache.store import TeacherCache, key_of
from tutelage.errors import UsageError
from tutelage.graph.controller import Controller
from tutelage.graph.divergences import THROUGH_SOFTMAX
from tutelage.graph.edge import Edge
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.modules import OF_A_WEIGHT
from tutelage.graph.naming import describe, name_of, unbound
from tutelage.graph.nodes import Computed, Frozen, Kind
from tutelage.graph.objective import forward
from tutelage.graph.weight_parts import parts_of_teacher, with_parts
from tutelage.models.network import preprocessing_of
from tutelage.system.distributed import World, largest
from tutelage.system.machine import free_memory
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.named import task_of
from tutelage.tasks.task import Task
from tutelage.types import PerSampleFn


def cached_ends(graph: Graph) -> list[str]:
    """The ends of frozen networks that the graph reads; none where a controller may change the images."""
    plain = Controller.before_forward
    if any(type(controller).before_forward is not plain for controller in graph.controllers.values()):
        return []
    return [end for end in graph.order(graph.ends()) if isinstance(graph.nodes.get(parse_end(end).node), Frozen)]


def cache_folder(prepared: Prepared, choices: Mapping[str, Execution], data: Data, settings: Settings, world: World,
                 root: Path) -> Path | None:
    """Where the outputs of this run's teachers are kept; None without a teacher, or if its images are not known."""
    graph, networks = prepared.graph, prepared.networks
    ends = cached_ends(graph)
    if not ends or not data.augmentation:
        return None
    exact = settings.precision == "exact"
    nodes = sorted({parse_end(end).node for end in ends})
    teachers = {node: [prepared.frozen[node], preprocessing_of(networks[node]),
                       type(networks[node]).__name__, str(choices[node])] for node in nodes}
    # How many rows go together may move the last bit on some machines.
    together = settings.batch_size // (world.size * settings.accumulate) if exact else 0
    forms = top_forms(graph, settings.cache_top, len(data.classes)) if settings.cache_top else {}
    task = task_of(data)
    if settings.cache_top and not task.classifies:
        raise UsageError("the largest logits alone are kept of one choice a sample", where="cache_top",
                         found=f"task {task.name}", expected="a task that classifies samples",
                         fix="take cache_top out: whole outputs are kept then")
    tops = {end: [top.count, top.temperature, list(map(describe, top.of))] for end, top in forms.items()}
    return root / "teachers" / key_of(ends=ends, teachers=teachers, exact=exact, together=together, data=data.digest,
                                      classes=list(data.classes), preprocessing=dict(data.preprocessing),
                                      augmentation=data.augmentation, **({"tops": tops} if tops else {}),
                                      **({"task": task.name} if task is not CLASSIFICATION else {}))


def wanted(settings: Settings, folder: Path | None) -> bool:
    """Whether a new run uses a cache: as it is told, or by itself where draws come again or one is there already."""
    if settings.cache == "auto":
        return folder is not None and (settings.draws < settings.epochs or os.access(folder, os.R_OK))
    if settings.cache and folder is None:
        raise UsageError("there is nothing to cache", where="cache", found="cache = true",
                         expected="a frozen teacher, no controller that changes images, data that tell their draws",
                         fix='write cache = "auto"')
    return bool(settings.cache)


def top_forms(graph: Graph, count: int, classes: int) -> dict[str, Top]:
    """End -> how the `count` largest of its logits are kept; the other ends are kept whole.

    One row is right at one temperature, so all edges that read the end must have the same; each must see it through a
    softmax; and what weighs a sample must be known here. A UsageError if there is no such end.
    """
    reasons, forms = list[str](), dict[str, Top]()
    if count >= classes:
        raise UsageError("more logits than there are", where="cache_top", found=count, expected=f"below {classes}",
                         fix="take cache_top out: whole rows are kept then")
    nodes = dict.fromkeys(parse_end(end).node for end in graph.order(graph.ends()))
    computed = [kind for kind in map(graph.nodes.get, nodes) if isinstance(kind, Computed)]
    for end in (end for end in cached_ends(graph) if not parse_end(end).tap):
        edges = [edge for edge in graph.edges if end in edge.ends]
        warm = {edge.temperature for edge in edges}
        odd = [name_of(edge.divergence) for edge in edges if unbound(edge.divergence) not in THROUGH_SOFTMAX]
        odd += [name_of(edge.sample_weight) for edge in edges if parts_of_teacher(edge.sample_weight) is None]
        readers = [_weight_behind(kind) for kind in computed if end in kind.of]
        odd += ["a computed node" for weight in readers if weight is None or parts_of_teacher(weight) is None]
        if odd:
            reasons.append(f"{end!r}: {', '.join(odd)} may need all logits")
        elif not warm:
            reasons.append(f"{end!r}: no edge reads it")
        elif len(warm) > 1:
            reasons.append(f"{end!r}: it is read at the temperatures {', '.join(f'{t:g}' for t in sorted(warm))}")
        else:
            weights = [*(edge.sample_weight for edge in edges), *readers]
            leaves = {describe(leaf): leaf for weight in weights for leaf in parts_of_teacher(weight) or ()}
            forms[end] = Top(count, classes, warm.pop(), tuple(leaves.values()))
    if not forms:
        raise UsageError("no end whose largest logits would do", where="cache_top", found="; ".join(reasons),
                         expected="logits of a frozen network that kl, reverse_kl or js read at one temperature",
                         fix="take cache_top out: whole rows are kept then")
    return forms


def attach(run: Run, folder: Path) -> list[str]:
    """Give the run its cache, or none; notes that say why, and what top-k rows lose."""
    ends = cached_ends(run.graph)
    exact, count = run.settings.precision == "exact", run.settings.cache_top
    if exact and not _row_by_row(run, ends):
        return ["the teacher's outputs are not kept: here a row's last bits depend on its place in the batch"]
    tops = top_forms(run.graph, count, len(run.data.classes)) if count else {}
    forms = {end: tops.get(end) or _whole(run.task, end, exact=exact) for end in ends}
    size, told = _bytes_of_a_draw(run, forms)
    free = free_memory(run.world.device)
    room = min(run.settings.cache_gib * 2**30, math.inf if free is None else free / 2)
    if largest(int(size > room), run.world):
        return [f"the teacher's outputs are not kept: {told}; there may be {room / 2**20:.0f} MiB (cache_gib, and half "
                "of the memory that is free)"]
    notes = [*([told] if not run.task.classifies else []), *_losses_of(run, tops)]
    run.cache = TeacherCache(folder, run.data.train.ids.to(run.world.device), forms,
                             round(run.settings.cache_gib * 2**30))
    nodes = {name: _with_kept_source(kind, tops, run.cache) for name, kind in run.graph.nodes.items()}
    run.graph = replace(run.graph, nodes=nodes,
                        edges=[_with_kept_weight(edge, tops, run.cache) for edge in run.graph.edges])
    return notes


def _whole(task: Task, end: str, *, exact: bool) -> Whole:
    """How an end is kept. In float16 logits of a choice lose nothing that counts; numbers that are learned do.

    What no term of the task names are features, which are learned as directions and means.
    """
    tap = parse_end(end).tap
    soft = {term.tap for term in task.imitate if term.soft}
    numbers = {term.tap for term in task.imitate if not (term.soft and task.logits)}
    return Whole(logits=tap in soft, exact=exact or tap in numbers)


def _bytes_of_a_draw(run: Run, forms: Mapping[str, Form]) -> tuple[int, str]:
    """What the rows of one draw take in memory and on the disk; and the same in words, for a person."""
    (few,) = run.data.train.batches([torch.arange(2)], draw=0, views=("", *run.graph.views()))
    with torch.no_grad():
        outputs = forward(run.graph, run.models, on_device(few, run.world.device).inputs, list(forms))
        sizes = [column.nbytes for end, form in forms.items() for column in form.encode(outputs[end]).values()]
    size = sum(sizes) // 2 * len(run.data.train.ids)
    return size, (f"one draw of {', '.join(forms)} takes {size / 2**20:.1f} MiB"
                  f" ({size / len(run.data.train.ids) / 1024:.1f} KiB a row)")


def kept_weight(student: Tensor, teacher: Tensor, labels: Tensor, *, of: Mapping[tuple[str, int], Tensor],
                key: tuple[str, int], instead_of: PerSampleFn) -> Tensor:
    """A sample weight that was kept with the rows that are looked up now; of other images it is taken anew."""
    return of[key] if key in of else instead_of(student, teacher, labels)


def _weight_behind(kind: Computed) -> PerSampleFn | None:
    """The sample weight that a computed node makes its numbers of; None if it makes them of something else."""
    if isinstance(kind.by, partial) and kind.by.func in OF_A_WEIGHT and kind.by.args:
        return kind.by.args[0]
    return None


def _with_kept_weight(edge: Edge, tops: Mapping[str, Top], cache: TeacherCache) -> Edge:
    if edge.teacher not in tops:
        return edge
    return replace(edge, sample_weight=_kept(edge.sample_weight, edge.teacher, tops, cache))


def _with_kept_source(kind: Kind, tops: Mapping[str, Top], cache: TeacherCache) -> Kind:
    if not isinstance(kind, Computed) or tops.keys().isdisjoint(kind.of):
        return kind
    assert isinstance(kind.by, partial), "what other nodes read is kept whole"
    (end, *_), (weight, *others) = kind.of, kind.by.args  # besides the end it may read the labels
    return replace(kind, by=partial(kind.by.func, _kept(weight, end, tops, cache), *others))


def _kept(weight, end: str, tops: Mapping[str, Top], cache: TeacherCache):
    """The same sample weight, read from the cache where it can be."""
    def from_cache(part: PerSampleFn) -> PerSampleFn:
        place = [describe(kept) for kept in tops[end].of].index(describe(part))
        return partial(kept_weight, of=cache.weights, key=(end, place), instead_of=part)

    return with_parts(weight, from_cache)


def _losses_of(run: Run, tops: Mapping[str, Top]) -> list[str]:
    """What is lost, measured on a first batch."""
    rows = run.world.own(torch.arange(run.settings.batch_size // run.settings.accumulate))
    notes = []
    for end, top in tops.items():
        (batch,) = run.data.train.batches([rows], draw=0, views=("", *run.graph.views()))
        with torch.no_grad():
            logits = forward(run.graph, run.readers, on_device(batch, run.world.device).inputs, [end])[end]
        lost, spread, moved = top.losses(logits)
        notes.append(f"of {end}'s {top.classes} logits the {top.count} largest are kept: of a first batch KL at T = "
                     f"{top.temperature:g} to what it says is {lost:.1e}, {spread:.1%} of its probability there is "
                     f"spread evenly over the other classes, sample weights change by at most {moved:.0e}")
    return notes


def open_draw(run: Run, cache: TeacherCache) -> None:
    """Turn to the draw of this epoch; ranks that found different things on their disks all start with nothing."""
    cache.open(run.draw)
    mark = int(key_of(there={end: int(held.there.sum()) for end, held in cache.held.items()})[:12], 16)
    if largest(mark, run.world) != -largest(-mark, run.world):
        cache.held = {}


def finish_draw(run: Run, cache: TeacherCache) -> None:
    """At the end of an epoch: the rows that no batch had are computed, so that the draw is whole; then it is kept."""
    _fill(run, cache, cache.lacking(used=True))
    cache.weights.clear()  # what comes now, validation, are other images


def fill_cache(run: Run, draws: int) -> Iterator[int]:
    """Keep every draw ahead of training; the number of each when it is done."""
    assert run.cache is not None, "attached before"
    with closing(run.cache):
        for draw in range(draws):
            run.step = draw * run.steps_per_epoch
            open_draw(run, run.cache)
            _fill(run, run.cache, run.cache.lacking(used=False))
            yield draw


def _fill(run: Run, cache: TeacherCache, ends: list[str]) -> None:
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


def _row_by_row(run: Run, ends: list[str]) -> bool:
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
