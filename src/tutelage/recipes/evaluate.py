"""A finished run measured on one of its splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tutelage.data.assemble import sample_of
from tutelage.data.pair_source import PairSource
from tutelage.data.source import Source
from tutelage.engine.predict import evidence_of, predict, robustness
from tutelage.errors import UsageError
from tutelage.graph.ends import parse_end
from tutelage.graph.graph import Graph
from tutelage.graph.naming import unbound
from tutelage.graph.nodes import Computed, Ensemble, Frozen, Trained
from tutelage.models.cost import costs
from tutelage.recipes.evaluate_by_judge import assess_by_judge, of_training_by_judge
from tutelage.recipes.trained_run import FinishedRun, finished_run
from tutelage.runs.evaluations import Evaluation, finite, write_cost, write_evaluation
from tutelage.system.distributed import World, lead
from tutelage.tasks.classification.attacks import Adversary, Attack
from tutelage.tasks.classification.evaluate import assess, of_training
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.named import task_of
from tutelage.tasks.scores import scores_json
from tutelage.tasks.task import Task
from tutelage.types import plain_view

ENSEMBLE = "ensemble"
STEPS_OF_ATTACK = 10
TRAINING_IMAGES = 1000
"""Of what was learned from, so many images are looked at, to say how much of it a network knows."""


def evaluate_run(run: Path, split: str, world: World, plugins: Sequence[str] = (), *, cost: bool = True,
                 eps: float | None = None,
                 note: Callable[[str], None] = lambda text: None) -> tuple[dict, dict | None]:
    """Measure a finished run on one of its splits, write that into its folder, and give the metrics and the cost.

    Every network counts, and the ensemble of the students where there are several. What has learned is attacked too,
    within `eps`, by default as in training; 0 for no attack. Ranks share the images; the first of them measures and
    writes, and on the others the metrics are empty.
    """
    opened = finished_run(run, world, plugins)
    for text in opened.notes if world.main else ():
        note(text)
    source, task = opened.split(split), task_of(opened.data)
    measured = (_classes if task.classifies else _by_judge)(opened, task, split, source, eps, world)
    found: list[dict] = []

    def measure() -> None:
        evaluation = measured()
        write_evaluation(run, evaluation)
        found.append(finite(evaluation.metrics))
        if cost:
            found.append(_cost(opened, world))
            write_cost(run, found[1])

    lead(world, measure if world.main else None)
    return (found[0] if found else {}), (found[1] if len(found) > 1 else None)


def _classes(opened: FinishedRun, task: Task, split: str, source: Source, eps: float | None,
             world: World) -> Callable[[], Evaluation]:
    """How networks that tell classes apart are measured; all ranks have predicted, and one of them calls it."""
    ask = partial(predict, _judged(opened, task), opened.models, classes=len(opened.data.classes), world=world,
                  batch_size=opened.recipe.data.batch_size)
    predictions = ask(source)
    held_out = predictions if split == "validation" else ask(opened.data.validation)
    robust = _robust(opened, source, list(predictions), eps, world)
    training = _training(opened.data.train, ask) if split != "train" else None

    def measure() -> Evaluation:
        evaluation = assess(opened.graph, split, source, predictions, opened.data.classes,
                            (opened.data.validation, held_out), robust, training,
                            opened.data.also_in_training.get(split))
        judge = task.judge(opened.data)
        for node, logits in predictions.items():  # what the task says besides, such as of what is out of scope
            said = judge.summary({"logits": logits, "labels": source.labels})
            evaluation.metrics["nodes"][node] |= {key: value for key, value in said.items()
                                                  if key not in evaluation.metrics["nodes"][node]}
        called = {} if task.samples == CLASSIFICATION.samples else {"samples": task.samples}
        return replace(evaluation, metrics={**evaluation.metrics, **scores_json(task), **called})

    return measure


def _by_judge(opened: FinishedRun, task: Task, split: str, source: Source, eps: float | None,
              world: World) -> Callable[[], Evaluation]:
    """How networks of another task are measured, by its judge; otherwise as `_classes`."""
    if eps:
        raise UsageError("only networks that tell classes apart are attacked", where="--attack",
                         found=f"a run of task {task.name}", fix="leave it out")
    graph, judge, train = _judged(opened, task), (task.assess or task.judge)(opened.data), opened.data.train
    ask = partial(evidence_of, graph, opened.models, judge=judge, world=world,
                  batch_size=opened.recipe.data.batch_size)
    seen, labelled = ask(source), int((train.labels >= 0).sum())
    sample = None if split == "train" or not labelled else sample_of(train, TRAINING_IMAGES)
    training = None if sample is None else of_training_by_judge(judge, task, len(sample.ids), labelled, ask(sample))
    return lambda: assess_by_judge(opened, graph, task, judge, split, seen, training)


def _training(source: Source, ask: Callable[[Source], Mapping[str, Tensor]]) -> dict[str, object] | None:
    """How well the networks know images that they learned from, as they are: a sample; None where none has a label."""
    sample, labelled = sample_of(source, TRAINING_IMAGES), int((source.labels >= 0).sum())
    return of_training(sample, ask(sample), labelled) if labelled else None


def _robust(opened: FinishedRun, source: Source, nodes: Sequence[str], eps: float | None, world: World) -> dict | None:
    """The accuracy of each network on images made against each that has learned; None where nothing is attacked."""
    trained = [controller.attack for controller in opened.graph.controllers.values()
               if isinstance(controller, Adversary)]
    if eps is not None:
        attack = Attack(eps, eps / 4, STEPS_OF_ATTACK)
    else:
        attack = replace(trained[0], steps=STEPS_OF_ATTACK) if trained else Attack(0.0)
    if not attack.eps or not bool((source.labels >= 0).any()):
        return None
    models = {node: opened.models[node] for node in nodes if node in opened.models}
    attacked = [node for node in models if not isinstance(opened.graph.nodes[node], Frozen)]
    shares = robustness(models, source, attack, attacked=attacked, batch_size=opened.recipe.data.batch_size,
                        world=world)
    return {**asdict(attack), "top1": shares}


def _judged(opened: FinishedRun, task: Task) -> Graph:
    """The nodes that need nothing but the networks, and the ensemble of the students; no edges."""
    graph, students = opened.graph, opened.graph.named(Trained)
    nodes = {name: kind for name, kind in graph.nodes.items() if not _needs_part(graph, name)}
    if len(students) > 1 and ENSEMBLE not in graph.nodes:
        nodes[ENSEMBLE] = Ensemble(students, task.mean)
    return Graph(nodes, [])


def _needs_part(graph: Graph, node: str) -> bool:
    """Whether a node is computed by a module, which is not among a run's networks."""
    kinds = [graph.nodes.get(parse_end(end).node) for end in graph.order([node])]
    return any(isinstance(kind, Computed) and isinstance(unbound(kind.by), nn.Module) for kind in kinds)


def _cost(opened: FinishedRun, world: World) -> dict:
    frozen = opened.graph.named(Frozen)
    files = {node: opened.folder / "models" / f"{node}.safetensors" for node in opened.models if node not in frozen}
    example = None
    if len(opened.data.shape) != 3 or isinstance(opened.data.train, PairSource):
        (one,) = sample_of(opened.data.validation, 1).batches([torch.arange(1)], draw=None)
        example = plain_view(one.inputs)  # no image: a row may be several tensors
    return costs(opened.models, opened.data.shape, opened.data.classes, world.device,
                 teacher=frozen[0] if frozen else None, files=files, example=example)
