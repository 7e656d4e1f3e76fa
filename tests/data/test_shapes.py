"""The made set: the same everywhere, every class in it, and masks that fit the images."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tutelage.data.shapes import CLASSES, SPLITS, make_shapes, write_shapes


def test_the_set_is_the_same_on_every_machine():
    made = make_shapes()
    assert made.images.shape == (sum(SPLITS.values()), 3, 64, 64)
    content = hashlib.sha256(made.images.numpy().tobytes() + made.masks.numpy().tobytes()).hexdigest()
    assert content == "1c9159cb14db2f69676199652bc57fc99db13aa68c5e861c10a7b9ec8f0e418c"


def test_fewer_rows_are_the_first_ones():
    few, all_ = make_shapes(7), make_shapes()
    assert torch.equal(few.images, all_.images[:7])
    assert torch.equal(few.masks, all_.masks[:7])


def test_every_class_has_its_share_and_shapes_are_seen_in_the_image():
    made = make_shapes(100)
    shares = [float((made.masks == number).float().mean()) for number in range(len(CLASSES))]
    assert 0.7 < shares[0] < 0.9
    assert min(shares) > 0.05
    red, blue = made.images[:, 0].float(), made.images[:, 2].float()
    assert (red - blue)[made.masks == 1].mean() > 50
    assert (red - blue)[made.masks == 2].mean() < -50
    assert abs((red - blue)[made.masks == 0].mean()) < 20


def test_a_disc_is_round_and_a_square_is_not():
    made = make_shapes(100)
    seen = {1: [], 2: []}
    for mask in made.masks.numpy():
        numbers = set(np.unique(mask)) - {0}
        if len(numbers) != 1:
            continue
        (number,) = numbers
        rows, columns = np.nonzero(mask)
        if rows.min() == 0 or columns.min() == 0 or rows.max() == 63 or columns.max() == 63:
            continue
        place = np.stack([rows - rows.mean(), columns - columns.mean()])
        spread, area = (place**2).sum(0).mean(), len(rows)
        seen[int(number)].append(2 * np.pi * spread / area)  # 1 for one disc, pi / 3 for one square, more for several
    assert min(seen[1]) < 1.02 < 1.03 < min(seen[2]) < 1.07


def test_written_masks_have_the_values_asked_for(tmp_path: Path):
    write_shapes(tmp_path, [0, 5, 300, 7], {"train": 6, "val": 2})
    found = set()
    for split, count in {"train": 6, "val": 2}.items():
        masks = sorted((tmp_path / split / "masks").iterdir())
        assert len(masks) == count
        for path in masks:
            mask = np.asarray(Image.open(path))
            made = make_shapes(8).masks[int(path.stem)].numpy()
            assert ((mask > 0) == (made > 0)).all()
            found |= set(np.unique(mask).tolist())
    assert found == {0, 5, 300, 7}
