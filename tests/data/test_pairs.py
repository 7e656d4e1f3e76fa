"""Pairs as data: sizes, crops, groups, colour, fused images; everything bad is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from every import every
from tutelage.data.made_pairs import PAIR_SPLITS, make_pairs, write_pairs
from tutelage.data.pair_report import check_pair_folder
from tutelage.data.pair_source import PairSource, central
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, SecurityError, UsageError
from tutelage.tasks.fusion.task import FUSION
from tutelage.tasks.named import data_for

FOLDER = DataSettings("folder", task="fusion", crop=16)


def grey(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size[::-1]).astype(np.uint8)).save(path)


def folder_of(root: Path, sizes: list[tuple[int, int]]) -> Path:
    for number, size in enumerate(sizes):
        for side, name in enumerate(("infrared", "visible")):
            grey(root / name / f"{number}.png", size, 2 * number + side)
    return root


def loaded(root: Path, **keys: object):
    return data_for(replace(FOLDER, root=str(root), **keys))


def whole(source: PairSource):
    (batch,) = source.batches([torch.arange(len(source.ids))], draw=None)
    return batch


@pytest.fixture
def few(tmp_path) -> Path:
    return folder_of(tmp_path / "few", [(30, 24)] * 12)


def test_the_made_pairs_are_these_on_every_machine():
    data = data_for(DataSettings("pairs", crop=32))
    assert data.task is FUSION
    assert data.shape == (2, 64, 64)
    assert [len(one.ids) for one in (data.train, data.validation, data.test)] == [*PAIR_SPLITS.values()]
    made = make_pairs()
    assert made.pairs.float().mean((0, 2, 3)).tolist() == pytest.approx([92.2428, 68.1194], abs=1e-3)
    night, day = made.pairs[made.night, 1].float().mean(), made.pairs[~made.night, 1].float().mean()
    assert night < 0.5 * day
    assert data.train.groups == ("day", "night")


def test_both_images_are_cut_alike_and_each_draw_is_a_function_of_seed_draw_and_id(few):
    data = loaded(few)
    batches = {draw: next(iter(data.train.batches([torch.arange(4)], draw=draw))) for draw in (0, 1)}
    again = next(iter(loaded(few).train.batches([torch.tensor([3, 1])], draw=1, views=("", "strong"))))
    assert batches[0].inputs.shape == (4, 2, 16, 16)
    assert not torch.equal(batches[0].inputs, batches[1].inputs)
    assert torch.equal(again.inputs["strong"], batches[1].inputs[[3, 1]])
    assert torch.equal(again.inputs[""], again.labels["sources"])
    for row, one in enumerate(data.train.ids[:4].tolist()):  # the crop is somewhere in the pair, both at one place
        pair = data.train.read(one).float() / 255
        pair = torch.stack([pair, pair.flip(-1)])
        windows = pair.unfold(2, 16, 1).unfold(3, 16, 1).movedim(1, 3)
        assert bool((windows == batches[1].inputs[row]).flatten(3).all(-1).any())


def test_images_of_unlike_sizes_are_seen_in_their_centre(tmp_path):
    data = loaded(folder_of(tmp_path, [(30, 24)] * 9 + [(26, 40)] * 3))
    assert data.shape == (2, 24, 26)
    assert "unlike sizes" in "\n".join(data.notes)
    batch = whole(data.test)
    wanted = torch.stack([central(data.test.read(one), (24, 26)) for one in data.test.ids.tolist()])
    assert torch.equal(batch.inputs, wanted.float() / 255)


def test_without_augmentation_training_sees_what_evaluation_sees(few):
    data = loaded(few, augment="none")
    drawn = next(iter(data.train.batches([torch.arange(3)], draw=5)))
    assert torch.equal(drawn.inputs, whole(data.train).inputs[:3])


@pytest.mark.parametrize(("keys", "words"), [
    ({"crop": 28}, "images smaller than the crop"), ({"image_size": 40}, "images smaller than the image_size"),
    ({"crop": 9}, "smaller than the window of SSIM")])
def test_crops_that_do_not_fit_are_refused(few, keys, words):
    with pytest.raises((DataError, UsageError), match=words):
        loaded(few, **keys)


def test_images_smaller_than_the_window_of_ssim_are_refused(tmp_path):
    with pytest.raises(DataError, match="images smaller than the window of SSIM"):
        loaded(folder_of(tmp_path, [(30, 24)] * 9 + [(10, 24)]), crop=None)


def test_unlike_sizes_of_a_pair_name_the_file(few):
    grey(few / "infrared" / "3.png", (29, 24), 0)
    with pytest.raises(DataError, match="unlike sizes") as error:
        loaded(few)
    assert str(error.value.where).endswith("infrared/3.png")
    assert "29 x 24, and 30 x 24" in str(error.value.found)
    assert error.value.exit_code == 3


@pytest.mark.parametrize("bad", ["text", "cut", "huge"])
def test_hostile_files_are_refused_by_name(few, bad):
    path = few / "visible" / "5.png"
    if bad == "text":
        path.write_text("import os")
    elif bad == "cut":
        path.write_bytes(path.read_bytes()[:40])
    keys = {"max_pixels": 100} if bad == "huge" else {}
    with pytest.raises((DataError, SecurityError)) as error:
        loaded(few, **keys)
    assert bad == "huge" or str(error.value.where).endswith("visible/5.png")


def test_what_is_damaged_behind_its_header_is_named_when_it_is_read(few):
    path = few / "visible" / "5.png"
    path.write_bytes(path.read_bytes()[:-60])
    data_error = []
    try:
        data = loaded(few, leakage="allow")
        for source in (data.train, data.validation, data.test):
            whole(source)
    except DataError as error:
        data_error.append(str(error.where))
    assert data_error
    assert data_error[0].endswith("visible/5.png")


def test_colour_becomes_luma_and_is_told(few):
    colour = np.random.default_rng(0).integers(0, 256, (24, 30, 3)).astype(np.uint8)
    for number in range(12):
        Image.fromarray(np.roll(colour, number, 1)).save(few / "visible" / f"{number}.png")
    data = loaded(few)
    assert "in colour" in "\n".join(data.notes)
    luma = np.asarray(Image.open(few / "visible" / "0.png").convert("L"))
    place = next(source for source in (data.train, data.validation, data.test) if 0 in source.ids.tolist())
    assert np.array_equal(place.read(0)[1].numpy(), luma)
    assert check_pair_folder(few).coloured == 12


def test_a_folder_of_fused_images_comes_with_the_pairs(few, tmp_path):
    for number in range(12):
        grey(tmp_path / "fused" / f"{number}.png", (30, 24), 100 + number)
    data = loaded(few, fused=str(tmp_path / "fused"))
    batch = next(iter(data.train.batches([torch.arange(3)], draw=0)))
    assert batch.inputs[""]["images"].shape == (3, 2, 16, 16)
    assert batch.inputs[""]["fused"].shape == (3, 1, 16, 16)
    grey(tmp_path / "fused" / "0.png", (30, 24), 1)
    assert loaded(few, fused=str(tmp_path / "fused")).digest != data.digest
    grey(tmp_path / "fused" / "0.png", (31, 24), 1)
    with pytest.raises(DataError, match="unlike sizes"):
        loaded(few, fused=str(tmp_path / "fused"))


def test_the_order_of_files_and_a_further_pair_change_no_split(few, tmp_path):
    data = loaded(few)
    other = folder_of(tmp_path / "other", [(30, 24)] * 12)
    assert loaded(other).digest == data.digest
    assert set(data.test.ids.tolist()) == set(loaded(few, validation=0.3).test.ids.tolist())


@pytest.mark.parametrize("keys", [{"mixup": 0.2}, {"augment": "randaugment"}, {"unlabelled": True},
                                  {"on_bad_image": "skip"}, {"only": "ids.npy"}])
def test_what_does_not_go_with_pairs_is_refused(few, keys):
    with pytest.raises(UsageError, match="does not go with pairs"):
        loaded(few, **keys)


def test_keys_of_pairs_are_of_pairs_alone():
    with pytest.raises(UsageError, match="a key of pairs"):
        DataSettings("digits", crop=16)
    with pytest.raises(UsageError, match="not one of"):
        data_for(DataSettings("pairs", task="segmentation"))


def test_a_quick_run_needs_no_file():
    data = data_for(replace(FOLDER, root="nowhere", fused="nowhere"), quick=True)
    assert every(len(source.ids) >= 16 for source in (data.train, data.validation, data.test))
    assert "fused" in whole(data.test).inputs[""]
    assert data.train.groups == ("day", "night")


def test_the_report_tells_sizes_sets_and_everything_wrong(tmp_path):
    write_pairs(tmp_path, {"train": 6, "val": 2, "test": 2})
    report = check_pair_folder(tmp_path)
    assert not report.findings
    assert report.counts == {"train": 6, "validation": 2, "test": 2}
    assert report.sets == {"day": 5, "night": 5}
    (tmp_path / "train" / "visible" / "00000D.png").unlink()
    (tmp_path / "train" / "visible" / "00001N.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    grey(tmp_path / "train" / "infrared" / "00002D.png", (20, 20), 0)
    found = check_pair_folder(tmp_path)
    text = "\n".join(one.what + one.example for one in found.errors)
    assert "without the visible one" in text
    assert "00001N.png" in text
    assert "unlike sizes" in text
    assert "pairs of infrared and visible" in found.text(every=True)
    assert "errors" in found.as_json()
