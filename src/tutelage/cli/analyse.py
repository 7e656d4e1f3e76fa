"""The commands that train nothing, `tutelage search` and `tutelage analyse`; written like those of `commands`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tutelage.cli.commands import Debug, Json, Plugin, Set
from tutelage.cli.terminal import note, say
from tutelage.errors import UsageError

Number = TypeVar("Number", int, float)


def search_diswot(
        teacher: Annotated[Path, typer.Argument(metavar="RUN_OR_RECIPE", help="Its data and its teacher are used.")],
        node: Annotated[str | None, typer.Option(help="Which network is the teacher.")] = None,
        candidates: Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML file of candidates.")] = None,
        blocks: Annotated[str, typer.Option(help="Else CIFAR ResNets: blocks of each of 3 stages.")] = "1,3,5,7",
        widths: Annotated[str, typer.Option(help="And channels of the first of them.")] = "16",
        most_parameters: Annotated[int | None, typer.Option("--max-parameters", help="Of a candidate.", min=1)] = None,
        most_flops: Annotated[int | None, typer.Option("--max-flops", help="Of one image.", min=1)] = None,
        evaluations: Annotated[int, typer.Option(help="Candidates to score at most.", min=1)] = 200,
        semantic: Annotated[str, typer.Option(help="auto, grad_outer, channel_gram or cam.")] = "auto",
        batch: Annotated[int, typer.Option(help="Images of a batch.", min=2)] = 64,
        batches: Annotated[int, typer.Option(help="Batches to average over.", min=1)] = 2,
        initialisations: Annotated[int, typer.Option(help="Random weights to average over.", min=1)] = 3,
        seed: Annotated[int, typer.Option(help="Of weights, images and evolution.")] = 0,
        show: Annotated[int, typer.Option(help="Rows of the table.", min=1)] = 10,
        set_: Set = None, plugin: Plugin = None, as_json: Json = False, debug: Debug = False) -> None:
    """Look for the student that fits a teacher, without training any, and show what counting parameters would say.

    tutelage search diswot runs/teacher --blocks 1,3,5,7 --widths 8,16 --max-parameters 300000
    """
    from tutelage.analysis.search.run import SearchSettings, search_for, teacher_named
    from tutelage.analysis.search.space import family, read_candidates
    from tutelage.cli.analysis_text import search_text
    from tutelage.cli.named import file_of
    from tutelage.system.distributed import choose_device

    settings = SearchSettings(semantic, batch, batches, initialisations, most_parameters, most_flops, evaluations, seed)
    among = family(_numbers("--blocks", blocks), _numbers("--widths", widths)) if candidates is None else (
        read_candidates(file_of(candidates)))
    recipe, spec = teacher_named(file_of(teacher, folders=True), node, set_ or [], plugin or [])
    found = search_for(recipe, spec, among, settings, choose_device(recipe.train.device))
    say(json.dumps(found.as_json()) if as_json else search_text(found, show))


def analyse_complexity(
        run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
        node: Annotated[str | None, typer.Option(help="Only this student.")] = None,
        kernel: Annotated[str, typer.Option(help="shared by the logits, or exact.")] = "shared",
        weights: Annotated[str, typer.Option(help="The student's at the start or at the end of the run.")] = "start",
        images: Annotated[int, typer.Option(help="How many.", min=1)] = 128,
        on: Annotated[str, typer.Option(help="Of train, validation or test.")] = "train",
        temperatures: Annotated[str, typer.Option(help="That divide what the teachers say.")] = "1,4",
        seed: Annotated[int, typer.Option(help="Which images.")] = 0,
        plugin: Plugin = None, as_json: Json = False, debug: Debug = False) -> None:
    """Measure how hard what each teacher of a run says is for its student, by the student's neural tangent kernel.

    tutelage analyse complexity runs/dual-0 --node resnet8 --temperatures 1,2,4
    """
    from tutelage.analysis.supervision import AnalysisSettings, analyse
    from tutelage.cli.analysis_text import complexity_text

    settings = AnalysisSettings(kernel, weights, images, on, _numbers("--temperatures", temperatures, float), seed)
    found, notes = analyse(run, settings, node, plugin or [])
    for text_ in notes:
        note(text_)
    say(json.dumps(found.as_json()) if as_json else complexity_text(found))


def _numbers(option: str, words: str, kind: Callable[[str], Number] = int) -> tuple[Number, ...]:
    """Numbers between commas."""
    try:
        return tuple(kind(word) for word in words.split(","))
    except ValueError:
        raise UsageError("not numbers between commas", where=option, found=words,
                         expected="such as 1,3,5" if kind is int else "such as 1,2.5") from None
