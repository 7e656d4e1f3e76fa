"""check-data of series: what it counts, and what stops a run."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from every import every
from tutelage.cli.main import app
from tutelage.data.check_series import check_series, holds_series

HEADER = "@classLabel true up down\n@data\n"
GOOD = "1,2:3,4:up\n5,6,7:8,9,1:down\n"


def written(folder, name, lines):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(HEADER + lines)
    return folder


def sound(folder):
    rows = "".join(f"{n},{n + 1}:{n * n},0:{'up' if n % 2 else 'down'}\n" for n in range(40))
    written(folder, "toy_TRAIN.ts", rows)
    return written(folder, "toy_TEST.ts", GOOD)


def test_what_is_there_is_counted(tmp_path):
    report = check_series(sound(tmp_path))
    assert report.counts == {"train": {"up": 20, "down": 20}, "test": {"up": 1, "down": 1}}
    assert report.lengths == {"train": (2, 2, 2), "test": (2, 3, 3)}
    assert report.channels == {"train": 2, "test": 2}
    assert (report.subjects, report.findings) == ({}, ())
    assert "nothing wrong was found" in report.text()
    assert json.loads(report.as_json())["errors"] == []


def test_faults_of_several_files_are_all_told(tmp_path):
    written(tmp_path, "toy_TRAIN.ts", "1,x:3,4:up\n")
    written(tmp_path, "toy_TEST.ts", "1,2:3:up\n")
    found = check_series(tmp_path).errors
    assert [finding.what for finding in found] == ["not a number", "channels of unlike length in one series"]
    assert every("line 3" in finding.example for finding in found)


@pytest.mark.parametrize(("train", "test", "words"), [
    (GOOD * 10, "1,2:up\n", "files of unlike numbers of channels"),
    ("1:1:up\n" * 5 + "2:2:up\n" * 5, GOOD, "a class that no training series has"),
    ("1:1:up\n2:2:down\n", GOOD, "too few series to hold out some for validation"),
])
def test_files_that_do_not_go_together_are_errors(tmp_path, train, test, words):
    written(tmp_path, "toy_TRAIN.ts", train)
    written(tmp_path, "toy_TEST.ts", test)
    assert words in [finding.what for finding in check_series(tmp_path).errors]


def test_copies_constants_and_shared_subjects_are_warnings(tmp_path):
    x = np.arange(80.0).reshape(40, 2, 1) + np.zeros(3)
    x[:, 1] = 7
    subjects = np.arange(40) % 4
    np.savez(tmp_path / "train.npz", x=x, y=np.arange(40) % 2, subject=subjects)
    np.savez(tmp_path / "test.npz", x=x[:3], y=[0, 1, 1], subject=[0, 1, 9])
    report = check_series(tmp_path)
    assert not report.errors
    assert {finding.kind: finding.count for finding in report.warnings if finding.kind != "leakage"} == {
        "constant": 2, "subjects": 2}
    assert [(finding.what, finding.count) for finding in report.warnings if finding.kind == "leakage"] == [
        ("3 series are in two splits", 3), ("1 series have two labels", 1)]
    assert report.subjects == {"train": 4, "test": 3}


def test_the_command_reads_series_and_its_exit_code_says_whether_a_run_would_stop(tmp_path):
    assert holds_series(sound(tmp_path / "good"))
    assert holds_series(tmp_path / "good" / "toy")
    assert not holds_series(tmp_path)
    good = CliRunner().invoke(app, ["check-data", str(tmp_path / "good" / "toy")])
    assert (good.exit_code, "40 series in 2 classes, 2 channels" in good.output) == (0, True)
    written(tmp_path / "bad", "toy.ts", "1,?:3,4:up\n")
    bad = CliRunner().invoke(app, ["check-data", str(tmp_path / "bad"), "--json"])
    assert (bad.exit_code, json.loads(bad.output)["errors"][0]["what"]) == (3, "missing numbers in series")
