"""A network of a run folder, exported or used at once."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tutelage.data.images import Preparation, printable
from tutelage.data.series_scaling import SeriesScaling
from tutelage.data.source import Data
from tutelage.data.text_preparation import TEXT, TextPreparation, text_preparation
from tutelage.data.user_source import UserSource
from tutelage.engine.train import load
from tutelage.errors import ModelError, SecurityError, UsageError
from tutelage.exporting.export import Images, export_network, require_place
from tutelage.exporting.formats import format_of, require_possible
from tutelage.exporting.module import Choice, Student, said_of
from tutelage.exporting.predict import (
    BOXES,
    FUSION,
    NUMBERS,
    Predictor,
    Prepared,
    predictor,
    prepared_by,
)
from tutelage.exporting.predict_users import ItemScorer, is_of_vectors, scorer_of_network, scorer_of_vectors
from tutelage.exporting.text import tokenizer_beside, tokenizer_of, view_for
from tutelage.exporting.vectors import export_vectors
from tutelage.exporting.verify import ACCURACY_LOST
from tutelage.models.saved import load_network
from tutelage.models.weights import read_metadata
from tutelage.recipes.recipe import Recipe
from tutelage.recipes.trained_run import recipe_of_run
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.detection.predicted import detections_of
from tutelage.tasks.forecast.rows import gaussians_of
from tutelage.tasks.named import data_for, task_of
from tutelage.tasks.recommendation.task import RECOMMENDATION
from tutelage.tasks.segmentation.task import SEGMENTATION
from tutelage.tasks.series import SERIES

NEVER_READ = (".pt2", ".pte")


def choice(target: Path, format_: str | None, int8: bool, resize: bool) -> Choice:
    """Which file is wanted; its format is that of the suffix, unless it is given."""
    return Choice(format_of(target.name, format_), int8, resize)


def export_run(run: Path, node: str, target: Path, wanted: Choice, *, on: str = "validation", force: bool = False,
               agreement: float, accuracy_lost: float = ACCURACY_LOST,
               plugins: Sequence[str] = ()) -> dict[str, object]:
    """Export one node of a finished run, tried on one of the run's splits; what was measured is returned."""
    require_place(target, force)
    require_possible(wanted)
    recipe = recipe_of_run(run, plugins)
    require_possible(wanted, recipe.data.work == SERIES.name, recipe.data.work in BOXES, recipe.data.work in NUMBERS,
                     recipe.data.work == FUSION)
    network, classes, data = _with_data(run, node, recipe)
    if isinstance(data.train, UserSource):
        target.parent.mkdir(parents=True, exist_ok=True)
        return export_vectors(network, classes, data.train, node, target, wanted, recipe.data.columns)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    if on not in splits:
        raise UsageError("unknown split", where="--on", found=on, expected="validation, test or train")
    held_out = splits[on]
    if held_out is None:
        raise UsageError(f"these data have no {on} split", where=run / "config.toml", fix="--on validation")
    prepared = _prepared(run / "models" / f"{node}.safetensors")
    if isinstance(prepared, TextPreparation):
        prepared = prepared.of(tokenizer_of(network))
    student = Student(network, classes, prepared, node, task_of(data).name)
    return export_network(student, target, wanted, Images(held_out, data.train, on), force=force, agreement=agreement,
                          accuracy_lost=accuracy_lost, plugins=recipe.plugins)


def _with_data(run: Path, node: str, recipe: Recipe) -> tuple[nn.Module, tuple[str, ...], Data]:
    """A network of a finished run, its classes, and the data that it was trained on."""
    network, classes = load(run, node, plugins=recipe.plugins)
    data = data_for(replace(recipe.data, workers=0), seed=recipe.train.seed, quick=recipe.quick)
    if data.classes != classes:
        what = "items" if isinstance(data.train, UserSource) else "classes"
        raise ModelError(f"the data have other {what} than the network", where=run / "config.toml",
                         found=f"{len(data.classes)} {what}, such as {printable(data.classes[0])}",
                         expected=f"{len(classes)} {what}, such as {printable(classes[0])}",
                         fix="restore the data that the run was trained on")
    return network, classes, data


