"""How cells are worked off: none twice, none lost, none left behind. The cells here are told what to do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from every import every
from tutelage.errors import BusyError, Interrupted, ModelError, NumericError, ResourceError, UsageError
from tutelage.recipes.recipe import read_recipe
from tutelage.studies.executor import KINDS, Ending, Work, _ending, is_done, work_off
from tutelage.studies.study import Cell
from tutelage.system.files import is_locked, locked, write_json

RECIPE = read_recipe(Path(__file__).parents[2] / "recipes" / "digits" / "scratch.toml", quick=True)


@pytest.fixture
def cell(tmp_path):
    def cell_(name: str, *needs: str) -> Cell:
        return Cell(name, 0, tmp_path / name / "seed-0", ("scratch.toml",), RECIPE,
                    tuple(tmp_path / other / "seed-0" for other in needs))
    return cell_


def finish(cell: Cell) -> None:
    cell.run.mkdir(parents=True, exist_ok=True)
    (cell.run / "config.toml").write_text(cell.recipe.text())
    write_json(cell.run / "FINISHED", {})


class Bench:
    """Starts cells whose endings are given, and notes what it did."""

    def __init__(self, endings: dict[str, list[Ending | None]] | None = None) -> None:
        self.endings, self.log, self.most, self.now = endings or {}, [], 0, 0

    def start(self, cell: Cell, slot: int) -> Work:
        self.log.append(cell.method)
        self.now += 1
        self.most = max(self.most, self.now)

        def poll() -> Ending | None:
            ending = self.endings.get(cell.method, [Ending()]).pop(0)
            self.now -= ending is not None
            if ending is not None and ending.error is None and not ending.stopped:
                finish(cell)
            return ending

        return Work(cell, poll, lambda number: self.log.append(f"stop {cell.method} {number}"),
                    lambda: self.log.append(f"kill {cell.method}"))


def off(cells: list[Cell], bench: Bench, slots: int = 1, asked=lambda: 0, tell=lambda line: None):
    return work_off(cells, bench.start, slots, asked, tell)


def test_cells_are_done_in_their_order_and_what_is_finished_is_left_alone(cell):
    cells = [cell("a"), cell("b"), cell("c")]
    finish(cells[1])
    bench = Bench()
    assert {name: ending.error for name, ending in off(cells, bench).items()} == {
        "a/seed-0": None, "b/seed-0": None, "c/seed-0": None}
    assert bench.log == ["a", "c"]


def test_so_many_at_a_time(cell):
    bench = Bench({name: [None, Ending()] for name in "abcde"})
    off([cell(name) for name in "abcde"], bench, slots=2)
    assert sorted(bench.log) == list("abcde")
    assert bench.most == 2


def test_a_student_waits_for_its_teacher_and_others_go_first(cell):
    bench = Bench({"teacher": [None, None, Ending()]})
    off([cell("teacher"), cell("student", "teacher"), cell("alone")], bench, slots=2)
    assert bench.log == ["teacher", "alone", "student"]


def test_a_cell_that_fails_loses_only_those_that_learn_from_it(cell):
    bench = Bench({"teacher": [Ending(NumericError("not a number"))]})
    cells = [cell("teacher"), cell("student", "teacher"), cell("grandchild", "student"), cell("alone")]
    endings = off(cells, bench)
    assert bench.log == ["teacher", "alone"]
    assert [type(endings[f"{name}/seed-0"].error) for name in ("teacher", "student", "grandchild", "alone")] == [
        NumericError, ModelError, ModelError, type(None)]
    assert endings["student/seed-0"].error.found == "not a number"


def test_a_cell_that_another_study_has_just_begun_is_tried_again(cell):
    bench = Bench({"a": [Ending(BusyError("in use")), Ending()]})
    endings = off([cell("a"), cell("b")], bench)
    assert bench.log == ["a", "b", "a"]
    assert every(ending.error is None for ending in endings.values())


HOLD = """import sys, time
from pathlib import Path
from tutelage.system.files import locked, write, write_json
run, config = Path(sys.argv[1]), sys.argv[2]
with locked(run):
    print("held", flush=True)
    time.sleep(1)
    write(run / "config.toml", config.encode())
    write_json(run / "FINISHED", {})
