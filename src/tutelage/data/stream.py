"""Images that are read when they are wanted, by worker processes if there are any."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tutelage.data.augment import Augmentation, Mixture, crop_and_flip, mix_images, mix_labels, mixture, unit_range
from tutelage.data.images import Preparation, as_image, as_tensor, prepare_image
from tutelage.data.memory import MemorySource, in_memory, moved_to
from tutelage.errors import DataError, ResourceError, UserError
from tutelage.system.random import derive
from tutelage.types import Batch, Inputs

Reader = Callable[[int], Image.Image | Tensor]
"""Row -> a decoded image in the wanted channels, or a tensor [C, H, W] that is already of the wanted shape."""
CPU = torch.device("cpu")
Samples = dict[str, Tensor]
"""View -> [rows, C, H, W]."""


@dataclass(frozen=True, eq=False)
class StreamSource:
    """A split whose images are read row by row.

    What a sample looks like depends on (seed, draw, view, id) alone, so the number of `workers` (processes that
    read ahead; 0: none) changes nothing but the speed. `shape` is (C, H, W) of what comes out, `prepared` how a
    decoded image gets there, `classes` how many there are.
    """

    ids: Tensor
    labels: Tensor
    read: Reader
    prepared: Preparation | None
    shape: tuple[int, int, int]
    classes: int
    how: Augmentation
    workers: int = 0
    device: torch.device = CPU

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        plan = [rows.cpu() for rows in plan]
        mixes = [self.mixture(rows, draw) if draw is not None and self.how.mixes else None for rows in plan]
        wanted = [rows if mix is None else torch.cat([rows, mix.partner])
                  for rows, mix in zip(plan, mixes, strict=True)]
        loaded = self._samples(wanted, draw, views)
        for rows, mix, own, samples in zip(plan, mixes, wanted, loaded, strict=True):
            images = {view: self._finished(own, samples[view], draw, view, mix) for view in views}
            inputs: Inputs = images[""] if tuple(views) == ("",) else images
            yield Batch(inputs, self._labels(rows, mix), self._moved(self.ids[rows]))

    def mixture(self, rows: Tensor, draw: int) -> Mixture:
        """With whom these rows are mixed in this draw."""
        return mixture(self.ids[rows], self.how, draw=draw, rows=len(self.ids), size=self.shape[1:])

    def sample(self, row: int, draw: int | None, views: Sequence[str]) -> Samples:
        """One image in every view, up to what is done to whole batches: [C, H, W]."""
        image = self.read(row)
        if draw is None or not self.how.per_sample:
            return dict.fromkeys(views, self._prepared(image))
        samples = {}
        for view in views:
            with _drawing(self.how.seed, "sample", draw, view, int(self.ids[row])):
                samples[view] = self._prepared(_transformed(image, self.how, self.shape))
        return samples

    def as_read(self, plan: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images of each entry as they are read and prepared, nothing else: [rows, C, H, W] on the device."""
        for samples in self._samples(plan, None, ("",)):
            yield self._moved(samples[""])

    def _samples(self, wanted: Sequence[Tensor], draw: int | None, views: Sequence[str]) -> Iterator[Samples]:
        """The samples of each entry, read ahead by the workers; an error of a worker is raised here, as it was."""
        # A generator of its own: otherwise every epoch would draw a number from torch's global one.
        loader = DataLoader(_Entries(self, wanted, draw, views), batch_size=None, num_workers=self.workers,
                            collate_fn=_as_it_is, generator=torch.Generator().manual_seed(0),
                            pin_memory=self.device.type == "cuda")
        for samples in _watched(loader):
            if isinstance(samples, UserError):
                raise samples
            yield samples

    def _prepared(self, image: Image.Image | Tensor) -> Tensor:
        if isinstance(image, Tensor):
            return image
        assert self.prepared is not None, "a reader of images comes with their preparation"
        return prepare_image(image, self.prepared)

    def _finished(self, rows: Tensor, samples: Tensor, draw: int | None, view: str, mix: Mixture | None) -> Tensor:
        """What is left to do is done to the whole batch, on the device."""
        how = self.how
        padded = torch.nn.functional.pad(self._moved(samples), [how.padding] * 4)
        places, ids = torch.arange(len(rows), device=self.device), self._moved(self.ids[rows])
        images = unit_range(crop_and_flip(padded, places, ids, how, draw=draw, view=view))
        if mix is None:
            return images
        own, partners = images.chunk(2)
        return mix_images(own, partners, Mixture(*(self._moved(part) for part in mix)))

    def _labels(self, rows: Tensor, mix: Mixture | None) -> Tensor:
        labels = self.labels[rows]
        if mix is not None:
            labels = mix_labels(labels, self.labels[mix.partner], mix.share, self.classes)
        return self._moved(labels)

    def _moved(self, tensor: Tensor) -> Tensor:
        return moved_to(tensor, self.device)


