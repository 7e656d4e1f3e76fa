"""Before a run begins: whether its networks are what they claim, seen on a few images.

Checks of form ask every network that a live edge reads: does it give logits, does a row depend on its neighbours, does
it give in training what it gives in evaluation. Checks of skill ask the frozen networks that others learn from, by
labelled validation images: is it another class order, is it chance. What is refused is a ModelError; `Settings.warn`
names the checks that only warn. Networks, their modes and the random numbers are afterwards as they were before.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from tutelage.data.source import Data, Part, Source
from tutelage.data.splits import first
from tutelage.engine.dry_run import Prepared, read_as
from tutelage.engine.precision import on_device
from tutelage.engine.predict import evidence_of, predict
from tutelage.engine.settings import Settings
from tutelage.errors import ModelError
from tutelage.graph.ends import is_of_batch, parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.nodes import Frozen, Trained
from tutelage.graph.taps import call, logits_of
from tutelage.models import probes
from tutelage.models.freezing import moving_statistics
from tutelage.system.distributed import World
from tutelage.system.random import derive, seeded, uniform
from tutelage.tasks.classification import skill
from tutelage.tasks.named import task_of
from tutelage.types import Batch, View, plain_view, rows_in

SMALL = 64
"""Pixels of a side up to which a network is given 8 images to be probed by; larger ones get 4."""
TOGETHER = 64
FEWEST_PAIRS = 16
"""Images that a network of another task than classification is judged by at least."""
SURELY = 2.0
"""By so many standard errors it must do better by the labels of its images than by those of others."""

Result = Literal["passed", "warned", "not judged"]


@dataclass(frozen=True)
class Check:
    """What one check found of one network, on what it looked, and how many seconds that took."""

    name: str
    node: str
    result: Result
    looked_at: str
    found: str
    seconds: float


class Findings:
    """The checks of a run so far; `note` refuses what is wrong, or warns of it where the recipe says so."""

    def __init__(self, warn: Sequence[str]) -> None:
        self.made: list[Check] = []
        self._warn, self._since = warn, time.perf_counter()

    def note(self, name: str, node: str, looked_at: str, wrong: ModelError | str | None = None,
             not_judged: str = "") -> None:
        """One check: it passed, unless it was `not_judged` or something is wrong: a text is a warning, an error one."""
        if isinstance(wrong, ModelError) and name not in self._warn:
            wrong.where = f"node {node!r}"
            raise ModelError(wrong.what, where=wrong.where, found=f"{wrong.found}, on {looked_at}",
                             expected=wrong.expected,
                             fix=f'{wrong.fix}; or, if it is meant, [train] warn = ["{name}"]')
        text = f"{wrong.what}: {wrong.found}" if isinstance(wrong, ModelError) else wrong
        result: Result = "warned" if text else "not judged" if not_judged else "passed"
        now = time.perf_counter()
        self.made.append(Check(name, node, result, looked_at, text or not_judged, round(now - self._since, 4)))
        self._since = now


def check_networks(prepared: Prepared, data: Data, settings: Settings, world: World, *,
                   skilled: bool = True) -> list[Check]:
    """Look at the networks that live edges read, and refuse what is wrong with them.

    Without `skilled`, for smoke runs of untrained networks, nothing is asked of what they know.
    """
    findings = Findings(settings.warn)
    shown = _images(data, world, 4 if max(data.shape[1:]) > SMALL else 8)
    with seeded("checks"), _plain_arithmetic():
        for node, taps in heard(prepared.graph).items():
            kind = prepared.graph.nodes[node]
            known = isinstance(kind, Frozen) and skilled and kind.before is None and not kind.early
            _check_form(findings, node, prepared.networks[node], shown, taps, trained=isinstance(kind, Trained),
                        logits_wanted=task_of(data).logits, known=known, more=partial(_images, data, world, TOGETHER),
                        samples=task_of(data).samples)
            if known and "" in taps:
                check = _check_skill if task_of(data).classifies else _check_by_judge
                check(findings, node, prepared, data, world)
    return findings.made


def checks_json(checks: Sequence[Check]) -> dict[str, object]:
    """For checks.json in the run folder."""
    return {"seconds": round(sum(check.seconds for check in checks), 4), "checks": [asdict(check) for check in checks]}


def summary(checks: Sequence[Check]) -> list[str]:
    """A line for each network and sample: what it was asked, and how long that took."""
    lines: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        lines.setdefault((check.node, check.looked_at), []).append(check)
    return [f"checked {node} on {looked_at}: {', '.join(map(_shown, of))} ({sum(one.seconds for one in of):.1f} s)"
            for (node, looked_at), of in lines.items()]


def warnings_of(checks: Iterable[Check]) -> list[str]:
    """What is to be told to a person."""
    return [f"{check.node}: {check.found} ({check.name}, on {check.looked_at})" for check in checks
            if check.result == "warned"]


def _shown(check: Check) -> str:
    name = check.name.replace("_", " ")
    return {"passed": name, "warned": f"{name} (warning)"}.get(check.result, f"{name} not judged: {check.found}")


def heard(graph: Graph) -> dict[str, set[str]]:
    """Trained or frozen network -> its taps that live edges read, directly or through what is computed of them."""
    live = [end for edge in graph.edges if callable(edge.weight) or edge.weight for end in edge.ends]
    taps_of: dict[str, set[str]] = {}
    for end in graph.order(live):
        node, tap, _ = parse_end(end)
        if not is_of_batch(end) and isinstance(graph.nodes[node], Trained | Frozen):
            taps_of.setdefault(node, set()).add(tap)
    return taps_of


def _images(data: Data, world: World, count: int) -> View:
    """A few training images as they are."""
    rows = first(data.train.ids, count)
    (batch,) = data.train.batches([rows], draw=None)
    return plain_view(on_device(batch, world.device).inputs)


@contextmanager
def _plain_arithmetic() -> Iterator[None]:
    """On a GPU: full float32, and the same kernel for the same shapes."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _check_form(findings: Findings, node: str, network: nn.Module, images: View, taps: set[str], *, trained: bool,
                logits_wanted: bool, known: bool, more: Callable[[], View], samples: str = "images") -> None:
    looked_at = f"{rows_in(images)} {samples}"
    note = partial(findings.note, node=node, looked_at=looked_at)
    if trained and (moving := moving_statistics(network)):
        note("moving_statistics", wrong=_moving(moving))
    try:
        copy = probes.copy_to_probe(network)
        once = partial(_read, copy)
        logits = probes.repeatable(once)
        given = logits(images)
    except Exception as error:  # the dry pass has refused what cannot run; what cannot be copied can still be trained
        if "" in taps:
            note("probabilities", not_judged=f"cannot be looked at: {_first_line(error)}")
        return
    if known and "" in taps:
        note("constant", wrong=_constant() if probes.unlikeness(logits, images) < probes.CONSTANT else None)
    weights = {name: tensor.clone() for name, tensor in copy.named_parameters()}
    probes.wake(copy)
    if not bool(logits(probes.first_rows(images, 2)).isfinite().all()):  # some number has to be what it was
        for name, parameter in copy.named_parameters():
            parameter.data.copy_(weights[name])
    note("neighbours", wrong=_neighbours(once, logits, images))
    if "" in taps and logits_wanted:
        wrong, not_judged = _probabilities(given, copy, logits, images, network, more)
        note("probabilities", wrong=wrong, not_judged=not_judged)
    if trained:
        note("training_output", wrong=_in_training(node, copy, images, sorted(taps), given))


