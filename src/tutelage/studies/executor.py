"""The cells of a study worked off: in this process, in several of them, or on a Ray cluster.

Whoever works on a cell holds the lock of its run folder, so two studies started in one folder share the work: a cell
that another holds is left to it, and looked at again. A cell that fails does not stop the others. The first signal
asks every cell to save and stop; nothing outlives this process.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from tutelage.errors import (
    BusyError,
    DataError,
    Interrupted,
    ModelError,
    NumericError,
    PeerError,
    ResourceError,
    SecurityError,
    UsageError,
    UserError,
)
from tutelage.recipes.job import train_recipe
from tutelage.runs.folder import finished
from tutelage.studies.study import Cell
from tutelage.system.distributed import World, choose_device
from tutelage.system.files import is_locked

PAUSE = 0.1
"""Seconds between two looks at what runs."""
INTERNAL = 70
CHILD = """import os, sys
from tutelage.system.machine import die_with_parent
die_with_parent(int(sys.argv[1]))
sys.argv[:2] = ["tutelage"]
from tutelage.cli.main import main
main()"""
"""`python -m tutelage`, except that it ends when we do."""
KINDS = {kind.kind: kind for kind in (UsageError, DataError, ModelError, NumericError, ResourceError, BusyError,
                                      PeerError, SecurityError)}


@dataclass(frozen=True)
class Ending:
    """How a cell ended: well, or with an error; `stopped` if a signal ended it."""

    error: UserError | None = None
    stopped: bool = False


@dataclass(frozen=True)
class Work:
    """A cell that is being worked on: `poll` gives its ending or None, `stop` asks it to, `kill` makes it."""

    cell: Cell
    poll: Callable[[], Ending | None]
    stop: Callable[[int], None] = lambda number: None
    kill: Callable[[], None] = lambda: None


Start = Callable[[Cell, int], Work]
"""Begins to work on a cell in a slot, 0 .. slots - 1."""


def work_off(cells: Sequence[Cell], start: Start, slots: int, asked: Callable[[], int],
             tell: Callable[[str], None]) -> dict[str, Ending]:
    """Train every cell that is not finished; how each ended, by its name. Interrupted if `asked` gives a signal."""
    waiting, running, endings = list(cells), dict[int, Work](), dict[str, Ending]()
    times, clock, trained, stopping, told_busy = dict[int, float](), time.perf_counter, 0, False, set[str]()
    began = clock()
    try:
        while waiting or running:
            if asked() and not stopping:
                stopping = True
                for work in running.values():
                    work.stop(asked())
            if stopping and not running:
                raise Interrupted(asked())
            for slot in [slot for slot in range(slots) if slot not in running and not stopping]:
                if (cell := _next(waiting, cells, endings)) is not None:
                    times[slot] = clock()
                    running[slot] = start(cell, slot)
            for slot, work in list(running.items()):
                if (ending := work.poll()) is None:
                    continue
                del running[slot]
                if isinstance(ending.error, BusyError):  # another study began it a moment ago
                    waiting.append(work.cell)
                elif not asked():
                    if ending.stopped:
                        ending = Ending(ResourceError("its process was stopped from outside", where=work.cell.run))
                    endings[str(work.cell)], trained = ending, trained + 1
                    left, go = (clock() - began) / trained, len(waiting) + len(running)
                    how = "finished" if ending.error is None else f"FAILED: {ending.error.what}"
                    tell(f"{work.cell}  {how}, {clock() - times[slot]:.0f} s"
                         + (f"; {go} to go, about {left * go / 60:.0f} min" if go else ""))
            for cell in waiting:
                if not running and str(cell) not in told_busy and is_locked(cell.run):
                    told_busy.add(str(cell))
                    tell(f"{cell}  is being trained by another process; waiting for it")
            time.sleep(PAUSE if waiting or running else 0)
    finally:
        for work in running.values():
            work.kill()
    return endings


def is_done(cell: Cell) -> bool:
    """Whether a cell is finished; UsageError if its folder holds another run."""
    if finished(cell.run) is None:
        return False
    if (cell.run / "config.toml").read_text(encoding="utf-8") != cell.recipe.text_in(cell.run):
        raise UsageError("this folder holds another run", where=cell.run, fix="choose another --out")
    return True


def _next(waiting: list[Cell], cells: Sequence[Cell], endings: dict[str, Ending]) -> Cell | None:
    """Take the first cell out that can begin; what is finished, or cannot be, ends at once."""
    for cell in list(waiting):
        try:
            if is_done(cell):
                waiting.remove(cell)
                endings[str(cell)] = Ending()
                continue
        except UserError as error:
            waiting.remove(cell)
            endings[str(cell)] = Ending(error)
            continue
        teachers = [endings.get(str(other)) for other in cells if other.run in cell.needs]
        failed = next((ending for ending in teachers if ending is not None and ending.error is not None), None)
        if failed is not None:
            waiting.remove(cell)
            assert failed.error is not None
            endings[str(cell)] = Ending(ModelError("its teacher failed", where=cell.run, found=failed.error.what))
        elif None not in teachers and not is_locked(cell.run):
            waiting.remove(cell)
            return cell
    return None


def in_this_process(asked: Callable[[], int], cell: Cell, slot: int) -> Work:
    """Work on a cell here, to its end."""
    ending = train_cell(cell, asked)
    return Work(cell, lambda: ending)


def train_cell(cell: Cell, asked: Callable[[], int]) -> Ending:
    """Train one cell in its run folder; errors are its ending."""
    try:
        world = World(choose_device(cell.recipe.train.device))
        for _ in train_recipe(cell.recipe, cell.run, world, asked, cell.words[0], numerics=cell.numerics):
            pass
    except Interrupted:
        return Ending(stopped=True)
    except UserError as error:
        return Ending(error)
    except Exception as error:
        if "out of memory" in str(error).lower():
            return Ending(ResourceError("out of memory", where=cell.run, found=str(error).splitlines()[0]))
        if cell.run.is_dir():
            (cell.run / "crash.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return Ending(_internal(f"a bug of tutelage: {type(error).__name__}: {error}", cell.run))
    return Ending()


def in_processes(slots: int, cell: Cell, slot: int) -> Work:
    """Work on a cell in a process of its own, with its share of the processors and one of the accelerators."""
    cores = len(os.sched_getaffinity(0))
    own = {"OMP_NUM_THREADS": str(max(1, cores // slots))}
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    if len(devices) > 1:
        own["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    words = ["train", *cell.words, "--out", str(cell.run), "--json"]
    words += [] if cell.numerics is None else ["--numerics", str(cell.numerics)]
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the cell has ended
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(os.getpid()), *words],
        env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
        start_new_session=True)  # Ctrl-C in a terminal comes to us alone, and we pass it on once

    def poll() -> Ending | None:
        if process.poll() is None:
            return None
        with said:
            said.seek(0)
            return _ending(cell, process.returncode, said.read().decode(errors="replace"))

    def stop(number: int) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(number)

    def kill() -> None:
        process.kill()
        process.wait()
        said.close()

    return Work(cell, poll, stop, kill)


def _ending(cell: Cell, code: int, said: str) -> Ending:
    """What a process that has ended meant."""
    if code == 0:
        return Ending()
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM) or -code in (signal.SIGINT, signal.SIGTERM):
        return Ending(stopped=True)
    if code < 0:
        return Ending(ResourceError(f"its process was killed by signal {-code}", where=cell.run,
                                    fix="out of memory? fewer --jobs, or a smaller batch_size"))
    for line in said.splitlines():
        with suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and told.get("error") in KINDS:
                kind = KINDS[told["error"]]
                parts = {key: told.get(key) for key in ("where", "found", "expected", "fix")}
                return Ending(kind(told["what"], **parts))
    return Ending(_internal(f"its process ended with code {code}", cell.run, said[-500:].strip()))


def _internal(what: str, where: Path, found: str | None = None) -> UserError:
    """What is our own mistake: named like the others, so that the other cells' results are not lost with it."""
    error = UserError(what, where=where, found=found, fix=f"please report it with {where / 'crash.txt'}")
    error.kind, error.exit_code = "internal", INTERNAL
    return error


