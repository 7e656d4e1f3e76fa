"""`tutelage search`: which student fits a teacher, by scores that need no training, beside the count of parameters.

The score of a candidate is a mean over pairs of random weights and batches, see `diswot`. `Found` is one scored
candidate, `Search` all of them, best first, with what they were measured on and how the scores order them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from tutelage.analysis.search.diswot import SEMANTICS, Reading, read_batch, similarities
from tutelage.analysis.search.evolution import Evolution, Genes, evolve
from tutelage.analysis.search.space import Candidates
from tutelage.data.source import Data, Source
from tutelage.data.stream import CPU
from tutelage.errors import DataError, ModelError, UsageError, UserError, placed, unknown
from tutelage.graph.nodes import Frozen
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.cost import flops, parameters
from tutelage.models.network import Network
from tutelage.recipes.recipe import Recipe, graph_of, read_recipe
from tutelage.recipes.trained_run import recipe_of_run
from tutelage.system.random import derive, permutation, seeded
from tutelage.tasks.named import data_for
from tutelage.types import Batch

BASELINES = ("parameters", "flops")
MEASURES = ("score", "relation", "semantic", "rank_sum", *BASELINES)


@dataclass(frozen=True)
class SearchSettings:
    """How a search measures and how long it looks.

    semantic: one of `diswot.SEMANTICS`, or "auto".
    batch, batches: how many images each network sees at a time, and how many times.
    initialisations: how often all weights are drawn anew.
    most_parameters, most_flops: what a candidate may have at most; FLOP of one image, as `models.cost` counts them.
    evaluations: so many candidates are scored at most.
    seed: of weights, images and evolution.
    """

    semantic: str = "auto"
    batch: int = 64
    batches: int = 2
    initialisations: int = 3
    most_parameters: int | None = None
    most_flops: int | None = None
    evaluations: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.semantic not in ("auto", *SEMANTICS):
            raise unknown("semantic term", self.semantic, ("auto", *SEMANTICS), where="--semantic")
        least = {"batch": 2, "batches": 1, "initialisations": 1, "evaluations": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(f"too few: {name}", where=f"--{name}", found=getattr(self, name),
                                 expected=f"{bound} or more")


@dataclass(frozen=True)
class ScoredCandidate:
    """A scored candidate. `rank_sum` is its rank by relation and its rank by semantic term, added: small is good.

    `rank` is by score, `rank_by_parameters` by their number, most first; equal ones share the mean of their places.
    `accuracy` is what the candidates' file says of it, in percent.
    """

    name: str
    architecture: Architecture
    relation: float
    semantic: float
    parameters: int
    flops: int
    accuracy: float | None
    rank: float = 0.0
    rank_sum: float = 0.0
    rank_by_parameters: float = 0.0

    @property
    def score(self) -> float:
        """The sum of the two similarities, at most 0."""
        return self.relation + self.semantic


@dataclass(frozen=True)
class Search:
    """A finished search. `found` is best first; `correlations` are by measure, each "spearman" and "kendall"."""

    teacher: str
    data: str
    semantic: str
    settings: SearchSettings
    found: tuple[ScoredCandidate, ...]
    refused: int
    of: int
    with_parameters: float | None
    correlations: Mapping[str, Mapping[str, float | None]]

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        rows = [{**asdict(one), "score": one.score, "architecture": recipe_words(one.architecture)}
                for one in self.found]
        return {**asdict(self), "settings": {**asdict(self.settings), "semantic": self.semantic}, "found": rows}


def search(teacher: Architecture, data: Data, candidates: Candidates, settings: SearchSettings,
           plugins: Sequence[str] = (), device: torch.device = CPU) -> Search:
    """Score candidates against a teacher, both with random weights, and let them evolve where there are too many.

    All numbers are functions of the arguments. UsageError if no candidate is small enough.
    """
    make = partial(_network, data=data, plugins=plugins, device=device)
    batches = [(batch.inputs, batch.labels) for batch in _batches(data.train, settings)]
    semantic = _semantic(settings.semantic, teacher, candidates, make)
    teachers = _readings("teacher", teacher, make, batches, settings)
    found: dict[Genes, ScoredCandidate] = {}
    refused: list[tuple[int, int]] = []

    def score(genes: Genes) -> float | None:
        name, spec = candidates.name(genes), candidates.architecture(genes)
        first = make(name, spec, seed=settings.seed)
        price = parameters(first), _told(name, partial(flops, first, data.shape, device))
        if any(most is not None and cost > most
               for cost, most in zip(price, (settings.most_parameters, settings.most_flops), strict=True)):
            refused.append(price)
            return None
        readings = _readings(name, spec, make, batches, settings)
        pairs = [_told(name, partial(similarities, one, other, semantic))
                 for one, other in zip(teachers, readings, strict=True)]
        relation, semantic_ = (fmean(values) for values in zip(*pairs, strict=True))
        found[genes] = ScoredCandidate(name, spec, relation, semantic_, *price, candidates.accuracy.get(name))
        return found[genes].score

    evolve(candidates.choices, score, Evolution(settings.evaluations, seed=settings.seed))
    if not found:
        least = min(refused)
        raise UsageError("no candidate is small enough",
                         found=f"the smallest has {least[0]} parameters, {least[1]} FLOP",
                         fix="--max-parameters and --max-flops with more")
    ranked = _ranked(list(found.values()))
    return Search(teacher.arch, data.name, semantic, settings, tuple(ranked), len(refused),
                  prod(candidates.choices), _correlation(ranked, "score", "parameters")["spearman"],
                  _against_accuracy(ranked))


def teacher_named(place: Path, node: str | None, overrides: Sequence[str] = (),
                  plugins: Sequence[str] = ()) -> tuple[Recipe, Architecture]:
    """The recipe of a run folder, or of a file, and its teacher: this node, the one frozen network, or the only one."""
    recipe = recipe_of_run(place, plugins) if place.is_dir() else read_recipe(place, overrides, plugins=plugins)
    if place.is_dir() and overrides:
        raise UsageError("a run keeps its own recipe", where="--set", found=", ".join(overrides),
                         fix="give a recipe instead of the run folder")
    frozen = [name for name in graph_of(recipe, place).named(Frozen) if name in recipe.models]
    if node is None:
        alone = [names[0] for names in (frozen, list(recipe.models)) if len(names) == 1]
        if not alone:
            raise UsageError("say which network is the teacher", where=place, found=", ".join(recipe.models),
                             fix=f"--node {next(iter(recipe.models))}")
        node = alone[0]
    if node not in recipe.models:
        raise unknown("network", node, recipe.models, where="--node")
    return recipe, recipe.models[node]


def search_for(recipe: Recipe, teacher: Architecture, candidates: Candidates, settings: SearchSettings,
               device: torch.device) -> Search:
    """The search with a recipe's data and the plugins that it is allowed."""
    data = data_for(recipe.data, seed=recipe.train.seed, device=device, quick=recipe.quick)
    return search(teacher, data, candidates, settings, recipe.plugins, device)