"""


def test_a_cell_that_another_process_holds_is_left_to_it(cell):
    held = cell("a")
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(held.run), held.recipe.text()], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    bench, told = Bench(), []
    endings = off([held, cell("b")], bench, tell=told.append)
    other.communicate()
    assert bench.log == ["b"]
    assert endings["a/seed-0"].error is None
    assert sum("another process" in line for line in told) == 1


def test_a_cell_that_a_version_with_fewer_keys_has_finished_is_done(cell):
    old = cell("a")
    finish(old)
    text = (old.run / "config.toml").read_text()
    (old.run / "config.toml").write_text(text.replace("follow_symlinks = false\n", ""))
    assert is_done(old)
    (old.run / "config.toml").write_text(text.replace("follow_symlinks = false\n", "follow_symlinks = true\n"))
    with pytest.raises(UsageError, match="another run"):
        is_done(old)


def test_a_folder_that_holds_another_run_is_named_and_the_others_go_on(cell):
    other = cell("a")
    finish(other)
    (other.run / "config.toml").write_text("something else")
    endings = off([other, cell("b")], Bench())
    assert endings["a/seed-0"].error.what == "this folder holds another run"
    assert endings["b/seed-0"].error is None


def test_the_first_signal_stops_all_and_starts_none(cell):
    asked: list[int] = []
    bench = Bench({"a": [None, None, Ending(stopped=True)], "b": [None, None, Ending(stopped=True)]})
    real = bench.start

    def start(one: Cell, slot: int) -> Work:
        if one.method == "b":
            asked.append(signal.SIGTERM)
        return real(one, slot)

    with pytest.raises(Interrupted) as caught:
        work_off([cell(name) for name in "abc"], start, 2, lambda: asked[0] if asked else 0, lambda line: None)
    assert caught.value.number == signal.SIGTERM
    assert bench.log == ["a", "b", "stop a 15", "stop b 15"]


def test_the_second_signal_kills_what_still_runs(cell):
    bench = Bench({"a": [None, None, None]})
    with pytest.raises(KeyboardInterrupt):
        work_off([cell("a")], bench.start, 1, lambda: (_ for _ in ()).throw(KeyboardInterrupt) if bench.log else 0,
                 lambda line: None)
    assert bench.log == ["a", "kill a"]


def test_a_cell_that_somebody_else_stopped_is_told_of(cell):
    endings = off([cell("a")], Bench({"a": [Ending(stopped=True)]}))
    assert isinstance(endings["a/seed-0"].error, ResourceError)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_from_its_process_as_it_was(cell, kind):
    error = KINDS[kind]("what", where="w", found="f", fix="x")
    said = "note: something\n" + json.dumps(error.fields() | {"exit_code": error.exit_code}) + "\n"
    back = _ending(cell("a"), error.exit_code, said).error
    assert (type(back), str(back), back.exit_code) == (type(error), str(error), error.exit_code)


@pytest.mark.parametrize(("code", "kind", "exit_code"), [(-9, "resource", 6), (70, "internal", 70),
                                                         (1, "internal", 70)])
def test_a_process_that_died_is_an_error_too(cell, code, kind, exit_code):
    error = _ending(cell("a"), code, "Traceback ...").error
    assert (error.kind, error.exit_code) == (kind, exit_code)


@pytest.mark.parametrize("code", [130, 143, -2, -15])
def test_a_process_that_was_asked_to_stop_has_no_error(cell, code):
    assert _ending(cell("a"), code, "") == Ending(stopped=True)


def test_whether_a_folder_is_held_is_seen_without_letting_it_go(tmp_path):
    assert not is_locked(tmp_path / "nowhere")
    with locked(tmp_path):
        assert is_locked(tmp_path)
        code = ("import sys; from pathlib import Path; from tutelage.system.files import is_locked\n"
                "print(is_locked(Path(sys.argv[1])))")
        assert subprocess.check_output([sys.executable, "-c", code, str(tmp_path)]) == b"True\n"
    assert not is_locked(tmp_path)


CHILD = """import os, sys, time
from tutelage.system.machine import die_with_parent
die_with_parent(int(sys.argv[1])); print("ready", flush=True); time.sleep(60)
"""
PARENT = f"""import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], stdout=subprocess.PIPE,
                         start_new_session=True)
child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)
"""


def test_a_child_ends_when_its_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_a_child_whose_parent_is_gone_already_ends_at_once():
    nobody = subprocess.run([sys.executable, "-c", CHILD, "1" if os.getpid() != 1 else "2"], timeout=60, check=False)
    assert nobody.returncode == -signal.SIGTERM


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
