"""The command `tutelage`: its commands, and what becomes of an error."""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from tutelage import __version__
from tutelage.cli import analyse as exploring
from tutelage.cli import commands, listing
from tutelage.cli.terminal import clear, say
from tutelage.cli.usage import Mistake, check_values, usage_error, value_of
from tutelage.errors import Interrupted, PeerError, ResourceError, UserError

EXIT_CODES = """Exit codes: 0 finished; 2 usage or recipe; 3 data; 4 model, weights or checkpoint; 5 a number that is no
longer finite; 6 disk, memory or handles; 7 run folder in use; 8 another rank failed; 9 refused for security; 130
and 143 stopped by Ctrl-C or SIGTERM, resumable; 70 a bug of ours (the traceback is in the run folder)."""
app = typer.Typer(name="tutelage", no_args_is_help=True, add_completion=True, rich_markup_mode=None,
                  pretty_exceptions_enable=False, epilog=EXIT_CODES)


def _print_version(asked: bool) -> bool:
    """Print the version and end, if that is asked."""
    if asked:
        say(f"tutelage {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def tutelage(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                   help="Print the version.")] = False) -> None:
    """Teach small image classifiers: from a teacher trusted as far as it is sure, and from each other.

    Examples:

      tutelage methods

      tutelage recipes

      tutelage graph digits/dual_student

      tutelage train digits/dual_student --with-teachers --out runs/dual-0

      tutelage train --resume runs/dual-0

      tutelage evaluate runs/dual-0 --on test

      tutelage compare digits/study --seeds 5 --out out/study

      tutelage report runs/dual-0 --to report.html

      tutelage init my-photos --teacher timm:resnet50 --students timm:resnet18 timm:mobilenetv2_100
    """


for command in (commands.train, commands.evaluate, commands.compare, commands.report, commands.export, commands.predict,
                commands.cache, commands.bench, listing.methods, listing.tasks, commands.recipes, commands.graph,
                commands.check_data, listing.corpus_distance, commands.pre_resize):
    app.command()(command)
app.command(context_settings={"allow_extra_args": True})(commands.init)
search = typer.Typer(no_args_is_help=True, help="Choose networks before any is trained.")
search.command("diswot")(exploring.search_diswot)
app.add_typer(search, name="search")
analyse = typer.Typer(no_args_is_help=True, help="Look into networks without training any.")
analyse.command("layers")(commands.analyse_layers)
analyse.command("complexity")(exploring.analyse_complexity)
app.add_typer(analyse, name="analyse")


def main() -> None:
    """The command's entry: every error a user can mend is one block on stderr, and an exit code."""
    arguments = sys.argv[1:]
    try:
        command, words = typer.main.get_command(app), _with_ray(arguments)
        check_values(command, words)
        sys.exit(command(words, standalone_mode=False))
    except Mistake as mistake:
        if type(mistake).__name__ == "NoArgsIsHelpError":
            print(mistake, file=sys.stderr)
            sys.exit(2)
        _fail(usage_error(mistake, arguments), arguments)
    except UserError as error:
        _fail(error, arguments)
    except typer.Abort:
        print("Aborted!", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        sys.exit(130 if isinstance(stop, KeyboardInterrupt) else stop.code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing is left to say
        sys.exit(0)
    except MemoryError:
        _fail(ResourceError("out of memory", fix="lower batch_size, raise accumulate, or lower image_size"), arguments)
    except Exception as error:
        _fail_unforeseen(error, arguments)


def _with_ray(arguments: list[str]) -> list[str]:
    """`--ray` alone means a cluster of this machine; typer knows no option whose value may be left out."""
    return ["--ray=local" if word == "--ray" and (i + 1 == len(arguments) or arguments[i + 1].startswith("-")
                                                  or arguments[i + 1].endswith(".toml")) else word
            for i, word in enumerate(arguments)]


def _fail_unforeseen(error: Exception, arguments: list[str]) -> None:
    if isinstance(error, Interrupted):
        several = "compare" in arguments[:1] or "--with-teachers" in arguments
        again = "the same command again" if several else "tutelage train --resume DIR"
        print(f"{clear(sys.stderr.isatty())}stopped; a checkpoint is saved. Go on with: {again}", file=sys.stderr)
        sys.exit(128 + error.number)
    text = str(error)
    if "out of memory" in text.lower():
        _fail(ResourceError("out of memory", found=text.splitlines()[0],
                            fix="lower batch_size, raise accumulate, or lower image_size"), arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(word in text for word in ("gloo", "NCCL", "peer")):
        _fail(PeerError("another rank of this run is gone", found=text.splitlines()[0],
                        fix="start all ranks again: the run goes on from its last checkpoint"), arguments)
    folder = value_of(arguments, "--out", "--resume")
    place = Path(folder, "crash.txt") if folder and Path(folder).is_dir() else None
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
        print(f"{clear(sys.stderr.isatty())}error[{error.kind}]: {error.block()}", file=sys.stderr)
    sys.exit(error.exit_code)