def _read(network: nn.Module, images: View) -> Tensor:
    return logits_of(call(network, images))


def _neighbours(once: probes.Logits, logits: probes.Logits, images: View) -> ModelError | None:
    if rows_in(images) < 2:
        return None
    single = probes.first_rows(images, 1)
    try:
        with torch.no_grad():
            apart = float((once(single) - once(single)).abs().max())
        beside, alone = probes.neighbours_matter(logits, images)
    except (RuntimeError, ValueError, IndexError) as error:
        return ModelError("a network does not run on a single image", found=_first_line(error),
                          expected="logits [1, classes] for one image",
                          fix="name the dimension in squeeze(), and let nothing be averaged over the batch")
    if apart > 0:
        return ModelError("a network is random in evaluation: the same image gives other outputs each time",
                          found=f"logits that differ by {apart:.2g}", expected="the same logits",
                          fix="let dropout and noise depend on self.training")
    if not (beside > probes.NEIGHBOURS or alone > probes.ALONE):
        return None
    how = (f"logits change by {beside:.2g} of their size with other images beside" if beside > probes.NEIGHBOURS else
           f"logits change by {alone:.2g} of their size where the image is alone")
    return ModelError("a row's output depends on the other rows of its batch", found=how,
                      expected=f"{probes.NEIGHBOURS:g} of their size at most",
                      fix="take statistics and mixtures over the batch out of the network: in eval mode a row stands "
                          "for itself")


