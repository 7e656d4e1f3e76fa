"""What `check-data` says of a folder of images and masks: counts, shares of pixels, and everything that is wrong."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tutelage.data.load import load_data
from tutelage.data.mask_report import check_mask_folder
from tutelage.data.resize import pre_resize
from tutelage.data.settings import DataSettings
from tutelage.errors import DataError, UsageError


def test_a_sound_folder_has_its_splits_classes_and_shares(scans):
    (scans / "classes.txt").write_text("background\nvessel\n")
    report = check_mask_folder(scans)
    assert report.findings == ()
    assert report.counts == {"train": 15, "validation": 1, "test": 4}
    assert report.values == {"background": [0], "vessel": [1]}
    assert report.sizes == {"12 x 10": 20}
    data = load_data(DataSettings("folder", task="segmentation", root=str(scans)))
    masks = [np.asarray(Image.open(scans / "masks" / f"s{number:02}.png")) for number in data.train.ids.tolist()]
    assert abs(report.shares["train"]["vessel"] - np.mean(masks)) < 1e-9
    text = str(report)
    assert "nothing wrong was found" in text
    assert f"{np.mean(masks):.2%} of train" in text
    assert json.loads(report.as_json())["shares"]["train"]["vessel"] == report.shares["train"]["vessel"]


def test_every_error_is_found_and_none_hides_another(scans):
    (scans / "classes.txt").write_text("background\nvessel\n")
    Image.new("L", (12, 11)).save(scans / "masks" / "s01.png")
    Image.new("L", (12, 10), 9).save(scans / "masks" / "s02.png")
    (scans / "masks" / "s03.png").write_bytes((scans / "masks" / "s03.png").read_bytes()[:60])
    (scans / "images" / "s04.png").write_bytes((scans / "images" / "s04.png").read_bytes()[:200])
    Image.new("RGB", (12, 10), (1, 2, 3)).save(scans / "masks" / "s05.png")
    Image.new("L", (12, 10), 9).save(scans / "masks" / "s06.png")
    report = check_mask_folder(scans)
    found = {path: finding.what for finding in report.errors for path in finding.paths}
    assert "another size" in found["masks/s01.png"]
    assert found["masks/s02.png"] == found["masks/s06.png"] == "2 x a mask with values that are no class"
    assert "cannot be decoded" in found["masks/s03.png"]
    assert "cannot be decoded" in found["images/s04.png"]
    assert "no class numbers" in found["masks/s05.png"]
    assert len(found) == 6
    with pytest.raises(DataError):
        load_data(DataSettings("folder", task="segmentation", root=str(scans)))


def test_what_lacks_its_partner_is_an_error_and_what_is_left_out_is_told(scans):
    (scans / "masks" / "s03.png").unlink()
    (scans / "boxes.json").write_text("{}")
    report = check_mask_folder(scans)
    assert [finding.what for finding in report.errors] == ["1 image without a mask"]
    assert any("boxes.json" in finding.paths for finding in report.warnings)
    assert report.counts == {"all": 20}


def test_classes_that_are_not_sure_are_an_error_with_what_to_write(scans):
    Image.new("L", (12, 10), 7).save(scans / "masks" / "s02.png")
    finding, = check_mask_folder(scans).errors
    assert "which class is which value" in finding.what
    assert "0, 1, 7" in finding.example
    assert "mask_values" in finding.fix


def test_copies_in_two_splits_absent_classes_and_cut_edges_are_told(scans):
    names = [f"s{number:02}" for number in range(20)]
    (scans / "splits.json").write_text(json.dumps({"train": names[:14], "val": names[14:17], "test": names[17:]}))
    shutil.copy(scans / "images" / "s18.png", scans / "images" / "s03.png")
    settings = DataSettings("folder", task="segmentation", mask_values={"0": "a", "1": "b", "2": "c"}, image_size=64)
    report = check_mask_folder(scans, settings)
    assert [finding.kind for finding in report.errors] == ["leakage"]
    assert report.errors[0].paths == ("images/s18.png",)
    assert {finding.kind for finding in report.warnings} == {"absent", "cut"}
    assert "image_size = [HEIGHT, WIDTH]" in str(report)


def test_images_and_masks_are_not_taken_for_two_classes(scans):
    with pytest.raises(UsageError, match="images and masks") as error:
        load_data(DataSettings("folder", root=str(scans), image_size=8))
    assert 'task = "segmentation"' in str(error.value)
    with pytest.raises(UsageError, match="their values would be mixed"):
        pre_resize(scans, scans.parent / "small", 4)
    assert load_data(DataSettings("folder", root=str(scans), image_size=8, task="classification")).classes == (
        "images", "masks")
