"""Reading ahead: the number of workers changes nothing, and an error arrives as it was raised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data.augment import Augmentation
from tutelage.data.images import Preparation, decode
from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.stream import KeptSource, StreamSource
from tutelage.errors import DataError


def folder(root: Path, **settings: object) -> DataSettings:
    return DataSettings("folder", root=str(root), image_size=8, **settings)


@pytest.mark.parametrize("augment", ["random-resized-crop", "randaugment"])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_workers_change_nothing(photos, augment, mixup):
    plan = [torch.tensor([3, 1, 19]), torch.tensor([0, 3]), torch.tensor([7])]
    results = []
    for workers in (0, 2):
        data = load_data(folder(photos, augment=augment, mixup=mixup, workers=workers))
        assert isinstance(data.train, StreamSource)
        results.append(list(data.train.batches(plan, draw=4, views=("", "b"))))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.ids, other.ids)
        for view in ("", "b"):
            assert torch.equal(one.inputs[view], other.inputs[view])
        assert not torch.equal(one.inputs[""], one.inputs["b"])


def test_a_sample_is_the_same_in_any_batch_and_another_in_another_draw(photos):
    train = load_data(folder(photos)).train
    among = next(train.batches([torch.tensor([5, 2, 9])], draw=1)).inputs[1]
    assert torch.equal(next(train.batches([torch.tensor([2])], draw=1)).inputs[0], among)
    assert not torch.equal(next(train.batches([torch.tensor([2])], draw=2)).inputs[0], among)


def test_streaming_leaves_the_global_generator_alone(photos):
    train = load_data(folder(photos, augment="randaugment")).train
    before = torch.get_rng_state()
    list(train.batches([torch.arange(4)], draw=0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_mixture_shows_the_partner_as_the_partner_itself_looks(photos):
    mixed = load_data(folder(photos, mixup=0.5)).train
    plain = load_data(folder(photos)).train
    rows = torch.arange(20)
    own = next(plain.batches([rows], draw=0)).inputs
    mix = mixed.mixture(rows, 0)
    share = mix.share[:, None, None, None]
    batch = next(mixed.batches([rows], draw=0))
    torch.testing.assert_close(batch.inputs, share * own + (1 - share) * own[mix.partner])
    expected = torch.zeros(20, 2)
    for row in range(20):
        expected[row, mixed.labels[row]] += mix.share[row]
        expected[row, mixed.labels[mix.partner[row]]] += 1 - mix.share[row]
    torch.testing.assert_close(batch.labels, expected)


def test_a_kept_split_gives_what_a_streamed_one_gives(photos):
    kept = load_data(folder(photos, augment="crop-flip", mixup=0.3)).train
    assert isinstance(kept, KeptSource)
    plan = [torch.tensor([4, 17]), torch.tensor([0])]
    for draw in (None, 0, 1):
        for one, other in zip(kept.batches(plan, draw=draw), kept.stream.batches(plan, draw=draw), strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.ids, other.ids)


def test_evaluation_is_the_central_square_scaled(photos):
    data = load_data(DataSettings("folder", root=str(photos), image_size=14))
    batch = next(data.validation.batches([torch.tensor([4])], draw=None))
    image = decode(photos.resolve() / "val" / "dog" / "1.png")
    side = 10 * 14 / 16
    box = (6 - side / 2, 5 - side / 2, 6 + side / 2, 5 + side / 2)
    expected = np.asarray(image.resize((14, 14), Image.Resampling.BILINEAR, box=box))
    assert np.array_equal((batch.inputs[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert batch.labels.tolist() == [1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_names_the_file_and_keeps_its_exit_code(photos, workers):
    train = load_data(folder(photos, workers=workers)).train
    broken = photos.resolve() / "train" / "cat" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        list(train.batches([torch.arange(10), torch.arange(10, 20)], draw=0))
    assert caught.value.exit_code == 3
    assert caught.value.where == str(broken)
    assert caught.value.what == "an image cannot be decoded"
    assert "Traceback" not in str(caught.value)


def test_an_error_in_a_users_reader_names_the_row():
    def read(row: int) -> torch.Tensor:
        raise KeyError("gone")

    ids = torch.tensor([41, 42])
    split = StreamSource(ids, ids, read, Preparation(1, 4, 4), (1, 4, 4), 50, Augmentation())
    with pytest.raises(DataError, match=r"the sample with id 42[\s\S]*KeyError"):
        next(split.batches([torch.tensor([1])], draw=None))


def test_an_empty_entry_gives_an_empty_batch(photos):
    batch = next(load_data(folder(photos)).train.batches([torch.tensor([], dtype=torch.int64)], draw=0))
    assert batch.inputs.shape == (0, 3, 8, 8)


def test_stopping_early_leaves_no_worker_behind(photos):
    import multiprocessing

    batches = load_data(folder(photos, workers=2)).train.batches([torch.arange(2)] * 8, draw=0)
    next(batches)
    batches.close()
    assert not multiprocessing.active_children()


def gradient(row: int) -> Image.Image:
    """The same image in every row, different in every place."""
    return Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8))


@pytest.mark.parametrize("how", [Augmentation(resized_crop=True), Augmentation(randaugment=True)])
def test_each_sample_draw_view_and_seed_has_random_numbers_of_its_own(how):
    ids, rows = torch.arange(100, 120), [torch.arange(20)]

    def images(draw: int, view: str, seed: int) -> torch.Tensor:
        split = StreamSource(ids, ids, gradient, Preparation(3, 32, 32), (3, 32, 32), 120, replace(how, seed=seed))
        return next(split.batches(rows, draw=draw, views=("", view))).inputs[view]

    first = images(0, "a", 0)
    assert len({image.numpy().tobytes() for image in first}) > 12
    for other in (images(1, "a", 0), images(0, "b", 0), images(0, "a", 1)):
        assert sum(not torch.equal(one, another) for one, another in zip(first, other, strict=True)) > 12


def test_crops_and_flips_are_drawn_by_the_id_and_not_by_the_row():
    how = Augmentation(padding=4, flip=True)

    def image_of_id_110(ids: torch.Tensor) -> torch.Tensor:
        split = StreamSource(ids, ids, gradient, Preparation(3, 32, 32), (3, 32, 32), 120, how)
        row = (ids == 110).nonzero()[0]
        return torch.cat([next(split.batches([row], draw=draw)).inputs for draw in range(6)])

    assert torch.equal(image_of_id_110(torch.arange(100, 120)), image_of_id_110(torch.arange(107, 112)))
