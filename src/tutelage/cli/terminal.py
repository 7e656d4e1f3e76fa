"""What a terminal shows of a command, and the signals that it sends."""

import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.engine.checks import Check
    from tutelage.engine.train import Progress


def listen_to_signals() -> list[int]:
    """The first signal asks the loop to stop after this step; the second stops at once (files stay whole)."""
    asked: list[int] = []

    def ask(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.SIGTERM if number == signal.SIGHUP else number)
        print(clear(sys.stderr.isatty()) + "stopping after this step; again to stop at once", file=sys.stderr)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    return asked


def show(event: Any, epochs: int, as_json: bool) -> None:
    """An epoch as a line that stays; progress as lines that the next event wipes away, on a terminal alone."""
    from tutelage.engine.train import Progress

    if as_json:
        say(json.dumps({"event": type(event).__name__.lower(), **vars(event), "score": event.score.key}))
    elif not isinstance(event, Progress):
        say(clear(sys.stdout.isatty()) + str(event))
    elif sys.stdout.isatty():
        size = shutil.get_terminal_size()
        lines = textwrap.wrap(_line(event, epochs), size.columns - 1, break_on_hyphens=False)[: size.lines - 1]
        up = f"\033[{len(lines) - 1}A" if len(lines) > 1 else ""  # back to its first line, where the next one begins
        print(clear(sys.stdout.isatty()) + "\n".join(lines) + up + "\r", end="", flush=True)


def show_checks(checks: "Sequence[Check]", as_json: bool) -> None:
    """What was asked of the networks at the start, and what is worth a warning."""
    from tutelage.engine.checks import checks_json, summary, warnings_of

    if as_json:
        say(json.dumps({"event": "checked", **checks_json(checks)}))
    elif checks:
        say("\n".join(summary(checks)) + "\n")
    for text in warnings_of(checks):
        note(text)


def clear(terminal: bool) -> str:
    """What wipes a terminal from the current line to its end: the progress that stands there."""
    return "\r\033[J" if terminal else ""


def _line(progress: "Progress", epochs: int) -> str:
    left = (progress.steps - progress.step) * progress.batch_size / max(progress.images_per_second, 1e-9)
    losses = "  ".join(f"{edge} {value:.3f}" for edge, value in progress.losses.items())
    accuracy = "  ".join(f"{node} {progress.score.text(value)}" for node, value in progress.accuracy.items())
    return (f"epoch {progress.epoch}/{epochs}  step {progress.step}/{progress.steps}  {progress.images_per_second:.0f} "
            f"{progress.samples}/s  {int(left // 60)}:{int(left % 60):02d} left  {accuracy}  {losses}")


def note(text: str) -> None:
    """Something worth knowing that is not an answer: on stderr."""
    print(f"note: {text}", file=sys.stderr)


def say(text: str) -> None:
    """The answer of a command: on stdout."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # a reader that has gone must not stop a training run
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
