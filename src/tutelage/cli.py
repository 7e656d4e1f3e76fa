"""The command. Thin: it reads words, calls what they name, prints what comes back; no hyperparameter is a flag.

Nothing here imports torch until a command needs it, so that help is there at once.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tutelage.errors import PeerError, ResourceError, UsageError, UserError

if TYPE_CHECKING:
    from tutelage.training import Progress

EXIT_CODES = """Exit codes: 0 finished; 2 usage or recipe; 3 data; 4 model, weights or checkpoint; 5 a number that is no
longer finite; 6 disk, memory or handles; 7 run folder in use; 8 another rank failed; 9 refused for security; 130
and 143 stopped by Ctrl-C or SIGTERM, resumable; 70 a bug of ours (the traceback is in the run folder)."""
app = typer.Typer(name="tutelage", no_args_is_help=True, add_completion=True, rich_markup_mode=None,
                  pretty_exceptions_enable=False, epilog=EXIT_CODES)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a key.")]
Plugin = Annotated[list[str] | None, typer.Option(metavar="MODULE", help="Allow networks of this Python module.")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML recipe; recipes/ has some.")]


@app.callback()
def tutelage() -> None:
    """Teach small image classifiers: from a teacher trusted as far as it is sure, and from each other.

    Examples:

      tutelage methods

      tutelage graph recipes/digits/dual_student.toml

      tutelage train recipes/digits/dual_student.toml --out runs/dual-0

      tutelage train --resume runs/dual-0

      tutelage evaluate runs/dual-0 --on test

      tutelage report runs/dual-0 --to report.html

      tutelage init my-photos --teacher timm:resnet50 --students timm:resnet18 timm:mobilenetv2_100
    """


@app.command()
def train(recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="A TOML recipe.")] = None,
          out: Annotated[Path | None, typer.Option(help="The run folder to make, or to go on with.")] = None,
          resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
          set_: Set = None, plugin: Plugin = None,
          quick: Annotated[bool, typer.Option(help="Three steps on synthetic images: a smoke run.")] = False,
          as_json: Json = False, debug: Debug = False) -> None:
    """Train the networks of a recipe in a run folder. A run that was stopped, or killed, goes on to the same bits.

    tutelage train recipes/cifar100/dual_student.toml --out runs/dual-0 --set train.seed=1
    """
    from tutelage.config import read_recipe
    from tutelage.jobs import make_job, recipe_of_run, train_job
    from tutelage.world import connect, disconnect

    if (recipe is None) == (resume is None) or (recipe is not None and out is None):
        raise UsageError("say what to train", expected="RECIPE --out DIR, or --resume DIR")
    if resume is not None and (out is not None or set_ or quick):
        raise UsageError("a resumed run keeps its own recipe", found="--resume with --out, --set or --quick",
                         fix="tutelage train --resume DIR")
    if resume is not None:
        where, folder, words = resume / "config.toml", resume, recipe_of_run(resume, plugin or [])
    else:
        assert recipe is not None
        assert out is not None
        where, folder, words = recipe, out, read_recipe(recipe, set_ or [], quick=quick, plugins=plugin or [])
    asked = _listen_to_signals()
    world = connect(words.train.device)
    try:
        if world.main and _already_finished(folder, words.text(), as_json):
            return
        job = make_job(words, world, where)
        if world.main and not as_json:
            _say(f"{job.graph}\n")
        for note in job.notes if world.main else ():
            _note(note)
        for event in train_job(job, folder, world, lambda: asked[0] if asked else 0):
            if world.main and event is not None:
                _show(event, job.settings.epochs, as_json)
        if world.main:
            _say(json.dumps({"event": "finished", "out": str(folder)}) if as_json else f"finished: {folder}")
    finally:
        disconnect()


@app.command()
def evaluate(run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
             on: Annotated[str, typer.Option(help="validation, test or train.")] = "validation",
             cost: Annotated[bool, typer.Option(help="Also measure parameters, FLOPs, bytes and latency.")] = True,
             plugin: Plugin = None, as_json: Json = False, debug: Debug = False) -> None:
    """Measure the networks of a finished run, and the ensemble of its students, on one of its splits.

    All numbers, logits and example images are written into RUN/evaluation/.

    tutelage evaluate runs/dual-0 --on test --json
    """
    if on not in ("validation", "test", "train"):
        raise UsageError("unknown split", where="--on", found=on, expected="validation, test or train")
    from tutelage.assessment import tables
    from tutelage.jobs import evaluate_run, recipe_of_run
    from tutelage.world import connect, disconnect

    world = connect(recipe_of_run(run, plugin or []).train.device)
    try:
        metrics, price = evaluate_run(run, on, world, plugin or [], cost=cost, note=_note)
    finally:
        disconnect()
    if world.main:
        _say(json.dumps({"run": str(run), **metrics, "cost": price}) if as_json else tables(metrics, price))


@app.command()
def report(folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Run folders and study folders.")],
           to: Annotated[Path, typer.Option(help="The file to write.")],
           format_: Annotated[str | None, typer.Option("--format", help="html, md, csv or json.")] = None,
           force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
           debug: Debug = False) -> None:
    """Put runs and studies on one page: who learned what from whom, how well, and how to do it again.

    tutelage report runs/demo-* --to report.html
    """
    from tutelage.reporting.writing import write_report

    _say(f"{to}: {write_report(folders, to, kind=format_, force=force)} bytes")


@app.command()
def cache(recipe: RecipePath, set_: Set = None, plugin: Plugin = None, as_json: Json = False,
          debug: Debug = False) -> None:
    """Compute ahead what the teachers of a recipe say of each draw of the images; training then looks it up.

    tutelage cache recipes/cifar100/dual_student.toml --set train.draws=8
    """
    from tutelage.config import read_recipe
    from tutelage.jobs import cache_job, make_job
    from tutelage.world import connect, disconnect

    words = read_recipe(recipe, set_ or [], plugins=plugin or [])
    world = connect(words.train.device)
    try:
        for draw, run in cache_job(make_job(words, world, recipe), world):
            held = run.cache
            assert held is not None
            of, size, folder, notes = run.settings.draws, held.bytes(), str(held.folder), held.notes
            kept = {"event": "draw", "draw": draw, "of": of, "bytes": size, "folder": folder, "notes": notes}
            text = "\n  ".join([f"draw {draw + 1} of {of}: {size} bytes in {folder}", *notes])
            if world.main:
                _say(json.dumps(kept) if as_json else text)
    finally:
        disconnect()


@app.command()
def bench(recipe: RecipePath, set_: Set = None, plugin: Plugin = None,
          rounds: Annotated[int, typer.Option(help="How often everything is measured in turn.", min=1)] = 5,
          only: Annotated[list[str] | None, typer.Option(help="Only this group of rows.")] = None,
          to: Annotated[Path | None, typer.Option(help="Write the table as JSON here.")] = None,
          as_json: Json = False, debug: Debug = False) -> None:
    """Measure how fast this is on your machine, as ratios to the best floor and to a naive loop.

    tutelage bench recipes/cifar100/dual_student.toml --to bench.json
    """
    from tutelage.benching import bench_recipe
    from tutelage.config import read_recipe
    from tutelage.files import write_json
    from tutelage.world import World, choose_device

    words = read_recipe(recipe, set_ or [], plugins=plugin or [])
    result = bench_recipe(words, World(choose_device(words.train.device)), rounds, only, where=recipe,
                          tell=(lambda line: None) if as_json else _say)
    if to is not None:
        write_json(to, result)
    if as_json:
        _say(json.dumps(result))


@app.command()
def methods(names: Annotated[bool, typer.Option("--names", help="Only the names.")] = False,
            as_json: Json = False, debug: Debug = False) -> None:
    """List the methods: name, one line, paper.

    tutelage methods
    """
    from tutelage.config import method, method_names

    lines = {name: (sys.modules[method(name).__module__].__doc__ or "").strip().splitlines()[0]
             for name in method_names()}
    if as_json:
        _say(json.dumps(lines))
    elif names:
        _say("\n".join(lines))
    else:
        _say(_table([[name, line] for name, line in lines.items()]))


@app.command()
def graph(recipe: RecipePath, set_: Set = None, plugin: Plugin = None, as_json: Json = False,
          debug: Debug = False) -> None:
    """Show who learns from whom in a recipe, checked, before anything trains.

    tutelage graph recipes/digits/dual_student.toml --set method.peers=none
    """
    from tutelage.config import graph_of, read_recipe, settings_of

    words = read_recipe(recipe, set_ or [], plugins=plugin or [])
    made = graph_of(words, recipe)
    settings_of(words, made)
    if as_json:
        _say(json.dumps({"nodes": list(made.nodes), "edges": [edge.name for edge in made.edges], "table": str(made)}))
    else:
        _say(str(made))


@app.command("check-data")
def check_data(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images.")],
               as_json: Json = False, debug: Debug = False) -> None:
    """Open every image of a folder and say what is wrong with it, by file; exit code 3 if anything is.

    tutelage check-data my-photos
    """
    from tutelage.data.check import check

    report = check(folder)
    _say(report.as_json() if as_json else str(report))
    if report.errors:
        raise typer.Exit(3)


@app.command(context_settings={"allow_extra_args": True})
def init(context: typer.Context,
         folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="FOLDER/train/CLASS/* or FOLDER/CLASS/*.")],
         teacher: Annotated[str, typer.Option(help="The teacher's network.")] = "timm:resnet50",
         students: Annotated[list[str] | None, typer.Option(help="Two or more networks, one after another.")] = None,
         to: Annotated[Path, typer.Option(help="Where to write the recipes.")] = Path(),
         debug: Debug = False) -> None:
    """Look at your images and write two recipes, teacher.toml and students.toml, with defaults that fit them.

    tutelage init my-photos --teacher timm:resnet50 --students timm:resnet18 timm:mobilenetv2_100
    """
    from tutelage.starting import write_recipes

    chosen = [*(students or []), *context.args] or ["timm:resnet18", "timm:mobilenetv2_100"]
    _say(write_recipes(folder, teacher, chosen, to))


def main() -> None:
    """The command's entry: every error a user can mend is one block on stderr, and an exit code."""
    arguments = sys.argv[1:]
    try:
        app(standalone_mode=True)
    except UserError as error:
        _fail(error, arguments)
    except (KeyboardInterrupt, SystemExit) as stop:
        sys.exit(130 if isinstance(stop, KeyboardInterrupt) else stop.code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing is left to say
        sys.exit(0)
    except MemoryError:
        _fail(ResourceError("out of memory", fix="lower batch_size, raise accumulate, or lower image_size"), arguments)
    except Exception as error:
        _fail_unforeseen(error, arguments)


def _fail_unforeseen(error: Exception, arguments: list[str]) -> None:
    from tutelage.training import Interrupted

    if isinstance(error, Interrupted):
        print("stopped; a checkpoint is saved. Go on with: tutelage train --resume DIR", file=sys.stderr)
        sys.exit(128 + error.number)
    text = str(error)
    if "out of memory" in text.lower():
        _fail(ResourceError("out of memory", found=text.splitlines()[0],
                            fix="lower batch_size, raise accumulate, or lower image_size"), arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(word in text for word in ("gloo", "NCCL", "peer")):
        _fail(PeerError("another rank of this run is gone", found=text.splitlines()[0],
                        fix="start all ranks again: the run goes on from its last checkpoint"), arguments)
    named = [Path(arguments[i + 1]) for i, word in enumerate(arguments[:-1]) if word in ("--out", "--resume")]
    folder = named[0] if named else None
    place = folder / "crash.txt" if folder is not None and folder.is_dir() else None
    if place is not None:
        place.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    if "--debug" in arguments or place is None:
        traceback.print_exception(error)
    print(f"error[internal]: {type(error).__name__}: {error}\n  fix       this is a bug of tutelage; please report it"
          + (f" with {place}" if place else ""), file=sys.stderr)
    sys.exit(70)


def _fail(error: UserError, arguments: list[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exception(error)
    if "--json" in arguments:
        print(json.dumps(error.fields() | {"exit_code": error.exit_code}), file=sys.stderr)
    else:
        print(f"error[{error.kind}]: {error.block()}", file=sys.stderr)
    sys.exit(error.exit_code)


def _already_finished(folder: Path, config: str, as_json: bool) -> bool:
    """Whether this very run is done; another run in the folder is left to `open_run` to refuse."""
    from tutelage.records import finished

    if finished(folder) is None or (folder / "config.toml").read_text(encoding="utf-8") != config:
        return False
    _say(json.dumps({"event": "already finished", "out": str(folder)}) if as_json else f"already finished: {folder}")
    return True


def _listen_to_signals() -> list[int]:
    """The first signal asks the loop to stop after this step; the second stops at once (files stay whole)."""
    asked: list[int] = []

    def ask(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.SIGTERM if number == signal.SIGHUP else number)
        print("stopping after this step; again to stop at once", file=sys.stderr)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    return asked


def _show(event: Any, epochs: int, as_json: bool) -> None:
    from tutelage.training import Progress

    if as_json:
        _say(json.dumps({"event": type(event).__name__.lower(), **vars(event)}))
    elif not isinstance(event, Progress):
        _say(("\r\033[K" if sys.stdout.isatty() else "") + str(event))
    elif sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r\033[K" + _line(event, epochs)[:width], end="", flush=True)


def _line(progress: "Progress", epochs: int) -> str:
    left = (progress.steps - progress.step) * progress.batch_size / max(progress.images_per_second, 1e-9)
    losses = "  ".join(f"{edge} {value:.3f}" for edge, value in progress.losses.items())
    accuracy = "  ".join(f"{node} {share:.1%}" for node, share in progress.accuracy.items())
    return (f"epoch {progress.epoch}/{epochs}  step {progress.step}/{progress.steps}  {progress.images_per_second:.0f} "
            f"images/s  {int(left // 60)}:{int(left % 60):02d} left  {accuracy}  {losses}")


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # a reader that has gone must not stop a training run
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