def _probabilities(given: Tensor, copy: nn.Module, logits: probes.Logits, images: View, network: nn.Module,
                   more: Callable[[], View]) -> tuple[ModelError | str | None, str]:
    """What is wrong, and why it could not be judged if so."""
    if given.dim() < 2 or given.shape[1] < 2 or not probes.within_unit(given):
        return None, ""
    if probes.sum_to_one(given.movedim(1, -1)):
        return _gives_probabilities("each row lies in [0, 1] and sums to 1, as a softmax gives it"), ""
    try:
        head = probes.last_head(copy, logits, images)
        found = None if head is None else probes.squashed(logits, head, images)
    except RuntimeError:
        found = None
    if found is None:
        whole = probes.copy_to_probe(network)
        many = probes.repeatable(partial(_read, whole))(more())
        if len(many) >= TOGETHER and many.shape[1] >= 10 and probes.within_unit(many):
            return (f"all outputs of {len(many)} images lie in [0, 1], and no head can be tried: are they "
                    "probabilities?"), ""
        return None, "its outputs lie in [0, 1], and it has no head that could be tried"
    return (_gives_probabilities("outputs stay in [0, 1] whatever weights the head has, as a sigmoid gives them")
            if found else None), ""


def _gives_probabilities(found: str) -> ModelError:
    return ModelError("a network gives probabilities where logits are wanted", found=found,
                      expected="logits: what comes before the softmax or sigmoid",
                      fix="take the softmax or sigmoid out of the network, or return the logarithm of what it gives")


def _constant() -> ModelError:
    return ModelError("a frozen network gives the same output for every image",
                      found=f"logits that differ by less than {probes.CONSTANT:g} of their size",
                      expected="outputs that depend on the image", fix="give it trained weights")


def _in_training(node: str, copy: nn.Module, images: View, taps: Sequence[str],
                 given: Tensor) -> ModelError | None:
    copy.train()
    try:
        with torch.no_grad(), seeded("probe"):
            in_training = read_as(node, copy, images, taps, "")
    except ModelError as error:
        return ModelError("a network gives something else in training than in evaluation",
                          found=f"{error.found}: {error.what}", expected="in both one tensor of logits, or a mapping "
                          'with the key "logits"', fix="switch auxiliary outputs off (options = { aux_logits = false }"
                          "), or wrap the network so that it returns its logits")
    if "" in in_training and in_training[""].shape != given.shape:
        return ModelError("a network gives something else in training than in evaluation",
                          found=f"{list(in_training[''].shape)} in training, {list(given.shape)} in evaluation",
                          expected="logits of one shape", fix="wrap the network so that it returns its logits")
    return None