def fresh(spec: Architecture) -> Architecture:
    """The same network, plain and with nothing learned."""
    return replace(spec, weights=None, pretrained=False, head="strict", classes=None, cut=None, draws=None,
                   dropout=None)


def _network(name: str, spec: Architecture, *, seed: int, data: Data, plugins: Sequence[str],
             device: torch.device) -> nn.Module:
    make = partial(build, fresh(spec), class_names=data.classes, channels=data.shape[0], name=name, seed=seed,
                   plugins=plugins)
    return _told(name, make).to(device)


def _told(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError as error:
        raise placed(error, f"network {name!r}") from None
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ModelError("a network does not run on these images", where=f"network {name!r}", found=error,
                         fix="set the image_size that the network takes, or take another network") from error


def _batches(source: Source, settings: SearchSettings) -> Iterator[Batch]:
    """So many batches of plain images with a label: which ones is a function of the seed."""
    labelled = (source.labels >= 0).nonzero()[:, 0]
    if len(labelled) < settings.batch:
        raise DataError("fewer labelled training images than one batch", found=f"{len(labelled)} images",
                        expected=f"{settings.batch} or more", fix=f"--batch {max(2, len(labelled))}")
    plan = [labelled[permutation(derive(settings.seed, "diswot", number), len(labelled))[: settings.batch]]
            for number in range(settings.batches)]
    return source.batches(plan, draw=None)


def _readings(name: str, spec: Architecture, make: Callable[..., nn.Module], batches: Sequence[Any],
              settings: SearchSettings) -> list[Reading]:
    found = []
    for number in range(settings.initialisations):
        network = make(name, spec, seed=derive(settings.seed, "initialisation", number)).train()
        for place, (images, labels) in enumerate(batches):
            with seeded(settings.seed, "diswot", number, place):
                found.append(_told(name, partial(read_batch, network, images, labels)))
    return found


def _semantic(asked: str, teacher: Architecture, candidates: Candidates, make: Callable[..., nn.Module]) -> str:
    """"auto" is grad_outer where the classifiers of teacher and candidates read equally many numbers, else cam.

    One place after the other is varied to see that: all combinations would be too many.
    """
    if asked != "auto":
        return asked
    own = _classifier_width(make("teacher", teacher, seed=0))
    start = [0] * len(candidates.choices)
    for place, count in enumerate(candidates.choices):
        for gene in range(count):
            genes = (*start[:place], gene, *start[place + 1:])
            if _classifier_width(make(candidates.name(genes), candidates.architecture(genes), seed=0)) != own:
                return "cam"
    return "grad_outer"


def _classifier_width(network: nn.Module) -> int | None:
    assert isinstance(network, Network)
    widths = [module.in_features for module in network.modules()
              if isinstance(module, nn.Linear) and module.out_features == len(network.body_classes)]
    return widths[-1] if widths else None


def _ranked(found: Sequence[ScoredCandidate]) -> list[ScoredCandidate]:
    """Best first, every rank filled in."""
    by_score, by_relation, by_semantic, by_parameters = (
        stats.rankdata([-value for value in values]).tolist()
        for values in ([one.score for one in found], [one.relation for one in found],
                       [one.semantic for one in found], [one.parameters for one in found]))
    ranked = [replace(one, rank=a, rank_sum=b + c, rank_by_parameters=d)
              for one, a, b, c, d in zip(found, by_score, by_relation, by_semantic, by_parameters, strict=True)]
    return sorted(ranked, key=lambda one: (one.rank, one.rank_sum, one.name))


def _correlation(found: Sequence[ScoredCandidate], measure: str, other: str) -> dict[str, float | None]:
    """Spearman's rho and Kendall's tau-b; a rank sum counts backwards. None of less than three, or if all are equal."""
    sign = -1 if measure == "rank_sum" else 1
    pairs = [(sign * getattr(one, measure), getattr(one, other)) for one in found]
    if len(pairs) < 3 or any(len(set(values)) == 1 for values in zip(*pairs, strict=True)):
        return {"spearman": None, "kendall": None}
    ours, theirs = zip(*pairs, strict=True)
    return {"spearman": float(np.asarray(stats.spearmanr(ours, theirs))[0]),
            "kendall": float(np.asarray(stats.kendalltau(ours, theirs))[0])}


def _against_accuracy(found: Sequence[ScoredCandidate]) -> dict[str, dict[str, float | None]]:
    known = [one for one in found if one.accuracy is not None]
    return {measure: _correlation(known, measure, "accuracy") for measure in MEASURES} if known else {}


def recipe_words(spec: Architecture) -> dict[str, Any]:
    """What a recipe says of a network that has learned nothing, its defaults left out."""
    plain = asdict(Architecture(spec.arch))
    return {key: value for key, value in asdict(fresh(spec)).items() if key == "arch" or value != plain[key]}