@dataclass(frozen=True, eq=False)
class KeptSource:
    """A split that is read once, when the first batch is wanted, and stays on the device from then on."""

    stream: StreamSource

    @property
    def ids(self) -> Tensor:
        """See `Source`."""
        return self.stream.ids

    @property
    def labels(self) -> Tensor:
        """See `Source`."""
        return self.stream.labels

    def batches(self, plan: Sequence[Tensor], *, draw: int | None,
                views: Sequence[str] = ("",)) -> Iterator[Batch]:
        """See `Source.batches`."""
        return self.memory.batches(plan, draw=draw, views=views)

    @cached_property
    def memory(self) -> MemorySource:
        """All images of the split, prepared."""
        stream = self.stream
        plan = torch.arange(len(stream.ids)).split(64)
        images = torch.cat([*stream.as_read(plan)])
        return in_memory(stream.ids, stream.labels, images, stream.classes, stream.how, stream.device)


class _Entries(Dataset):
    """One item is the samples of one entry of the plan, so that a worker makes whole batches."""

    def __init__(self, source: StreamSource, plan: Sequence[Tensor], draw: int | None, views: Sequence[str]):
        self.source, self.plan, self.draw, self.views = source, plan, draw, tuple(views)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Samples | UserError:
        # An error is handed back as a value: a DataLoader would wrap it in a traceback and lose its fields.
        samples = []
        for row in self.plan[index].tolist():
            try:
                samples.append(self.source.sample(row, self.draw, self.views))
            except UserError as error:
                return error
            except Exception as error:
                return DataError("a sample cannot be made", where=f"the sample with id {self.source.ids[row]}",
                                 found=f"{type(error).__name__}: {error}")
        return _stacked(samples, self.views, self.source.shape)


def _stacked(samples: Sequence[Samples], views: Sequence[str], shape: tuple[int, int, int]) -> Samples | UserError:
    for sample in samples:
        found = tuple(sample[views[0]].shape)
        if found != shape:
            return DataError("an image of another shape than the rest", found=found, expected=shape,
                             fix="give `image_size`, or let the data set make them alike")
    if not samples:
        return {view: torch.empty(0, *shape) for view in views}
    return {view: torch.stack([sample[view] for sample in samples]) for view in views}


def _transformed(image: Image.Image | Tensor, how: Augmentation,
                 shape: tuple[int, int, int]) -> Image.Image | Tensor:
    """The random operations that need an image by itself; they draw from torch's global generator."""
    prepared = isinstance(image, Tensor)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and len(image) in (1, 3):
        image = as_image(image)  # Pillow is many times faster than tensor operations on one small image
    for operation in _operations(how.randaugment, shape[1:] if how.resized_crop else None):
        image = operation(image)
    # What was a tensor, or is a crop, has the wanted shape and is not to be cut again.
    if (prepared or how.resized_crop) and isinstance(image, Image.Image):
        return as_tensor(image)
    return image


@cache
def _operations(randaugment: bool, size: tuple[int, int] | None) -> tuple[Callable, ...]:
    from torchvision.transforms import v2  # half a second to import, and few recipes need it

    colours = (v2.RandAugment(),) if randaugment else ()
    return colours if size is None else (*colours, v2.RandomResizedCrop(size, antialias=True))


@contextmanager
def _drawing(*words: int | str) -> Iterator[None]:
    """Inside, torch's generator on the CPU starts from `words`; outside, it is as if nothing had happened.

    `system.random.seeded` promises the same of all devices, and spends a millisecond on it: too much for each sample.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(derive(*words))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def _watched(loader: Iterable) -> Iterator:
    """The items of a loader; a worker that was killed is told as what it mostly is, a lack of memory."""
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RuntimeError as error:
            raise ResourceError("a process that reads data has died", found=str(error).splitlines()[0],
                                fix="give the machine (or /dev/shm) more memory, or lower `workers`") from None
        yield item


def _as_it_is(samples: Any) -> Any:
    return samples
