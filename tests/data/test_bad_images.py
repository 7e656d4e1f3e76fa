"""A damaged image: it is named, the run goes on once it is mended, and nothing else may change by the way."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from toys import SGD
from tutelage import Edge, Graph, Trained, train
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.splits import first
from tutelage.engine import train as training
from tutelage.errors import DataError, SecurityError, UsageError
from tutelage.graph.divergences import cross_entropy
from tutelage.recipes.evaluate import evaluate_run
from tutelage.recipes.job import make_job, train_recipe
from tutelage.recipes.recipe import Recipe, read_recipe
from tutelage.recipes.sequence import runs_of
from tutelage.recipes.trained_run import recipe_of_run
from tutelage.runs import folder as records
from tutelage.runs.folder import read_records
from tutelage.system.distributed import World
from tutelage.system.random import derive, permutation

CPU = World(torch.device("cpu"))
ROWS = 24
LOOKED_AT = first(torch.arange(ROWS), 8).tolist()
"""The rows by which a start checks its networks."""
RECIPE = """\
[data]
name = "folder"
root = "photos"
image_size = 8
batch_size = 12

[models.a]
arch = "resnet8"

[method]
name = "{}"
student = "a"

[train]
epochs = {}
precision = "exact"
"""


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-150])


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve training images of each of two classes, four for validation and two for the test."""
    for split, count in (("train", 12), ("val", 4), ("test", 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                write_image(tmp_path / "photos" / split / label / f"{number:02}.png", number + 100 * len(split))
    return tmp_path / "photos"


def run(photos: Path, out: Path, spoil: Callable[[], None] = lambda: None, epochs: int = 2,
        **data: object) -> dict[str, str]:
    """Train a tiny network, once the data are loaded and then spoilt; the hashes of its weights.

    It has no BatchNorm and no memory, so that no step depends on an image which has not been in a batch.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 2))
    of = load_data(DataSettings("folder", root=str(photos), image_size=8, batch_size=4, **data))
    spoil()
    for _ in train(Graph({"a": Trained()}, [Edge("labels", "a", cross_entropy)]), {"a": model}, of, epochs=epochs,
                   optimizer=SGD, batch_size=4, out=out, checkpoint_steps=2, precision="exact"):
        pass
    return json.loads((out / "FINISHED").read_text())["weights"]


def row_of_step(step: int) -> int:
    """A training image that the first epoch shows in this step, from 0, and that no start looks at."""
    rows = permutation(derive(0, "order", 0), ROWS)[4 * step : 4 * step + 4]
    return next(row for row in rows.tolist() if row > 1 and row not in LOOKED_AT)


def file_of(row: int) -> str:
    return f"train/{'cat' if row < 12 else 'dog'}/{row % 12:02}.png"


X, Y = file_of(row_of_step(3)), file_of(row_of_step(5))


def stopped(photos: Path, out: Path, name: str = X, **options: object) -> DataError:
    """The error of a run that has stopped at this image."""
    with pytest.raises(DataError) as error:
        run(photos, out, **options)
    assert error.value.where == str(photos.resolve() / name)
    return error.value


def events(out: Path, event: str) -> list[dict]:
    return [record for record in read_records(out) if record["event"] == event]


def test_the_run_goes_on_to_the_bits_of_one_that_had_the_mended_image_from_the_start(photos, tmp_path):
    good = (photos / X).read_bytes()
    expected = run(photos, tmp_path / "whole")
    truncate(photos / X)
    bad = (photos / X).stat().st_size
    for _ in range(2):  # started again as it is, it stops again
        error = stopped(photos, tmp_path / "run")
        assert "goes on from its last checkpoint" in error.fix
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    (photos / X).write_bytes(good)
    assert run(photos, tmp_path / "run") == expected
    (changed,) = events(tmp_path / "run", "data_changed")
    (told,) = changed["files"]
    assert (told["file"], told["bytes"]) == (X, [bad, len(good)])
    assert told["sha256"] == [events(tmp_path / "run", "bad_image")[0]["files"][0]["sha256"],
                              json.loads((tmp_path / "run" / "data.json").read_text())["files"][X][1]]
    assert changed["step"] == events(tmp_path / "run", "resume")[-1]["step"] == 2
    assert [event["step"] for event in events(tmp_path / "run", "bad_image")] == [3, 3], "kept, though it goes back"
    assert run(photos, tmp_path / "run") == expected, "finished, it is opened as any other"


def test_another_image_in_the_place_of_the_damaged_one_will_do(photos, tmp_path):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    write_image(photos / X, seed=7)
    run(photos, tmp_path / "run")
    assert len(events(tmp_path / "run", "data_changed")) == 1


def test_all_that_is_damaged_is_reported_at_once_and_may_be_mended_at_once(photos, tmp_path):
    damaged = [X, Y, "val/dog/03.png", "test/cat/00.png"]
    for name in damaged:
        truncate(photos / name)
    error = stopped(photos, tmp_path / "run")
    assert f"3 more are damaged, {tmp_path / 'run' / 'records.jsonl'} names them" in error.found
    reported = [told["file"] for event in events(tmp_path / "run", "bad_image") for told in event["files"]]
    assert reported[0] == X
    assert sorted(reported) == sorted(damaged)
    for number, name in enumerate(damaged):
        write_image(photos / name, seed=number)
    run(photos, tmp_path / "run")
    (changed,) = events(tmp_path / "run", "data_changed")
    assert sorted(told["file"] for told in changed["files"]) == sorted(damaged)


def test_one_after_another_may_be_mended(photos, tmp_path):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    write_image(photos / X, seed=7)
    stopped(photos, tmp_path / "run", Y, spoil=lambda: truncate(photos / Y))  # it was whole when the run began
    write_image(photos / Y, seed=8)
    run(photos, tmp_path / "run")
    assert [told["file"] for event in events(tmp_path / "run", "data_changed") for told in event["files"]] == [X, Y]


def test_an_image_that_is_damaged_again_is_reported_again(photos, tmp_path):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    write_image(photos / X, seed=7)
    truncate(photos / X)  # what was put in its place is no better
    stopped(photos, tmp_path / "run")
    write_image(photos / X, seed=8)
    run(photos, tmp_path / "run")
    assert [len(change["files"]) for change in events(tmp_path / "run", "data_changed")] == [1, 1]


def swap(photos: Path) -> None:
    one, other = photos / "train/cat/05.png", photos / "train/cat/06.png"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another file": (lambda photos: write_image(photos / "val/dog/00.png", 77), "another now: 'val/dog/00.png'"),
    "two files swapped": (swap, "another now: 'train/cat/05.png'\n            another now: 'train/cat/06.png'"),
    "one more": (lambda photos: write_image(photos / "train/cat/zz.png", 77), "new:         'train/cat/zz.png'"),
    "one less": (lambda photos: (photos / "test/cat/00.png").unlink(), "no longer:   'test/cat/00.png'"),
    "another name": (lambda photos: (photos / "train/cat/03.png").rename(photos / "train/cat/3.png"),
                     "no longer:   'train/cat/03.png'\n            new:         'train/cat/3.png'"),
    "another class": (lambda photos: (photos / "train/cat/03.png").rename(photos / "train/dog/99.png"),
                      "no longer:   'train/cat/03.png'\n            new:         'train/dog/99.png'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_else_has_changed_is_refused_and_named(photos, tmp_path, change):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    write_image(photos / X, seed=7)
    alter, says = CHANGES[change]
    alter(photos)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UsageError, match="another run") as error:
        run(photos, tmp_path / "run")
    assert says in str(error.value)
    assert repr(X) not in error.value.found
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_the_damaged_image_may_not_be_taken_away(photos, tmp_path):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    (photos / X).unlink()
    with pytest.raises(UsageError, match=f"no longer:   '{X}'"):
        run(photos, tmp_path / "run")


def test_once_mended_an_image_may_change_no_more_and_neither_may_one_that_was_never_reported(photos, tmp_path):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    write_image(photos / X, seed=7)
    run(photos, tmp_path / "run")
    write_image(photos / X, seed=8)
    with pytest.raises(UsageError, match=f"another now: '{X}'"):
        run(photos, tmp_path / "run")
    write_image(photos / X, seed=7)
    run(photos, tmp_path / "run")


def test_a_folder_of_an_older_version_is_refused_as_ever(photos, tmp_path):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    (tmp_path / "run" / "records.jsonl").write_text("")
    write_image(photos / X, seed=7)
    with pytest.raises(UsageError, match="another run") as error:
        run(photos, tmp_path / "run")
    assert error.value.found == "other data than now"


def test_where_the_recipe_differs_too_that_is_told(photos, tmp_path):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    write_image(photos / X, seed=7)
    with pytest.raises(UsageError, match="there: epochs = 2"):
        run(photos, tmp_path / "run", epochs=3)


@pytest.mark.parametrize(("module", "step"), [(records, "_list"), (training, "report_mended")])
def test_a_crash_before_the_change_is_recorded_loses_no_word_of_it(photos, tmp_path, monkeypatch, module, step):
    truncate(photos / X)
    stopped(photos, tmp_path / "run")
    write_image(photos / X, seed=7)

    def crash(*words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, crash)
        with pytest.raises(KeyboardInterrupt):
            run(photos, tmp_path / "run")
    run(photos, tmp_path / "run")
    assert [told["file"] for event in events(tmp_path / "run", "data_changed") for told in event["files"]] == [X]


def test_a_name_that_is_no_text_is_reported_and_mended_too(photos, tmp_path):
    odd = os.fsdecode(b"train/dog/caf\xe9\n.png")
    (photos / "train/dog/11.png").rename(photos / odd)
    rows = permutation(derive(0, "order", 0), ROWS).tolist()
    assert rows.index(23) < 24
    truncate(photos / odd)
    with pytest.raises(DataError, match="caf"):
        run(photos, tmp_path / "run")
    write_image(photos / odd, seed=7)
    run(photos, tmp_path / "run")
    assert events(tmp_path / "run", "data_changed")[0]["files"][0]["file"] == odd


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"<html>"), lambda path: path.write_bytes(b""),
                                   lambda path: Image.new("L", (200, 200)).save(path)],
                         ids=["another file", "empty", "more pixels than allowed"])
def test_what_goes_bad_while_the_run_trains_is_reported_too(photos, tmp_path, spoil):
    with pytest.raises((DataError, SecurityError)) as error:
        run(photos, tmp_path / "run", spoil=lambda: spoil(photos / X), max_pixels=1000)
    assert error.value.where == str(photos.resolve() / X)
    write_image(photos / X, seed=7)
    run(photos, tmp_path / "run", max_pixels=1000)
    assert len(events(tmp_path / "run", "data_changed")) == 1


def test_an_image_that_has_gone_bad_before_the_run_is_resumed_may_be_mended(photos, tmp_path):
    """Images that are not cut at random are all read before the first step."""
    out, crop = tmp_path / "run", {"augment": "crop-flip"}
    stopped(photos, out, "val/cat/00.png", spoil=lambda: truncate(photos / "val/cat/00.png"), **crop)
    stopped(photos, out, "train/cat/00.png", spoil=lambda: truncate(photos / "train/cat/00.png"), **crop)
    write_image(photos / "val/cat/00.png", seed=7)
    write_image(photos / "train/cat/00.png", seed=8)
    run(photos, out, **crop)


def test_a_new_run_whose_first_images_are_damaged_leaves_no_folder(photos, tmp_path):
    truncate(photos / "train/cat/00.png")
    stopped(photos, tmp_path / "run", "train/cat/00.png")
    assert not (tmp_path / "run").exists()


# A method of several runs


def recipe(photos: Path, name: str, epochs: int, *more: str) -> Recipe:
    (photos.parent / "recipe.toml").write_text(RECIPE.format(name, epochs))
    return read_recipe(photos.parent / "recipe.toml", more)


def test_what_one_run_of_a_method_reports_may_be_mended_for_all(photos, tmp_path):
    """An epoch of one step shows two thirds of the images: of the two runs the second alone meets the damaged one."""
    whole = recipe(photos, "self_distill", 1, "data.batch_size=16")
    first, second = (set(permutation(derive(one.train.seed, "order", 0), ROWS)[:16].tolist())
                     for _, one in runs_of(whole, tmp_path / "run"))
    bad = photos / file_of(min(row for row in second - first if row > 1))
    truncate(bad)
    with pytest.raises(DataError) as error:
        list(train_recipe(whole, tmp_path / "run", CPU))
    assert error.value.where == str(bad.resolve())
    assert (tmp_path / "run" / "1" / "FINISHED").exists()
    write_image(bad, seed=7)
    list(train_recipe(recipe_of_run(tmp_path / "run"), tmp_path / "run", CPU))
    assert (tmp_path / "run" / "FINISHED").exists()
    assert len(events(tmp_path / "run" / "2", "data_changed")) == 1


# Left out


def skipping(photos: Path, **settings: object):
    return load_data(DataSettings("folder", root=str(photos), image_size=8, on_bad_image="skip", **settings))


@pytest.fixture
def many(tmp_path) -> Path:
    """A hundred training images of each of two classes, not split further."""
    for label in ("cat", "dog"):
        for number in range(100):
            write_image(tmp_path / "photos" / label / f"{number:02}.png", number + 1000 * ord(label[0]))
    return tmp_path / "photos"


@pytest.mark.parametrize("spoil", [truncate, lambda path: path.write_bytes(b"<html>"),
                                   lambda path: path.write_bytes(b""),
                                   lambda path: Image.fromarray(np.zeros((4, 4), np.float32)).save(path, "TIFF")],
                         ids=["cut short", "another file", "empty", "unknown range"])
def test_a_damaged_image_is_left_out_and_nothing_else_moves(many, spoil):
    whole = load_data(DataSettings("folder", root=str(many), image_size=8))
    assert skipping(many).digest == whole.digest
    bad = int(whole.train.ids[60])
    path = many / ("cat" if bad < 100 else "dog") / f"{bad % 100:02}.png"
    spoil(path)
    some = skipping(many)
    assert some.train.ids.tolist() == [number for number in whole.train.ids.tolist() if number != bad]
    for split in ("validation", "test"):
        assert torch.equal(getattr(some, split).ids, getattr(whole, split).ids)
        assert torch.equal(getattr(some, split).labels, getattr(whole, split).labels)
    assert some.notes == (f"damaged images are left out, 1 of 144 of train: {path.parent.name}/{path.name}",)
    assert whole.notes == ()
    path.write_bytes(b"damaged in another way")
    assert skipping(many).digest == some.digest != whole.digest


@pytest.mark.parametrize(("split", "count", "allowed"), [("train", 2, True), ("train", 3, False), ("val", 1, False)])
def test_at_most_a_hundredth_of_a_split_is_left_out(many, tmp_path, split, count, allowed):
    shutil.move(many / "cat", many / "train" / "cat")
    shutil.move(many / "dog", many / "train" / "dog")
    for number in range(99):
        write_image(many / "val" / "cat" / f"{number:02}.png", number)
    for number in range(count):
        truncate(many / split / "cat" / f"{number:02}.png")
    if allowed:
        assert len(skipping(many).train.ids) == 198
    else:
        with pytest.raises(DataError, match="too many damaged images to leave out") as error:
            skipping(many)
        assert error.value.exit_code == 3
        assert f"{count} of " in error.value.found
        assert f"{split}/cat/00.png" in error.value.found
        assert "1 %" in error.value.expected.replace("1%", "1 %")


def test_the_last_image_of_a_class_is_never_left_out(many):
    write_image(many / "owl" / "only.png", seed=1)
    shutil.move(many, many.parent / "train")
    (many.parent / "photos").mkdir()
    shutil.move(many.parent / "train", many.parent / "photos" / "train")
    truncate(many / "train" / "owl" / "only.png")
    with pytest.raises(DataError, match="every image of the class 'owl' is damaged") as error:
        skipping(many, validation=0.01)
    assert "train/owl/only.png" in error.value.found


def test_an_image_over_the_cap_is_refused_and_not_left_out(many):
    Image.new("L", (200, 200)).save(many / "cat" / "00.png")
    with pytest.raises(SecurityError):
        skipping(many, max_pixels=1000)


def test_a_run_that_leaves_images_out_says_so_resumes_and_is_measured(many, tmp_path):
    truncate(many / "dog" / "02.png")
    one = recipe(many, "scratch", 2, "data.on_bad_image=skip")
    out = tmp_path / "run"
    for _ in train_recipe(one, out, CPU):
        break
    job = make_job(one, CPU)
    (note,) = job.notes
    assert note == "damaged images are left out, 1 of 144 of train: dog/02.png"
    list(train_recipe(one, out, CPU))
    assert [event["notes"] for name in ("start", "resume") for event in events(out, name)] == [[note], [note]]
    told: list[str] = []
    evaluate_run(out, "validation", CPU, cost=False, note=told.append)
    assert told == [note]
    write_image(many / "dog" / "02.png", seed=7)
    with pytest.raises(UsageError, match=r"new:         'dog/02\.png'"):
        list(train_recipe(one, out, CPU))


def test_no_more_than_twenty_are_named(many, monkeypatch):
    monkeypatch.setattr("tutelage.data.bad_images.SKIPPED_AT_MOST", 0.5)
    shutil.move(many / "cat", many / "train" / "cat")
    shutil.move(many / "dog", many / "train" / "dog")
    write_image(many / "val" / "cat" / "0.png", 0)
    for number in range(22):
        truncate(many / "train" / "cat" / f"{number:02}.png")
    note = skipping(many).notes[0]
    assert note.startswith("damaged images are left out, 22 of 200 of train: train/cat/00.png, train/cat/01.png, ")
    assert note.endswith("train/cat/19.png and 2 more")
