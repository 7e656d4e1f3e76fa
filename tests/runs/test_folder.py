"""A run's records: one line an event, none lost and none twice however often the run was stopped."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from every import every
from toys import data, everything, models, settings
from tutelage.engine import train as training
from tutelage.engine.train import train_in_folder
from tutelage.errors import ModelError, ResourceError, UsageError
from tutelage.runs import checkpoint
from tutelage.runs import folder as records
from tutelage.runs.folder import Records, finished, open_run, read_json, read_records, refuse_others, versions
from tutelage.system.distributed import World

ODD = "Mäuse \u2028 \x85 \x1e 猫 \udcff \"quoted\"\n"


MEASURED = ("seconds", "images_per_second", "peak_bytes")


def add(folder: Path, *steps: int, **values: object) -> None:
    records = Records(folder, tensorboard=False)
    for step in steps:
        records.add("epoch", step, **values)


# Lines


def test_an_event_is_one_line_of_json(tmp_path):
    add(tmp_path, 3, 6, losses={"labels->a:kl": 0.1 + 0.2}, accuracy={"a": 1}, name=ODD)
    lines = (tmp_path / "records.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == [
        {"event": "epoch", "step": step, "losses": {"labels->a:kl": 0.30000000000000004}, "accuracy": {"a": 1},
         "name": ODD} for step in (3, 6)]


def test_what_is_added_is_read_back_in_order(tmp_path):
    assert read_records(tmp_path) == []
    add(tmp_path, 3, name=ODD)
    add(tmp_path, 6, 6)
    assert read_records(tmp_path) == [{"event": "epoch", "step": 3, "name": ODD}, {"event": "epoch", "step": 6},
                                      {"event": "epoch", "step": 6}]


def test_a_line_is_on_the_disk_when_add_returns(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(os.fstat(file).st_size), fsync(file)))
    add(tmp_path, 3)
    assert flushed == [(tmp_path / "records.jsonl").stat().st_size]


@pytest.mark.parametrize("text", ["plain", "Mäuse 猫"])
def test_a_last_line_that_was_cut_anywhere_is_left_out_and_mended(tmp_path, text):
    """Also inside a letter of two bytes, whoever wrote it."""
    lines = [json.dumps({"event": "epoch", "step": step, "x": text}, ensure_ascii=False).encode() for step in (3, 6)]
    for length in range(len(lines[1])):
        (tmp_path / "records.jsonl").write_bytes(lines[0] + b"\n" + lines[1][:length])
        assert [record["step"] for record in read_records(tmp_path)] == [3]
        records = Records(tmp_path, tensorboard=False)
        records.rewind(4)
        records.add("epoch", 6)
        assert [record["step"] for record in read_records(tmp_path)] == [3, 6]
        assert read_records(tmp_path)[0]["x"] == text
    (tmp_path / "records.jsonl").write_bytes(lines[0] + b"\n" + lines[1])
    assert len(read_records(tmp_path)) == 2, "only its end of line is missing: nothing is"


@pytest.mark.parametrize("line", [b"{", b"", b"\xff\xfe", b'{"event": "epoch", "st'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    add(tmp_path, 3)
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(line + b"\n")
    add(tmp_path, 6)
    with pytest.raises(ModelError, match="damaged record") as error:
        read_records(tmp_path)
    assert error.value.where == f"{tmp_path / 'records.jsonl'}, line 2"


def test_rewinding_forgets_what_came_after_and_that_the_run_was_finished(tmp_path):
    records = Records(tmp_path, tensorboard=False)
    for event, step in [("start", 0), ("epoch", 4), ("epoch", 8), ("finished", 8)]:
        records.add(event, step, name=ODD)
    records.rewind(8)
    assert [(record["event"], record["step"]) for record in read_records(tmp_path)] == [
        ("start", 0), ("epoch", 4), ("epoch", 8)]
    records.rewind(7)
    assert [record["step"] for record in read_records(tmp_path)] == [0, 4]
    assert every(record["name"] == ODD for record in read_records(tmp_path))


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    add(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="No space left") as error:
            add(tmp_path, 6)
        with pytest.raises(ResourceError, match="No space left"):
            Records(tmp_path, tensorboard=False).rewind(1)
    assert error.value.where == str(tmp_path / "records.jsonl")
    assert read_records(tmp_path)[0]["step"] == 3
    shutil.rmtree(tmp_path)
    with pytest.raises(ResourceError, match="No such file"):
        add(tmp_path, 9)


# TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_the_numbers_of_the_records(tmp_path):
    records = Records(tmp_path)
    records.rewind(0)
    records.add("start", 0, damaged=[], note="text")
    records.add("epoch", 4, losses={"labels->a:kl": 0.5}, metrics={"a": {"top1": 0.25}}, epoch=1, best=True, name="x")
    records.add("epoch", 8, losses={"labels->a:kl": 0.125}, metrics={"a": {"top1": 0.75}}, epoch=2, best=False)
    assert scalars(tmp_path) == {"epoch/losses/labels->a:kl": [(4, 0.5), (8, 0.125)],
                                 "epoch/metrics/a/top1": [(4, 0.25), (8, 0.75)], "epoch/epoch": [(4, 1.0), (8, 2.0)]}
    records.close()


def test_tensorboard_shows_a_resumed_run_without_doubles(tmp_path):
    for start, steps in ((0, (2, 4, 6, 8)), (4, (6,)), (4, (6, 8, 10))):
        records = Records(tmp_path)
        records.rewind(start)
        for step in steps:
            records.add("epoch", step, loss=float(step + start))
        # no close: the process was killed
    assert scalars(tmp_path) == {"epoch/loss": [(2, 2.0), (4, 4.0), (6, 10.0), (8, 12.0), (10, 14.0)]}


def test_records_that_are_only_opened_write_nothing(tmp_path):
    Records(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


# The folder


def test_a_new_folder_gets_an_identity_and_keeps_it(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / "crash.txt").touch()
    run = open_run(tmp_path, "lr = 1\nclass = 'Mäuse'\n", "data")
    assert open_run(tmp_path, "lr = 1\nclass = 'Mäuse'\n", "data") == run
    assert (tmp_path / "config.toml").read_text(encoding="utf-8") == "lr = 1\nclass = 'Mäuse'\n"
    assert read_json(tmp_path / "versions.json") == versions()
    other = tmp_path / "other"
    other.mkdir()
    assert open_run(other, "lr = 1\nclass = 'Mäuse'\n", "data") != run


def test_another_recipe_or_other_data_are_told_with_the_difference(tmp_path):
    open_run(tmp_path, "lr = 1\nseed = 0\n", "data")
    with pytest.raises(UsageError, match="another run") as error:
        open_run(tmp_path, "lr = 2\nseed = 0\n", "data")
    assert error.value.found == "there: lr = 1\nnow:   lr = 2"
    with pytest.raises(UsageError, match="another run") as error:
        open_run(tmp_path, "lr = 1\nseed = 0\n", "others")
    assert error.value.found == "other data than now"


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="something else") as error:
        open_run(tmp_path, "", "data")
    assert error.value.found == "thesis.tex"
    with pytest.raises(UsageError, match="something else"):
        refuse_others(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_place_for_a_run(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="this is a file"):
        refuse_others(tmp_path / "thesis.tex")


@pytest.mark.parametrize("held", [[], ["crash.txt"], ["lock", "run.json"], ["lock", ".run.json.1.part"]])
def test_a_new_a_crashed_and_a_running_run_are_not_refused_as_something_else(tmp_path, held):
    refuse_others(tmp_path / "new")
    for name in held:
        (tmp_path / name).touch()
    refuse_others(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(held), "it only looks"


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"null", b"\xff"])
def test_a_damaged_identity_or_end_is_told(tmp_path, text):
    assert finished(tmp_path) is None
    open_run(tmp_path, "", "data")
    for name, read in [("run.json", lambda: open_run(tmp_path, "", "data")), ("FINISHED", lambda: finished(tmp_path))]:
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ModelError, match="damaged run folder") as error:
            read()
        assert error.value.where == str(tmp_path / name)


def test_versions_say_what_bits_stand_on():
    told = versions()
    assert torch.__version__.startswith(told["torch"])
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(told)) == told


# A run that is killed, at every moment that matters


def train(folder: Path) -> None:
    for _ in train_in_folder(folder, everything(), models(), data(), settings(3, checkpoint_steps=2),
                             World(torch.device("cpu")), tensorboard=False):
        pass


def told(folder: Path) -> list[dict]:
    """The records that say how training went, without what differs between two equal runs."""
    return [{key: value for key, value in record.items() if key not in MEASURED}
            for record in read_records(folder) if record["event"] not in ("start", "resume")]


def test_a_run_killed_at_any_moment_has_records_without_gaps_and_doubles(tmp_path):
    """The folder is copied, as a kill would leave it, before each thing that is written, and with half a record.

    That is: identity, recipe, versions, graph and checks; records, each also half; checkpoints; networks; FINISHED.
    """
    folder, copies = tmp_path / "run", tmp_path / "copies"

    def copy(name: str = "") -> Path:
        copy = copies / f"{len(list(copies.glob('*'))):02}{name}"
        return shutil.copytree(folder, copy)

    def watched(function):
        def watching(*arguments, **options):
            copy()
            function(*arguments, **options)
            if function is Records_add:
                path = copy("torn") / "records.jsonl"
                path.write_bytes(path.read_bytes()[:-7])
        return watching
    Records_add = Records.add  # noqa: N806
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Records, "add"), (checkpoint, "save"), (training, "write"), (training, "write_json"),
                            (records, "write"), (records, "write_json")):
            patch.setattr(owner, name, watched(getattr(owner, name)))
        train(folder)
    assert [(record["event"], record["step"]) for record in told(folder)] == [
        ("epoch", 3), ("epoch", 6), ("epoch", 9), ("finished", 9)]
    assert len(list(copies.iterdir())) == 6 + 2 * 5 + 1 + (3 + 3) + 4 + 1
    for copied in sorted(copies.iterdir()):
        assert not (copied / "FINISHED").exists()
        train(copied)
        assert told(copied) == told(folder), copied.name
        assert read_json(copied / "FINISHED") == read_json(folder / "FINISHED")
        assert not [*copied.rglob("*.part")]


def test_a_finished_run_is_left_as_it_is(tmp_path):
    train(tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    assert "tensorboard" not in {path.name for path in before}
    for tensorboard in (False, True):
        for _ in train_in_folder(tmp_path, everything(), models(), data(), settings(3, checkpoint_steps=2),
                                 World(torch.device("cpu")), tensorboard=tensorboard):
            pass
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    assert {path for path in after if after[path] != before.get(path)} <= {tmp_path / "lock"}
    assert before.keys() == after.keys()


def test_what_a_killed_writer_left_is_swept_from_every_folder_of_a_run(tmp_path):
    train(tmp_path)
    left = [tmp_path / name / ".x.0123abcd.part" for name in (".", "checkpoints", "models")]
    for path in left:
        path.touch()
    train(tmp_path)
    assert not [path for path in left if path.exists()]
