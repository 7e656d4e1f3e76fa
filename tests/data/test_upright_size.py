"""The size of an image as it is read: turned by its EXIF or not, from its header or decoded."""

import numpy as np
import pytest
from PIL import Image

from tutelage.data.settings import DataSettings
from tutelage.data.upright_size import is_turned, size_of_image
from tutelage.errors import DataError


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize(("turn", "upright"), [(1, (12, 8)), (3, (12, 8)), (6, (8, 12)), (8, (8, 12)), (99, (12, 8))])
def test_it_is_the_size_that_reading_gives(suffix, turn, upright, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path, exif=exif)
    for whole in (False, True):
        assert size_of_image(path, DataSettings("folder"), whole) == upright
        assert size_of_image(path, DataSettings("folder", orientation="as stored"), whole) == (12, 8)
    assert is_turned(path, DataSettings("folder")) == (upright != (12, 8))


def test_what_is_wrong_is_told_and_not_raised(tmp_path):
    (tmp_path / "a.png").write_bytes(b"none")
    assert isinstance(size_of_image(tmp_path / "a.png", DataSettings("folder"), False), DataError)