def open_scorer(place: Path, node: str | None, plugins: Sequence[str] = ()) -> ItemScorer | None:
    """The recommender of a run folder (of this node, or its only one) or of exported vectors; None for what is none."""
    if place.suffix.lower() in NEVER_READ:
        return None
    path = _file(place, node)
    if not place.is_dir() and is_of_vectors(path):
        return scorer_of_vectors(path)
    if read_metadata(path).get("task") != RECOMMENDATION.name:
        return None
    if not place.is_dir():
        raise UsageError("weights alone do not know their users", where=printable(place), expected="a run folder, or "
                         "vectors of `tutelage export`")
    recipe = recipe_of_run(place, plugins)
    network, items, data = _with_data(place, path.stem, recipe)
    sources = [source for source in (data.train, data.validation, data.test) if isinstance(source, UserSource)]
    return scorer_of_network(network, items, sources, recipe.data.columns)


def open_predictor(place: Path, node: str | None, plugins: Sequence[str] = ()) -> Predictor:
    """The network of a run folder (of this node, or its only one) or of a .safetensors file, run by torch."""
    if place.suffix.lower() in NEVER_READ:
        raise SecurityError(f"refused: a {place.suffix} file is loaded only by the export that has just written it",
                            where=printable(place), expected="an .onnx or .safetensors file, or a run folder",
                            fix="tutelage export RUN --node NAME --to student.onnx")
    path = _file(place, node)
    network, classes = load_network(path, plugins=plugins)
    prepared, told = _prepared(path), read_metadata(path)
    if isinstance(prepared, SeriesScaling):
        return predictor(classes, SERIES.name, prepared, _runner(network.eval(), None))
    if isinstance(prepared, TextPreparation):
        return predictor(classes, prepared.task, prepared.of(tokenizer_of(network)), _runner(network.eval(), None))
    task = told.get("task", CLASSIFICATION.name)
    if not isinstance(prepared, Preparation):
        return predictor(classes, task, prepared, _forecaster(network.eval(), len(classes)))
    if task in BOXES:
        return predictor(classes, task, prepared, _finder(network.eval(), prepared.size))
    size = prepared.shape[1:] if task == SEGMENTATION.name else None
    return predictor(classes, task, prepared, _runner(network.eval(), size))


def _file(place: Path, node: str | None) -> Path:
    if not place.is_dir():
        if place.suffix.lower() != ".safetensors" or not place.is_file():
            raise UsageError("not a model to predict with", where=printable(place),
                             expected="an .onnx or .safetensors file, or a run folder",
                             found="no such file" if not place.exists() else None)
        return place
    there = sorted(file.stem for file in (place / "models").glob("*.safetensors"))
    if node is None and len(there) == 1:
        node = there[0]
    if node not in there:
        raise UsageError("say which network" if node is None else f"no trained network {node!r}",
                         where=printable(place),
                         found=", ".join(there) or "none", expected=None if there else "a finished run",
                         fix=f"--node {there[0]}" if there else "tutelage train --resume DIR")
    return place / "models" / f"{node}.safetensors"


def _prepared(path: Path) -> Prepared:
    text = read_metadata(path).get("preprocessing")
    if text is None:
        raise ModelError("these weights do not say how images are prepared for them", where=path,
                         found="no entry 'preprocessing' in the metadata", fix="take a file of a run of this package")
    told = json.loads(text)
    return text_preparation(told, tokenizer_beside(path)) if told.get("kind") == TEXT else prepared_by(told)


def _runner(network: nn.Module, size: tuple[int, int] | None) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    def logits(given: Mapping[str, np.ndarray]) -> np.ndarray:
        view = {name: torch.from_numpy(array) for name, array in given.items()}
        with torch.no_grad():
            return said_of(network, view_for(network, view), size).numpy()

    return logits


def _forecaster(network: nn.Module, count: int) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """What gives means and standard deviations."""
    raw = _runner(network, None)
    return lambda given: gaussians_of(torch.from_numpy(raw(given)), count).numpy()


def _finder(network: nn.Module, size: tuple[int, int]) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """What finds boxes in images of this size."""
    packed = _runner(network, None)
    return lambda given: detections_of(torch.from_numpy(packed(given)), size).numpy()