def on_ray(address: str, cpus: float, gpus: float | None) -> tuple[Start, Callable[[], None], int]:
    """How to work on cells as tasks of a Ray cluster, how to leave it, and how many fit at a time."""
    try:
        import ray
        from ray.exceptions import RayError, TaskCancelledError
    except ModuleNotFoundError:
        raise UsageError("Ray is not installed", where="--ray", fix="pip install 'tutelage[ray]'") from None
    try:
        ray.init(None if address == "local" else address, log_to_driver=False, include_dashboard=False
                 if address == "local" else None, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError("no Ray cluster answers", where=f"--ray {address}", found=str(error).splitlines()[0],
                            fix="give the address of its head, or `local`; where it asks for a token, set "
                                "RAY_AUTH_MODE=token") from None
    held = ray.cluster_resources()
    gpus = float(held.get("GPU", 0) >= 1) if gpus is None else gpus
    task = ray.remote(_on_worker).options(num_cpus=cpus, num_gpus=gpus, max_retries=3)
    slots = int(min(held.get("CPU", 1) / cpus, held.get("GPU", 0) / gpus if gpus else float("inf")))
    if slots < 1:
        raise ResourceError("this cluster is too small for a cell", where=f"--ray {address}",
                            found=f"{held.get('CPU', 0):g} processors, {held.get('GPU', 0):g} accelerators",
                            expected=f"{cpus:g} and {gpus:g}", fix="lower cpus or gpus in [study]")

    def start(cell: Cell, slot: int) -> Work:
        sent = task.remote(cell, str(Path.cwd()))

        def poll() -> Ending | None:
            if not ray.wait([sent], timeout=0)[0]:
                return None
            try:
                return ray.get(sent)
            except TaskCancelledError:
                return Ending(stopped=True)
            except RayError as error:
                return Ending(ResourceError("its worker died again and again", where=cell.run,
                                            found=str(error).splitlines()[0]))

        return Work(cell, poll, lambda number: ray.cancel(sent), lambda: ray.cancel(sent, force=True))

    return start, ray.shutdown, slots


def _on_worker(cell: Cell, folder: str) -> Ending:
    """A cell in a Ray worker, from our working directory. Ray cancels a task by SIGINT: here, to save and stop."""
    asked: list[int] = []
    if not Path(folder).is_dir():
        return Ending(ResourceError("a worker does not see our files", where=folder, found=f"no such folder there, on "
                                    f"{os.uname().nodename}", fix="start from a folder that every node shares"))
    os.chdir(folder)
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        return train_cell(cell, lambda: asked[0] if asked else 0)
    finally:
        signal.signal(signal.SIGINT, before)