def _moving(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return (f"the weights of {', '.join(layers[:3])}{more} do not learn, but their running statistics will move with "
            'the batches: write freeze = "PREFIX" in its [models.NODE], or call models.freezing.freeze, to keep them')


def _check_skill(findings: Findings, node: str, prepared: Prepared, data: Data, world: World) -> None:
    """What a frozen network makes of validation images, as many of each class as there are."""
    rows = _by_class(data.validation, skill.ENOUGH)
    note = partial(findings.note, node=node, looked_at=f"{len(rows)} images of validation")
    if len(rows) < skill.FEWEST:
        note("class_order", not_judged=f"{skill.FEWEST} labelled images are needed")
        return
    part = Part(data.validation, rows)
    logits = predict(prepared.graph, prepared.networks, part, classes=len(data.classes), batch_size=TOGETHER,
                     nodes=[node], world=world).get(node)
    if logits is None:
        note("class_order", not_judged=f"it does not give {len(data.classes)} logits")
        return
    choices, labels = skill.first_choices(logits, part.labels)
    names = data.classes
    order = skill.class_order(choices, labels, len(names))
    note("class_order", wrong=_other_order(order) if order.suspicious else None)
    pairs = skill.swapped_pairs(choices, labels, len(names))
    told = ", ".join(f"{names[a]!r} and {names[b]!r}" for a, b in pairs[:5])
    note("swapped_pairs", wrong=f"classes taken for each other: {told}" if pairs else None)
    if order.suspicious:
        note("chance", not_judged="the class order is in doubt")
        return
    found = skill.chance(choices, labels, len(names))
    barely = len(names) >= 5 and order.own < 2 / len(names)
    note("chance", wrong=ModelError("a teacher that knows nothing of these classes",
                                    found=skill.chance_text(found, len(rows)), expected="more hits than chance gives",
                                    fix="give it trained weights, and images prepared as it knows them")
         if found.ignores_the_image else f"hardly better than chance: balanced accuracy {order.own:.1%}, by chance "
         f"{1 / len(names):.1%}; was its head trained?" if barely else None)
    mark = skill.mark_of(logits, part.labels, names)
    note("one_class", wrong=mark["text"] if mark is not None and mark["kind"] == "one class" else None)


def _check_by_judge(findings: Findings, node: str, prepared: Prepared, data: Data, world: World) -> None:
    """Whether a frozen network does better by the labels of its images than by those of others: else it knows nothing.

    For tasks whose samples have no one class. The scores of the same images are compared in pairs.
    """
    task, rows = task_of(data), _by_class(data.validation, TOGETHER)
    judge = task.judge(data)
    note = partial(findings.note, node=node, looked_at=f"{len(rows)} {task.samples} of validation")
    if judge.by_sample is None or len(rows) < FEWEST_PAIRS:
        note("chance", not_judged=f"{FEWEST_PAIRS} labelled {task.samples} are needed")
        return
    part = Part(data.validation, rows)
    found = [evidence_of(prepared.graph, prepared.networks, source, judge, batch_size=TOGETHER, nodes=[node],
                         world=world).get(node) for source in (part, _Shifted(part))]
    scores = [judge.by_sample(seen).double() for seen in found if seen is not None]
    if len(scores) < 2:
        note("chance", not_judged="it cannot be scored")
        return
    own, others = scores
    pairs = ~(own.isnan() | others.isnan())
    if int(pairs.sum()) < FEWEST_PAIRS:
        note("chance", not_judged=f"{int(pairs.sum())} of these {task.samples} have a score, {FEWEST_PAIRS} are needed")
        return
    score, better = task.scores[0], own[pairs] - others[pairs]
    better = -better if score.better == "lower" else better
    sure = bool(better.mean() > SURELY * better.std() / len(better) ** 0.5)
    one = task.samples.removesuffix("s")
    shown, shifted = (score.text(float(scores[pairs].mean())) for scores in (own, others))
    note("chance", wrong=None if sure else f"cannot be told from a network that ignores the {one}: by {one}, "
         f"{score.title} {shown}, and {shifted} by the labels of other {task.samples}; was it trained for these?")


def _other_order(order: skill.ClassOrder) -> ModelError:
    return ModelError(f"outputs fit the classes better in another order ({100 * order.own:.0f} %, "
                      f"{100 * order.other:.0f} %): another class order, or a head that was never trained",
                      found=f"balanced accuracy {order.own:.1%} in its own order, {order.other:.1%} in the best",
                      expected="outputs in the order of the data's classes",
                      fix="give a file with the names of its outputs, in their order, as classes in its [models.NODE]; "
                          "or train it for these classes")


@dataclass(frozen=True, eq=False)
class _Shifted:
    """The same rows, each with the labels of the one before it in its batch."""

    part: Source

    @property
    def ids(self) -> Tensor:
        return self.part.ids

    @property
    def labels(self) -> Tensor:
        return self.part.labels

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        for batch in self.part.batches(plan, draw=draw, views=views):
            told = batch.labels
            yield batch._replace(labels=told.roll(1, 0) if isinstance(told, Tensor) else
                                 {name: values.roll(1, 0) for name, values in told.items()})


def _by_class(source: Source, limit: int) -> Tensor:
    """So many labelled rows, of each class as many as of any other if it has them; the same ones every time."""
    rows = (source.labels >= 0).nonzero()[:, 0]
    rows = rows[uniform(derive("checks"), source.ids[rows], 1)[:, 0].argsort(stable=True)]
    rows = rows[source.labels[rows].argsort(stable=True)]
    _, counts = source.labels[rows].unique_consecutive(return_counts=True)
    rank = torch.arange(len(rows)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return rows[rank.argsort(stable=True)][:limit].sort().values


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:300] if lines else type(error).__name__
