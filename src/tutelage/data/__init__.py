"""Data: a batch is (inputs, labels, ids), whatever it comes from.

`load.load` makes the `Data` that a recipe's [data] table names; `from_tensors` and `from_dataset` make it from
your own. A split is a `Source`: it is asked for rows, in any order, and gives batches.

    source.py     what the rest of the package sees        decoding.py     file -> pixels, one rule for all
    load.py       the [data] table -> Data                 folder.py       root/train/CLASS/*.jpg
    from_python.py  tensors and torch datasets -> Data     published.py    digits, CIFAR, Fashion-MNIST
    assemble.py   images and labels -> splits of a Data    label_files.py  labels and row numbers from .npy files
    memory.py     few images: kept on the device           augment.py      crops, flips, mixup, cutmix of batches
    stream.py     many images: read when wanted            splits.py       what is held out
    check.py      everything wrong with a folder           resize.py       a folder of smaller images
    images.py     those pixels as tensors, and as PNG      layout.py       which folder is a split, and which a class
    left_out.py   what is not used, and why                leakage.py      the same image in two places
    bad_images.py  damaged images that are left out        series_files.py  .ts, .npz and CSV -> series
    series.py     series -> splits, padded and scaled      waves.py        made series
    check_series.py  everything wrong with series          box_*.py       images with boxes: COCO, VOC, YOLO, boxes.json
    images.py     those pixels as tensors, and as PNG      file_kinds.py   what a file is, by its first bytes
    panel.py      series over a calendar -> windows        table.py       rows of numbers, or of images, and targets
    table_scaling.py  scaling of both, there and back      check_tables.py  what is wrong with either
    pixel_modes.py  all kinds of pixels -> 8 bits, upright
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.data.from_python import from_dataset, from_tensors
    from tutelage.data.settings import DataSettings
    from tutelage.data.source import Data, Source

__all__ = ["Data", "DataSettings", "Source", "from_dataset", "from_tensors"]
_HOMES = {"Data": "source", "DataSettings": "settings", "Source": "source", "from_dataset": "from_python",
          "from_tensors": "from_python"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(f"{__name__}.{_HOMES[name]}"))[name]
