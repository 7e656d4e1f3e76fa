"""The published sets that fit in memory, as arrays: digits, CIFAR-10, CIFAR-100, Fashion-MNIST."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import DataError


class Arrays(NamedTuple):
    """Images [N, C, H, W] uint8 and labels [N] int64; the first `training` rows are the training split.

    If `training` is all of them, the set has no test split of its own.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    training: int


def digits() -> Arrays:
    """1797 grey images of 8 x 8 pixels, which scikit-learn carries (Alpaydin & Kaynak 1998); values 0..16 -> 0..255."""
    from sklearn.datasets import load_digits  # a second to import

    pixels, target = load_digits(return_X_y=True)
    images = torch.from_numpy(np.round(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    return Arrays(images, torch.from_numpy(target).long(), tuple("0123456789"), len(images))


def cifar(classes: int, root: Path, download: bool) -> Arrays:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 60000 RGB images of 32 x 32, in the order of the files.

    torchvision reads them, after it has compared their MD5 sums: the files are pickles, and only the published
    ones are opened.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if classes == 10 else CIFAR100
    folder = root / kind.base_folder
    files = [folder / name for name, _ in kind.train_list + kind.test_list] + [folder / kind.meta["filename"]]
    train, test = _read(lambda first: kind(str(root), train=first, download=download), files, download)
    images = torch.from_numpy(np.concatenate([train.data, test.data])).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(train.targets + test.targets)
    return Arrays(images, labels, tuple(train.classes), len(train.data))


def fashion_mnist(root: Path, download: bool) -> Arrays:
    """Fashion-MNIST (Xiao et al. 2017): 70000 grey images of 28 x 28, in the order of the files."""
    from torchvision.datasets import FashionMNIST

    files = [root / "FashionMNIST" / "raw" / name.removesuffix(".gz") for name, _ in FashionMNIST.resources]
    train, test = _read(lambda first: FashionMNIST(str(root), train=first, download=download), files, download)
    images = torch.cat([train.data, test.data])[:, None]
    return Arrays(images, torch.cat([train.targets, test.targets]).long(), tuple(train.classes), len(train.data))


def _read(make: Callable, files: list[Path], download: bool) -> tuple:
    """The training and the test part; or an error that says which files were looked for, and where."""
    folder = files[0].parent
    missing = [file.name for file in files if not file.is_file()]
    if missing and not download:
        raise DataError("the files of the data set are not there", where=folder, found=f"missing: {', '.join(missing)}",
                        expected=", ".join(file.name for file in files),
                        fix="pass --download, or set download = true in [data], or root = the folder that "
                            f"holds {_under_root(folder)}, or TUTELAGE_DATA to it")
    try:
        return make(True), make(False)
    except Exception as error:  # torchvision raises what the network, the archive or the parser raised
        if missing:
            raise DataError("the data set could not be downloaded", where=folder,
                            found=f"{type(error).__name__}: {error}",
                            fix="connect this machine to the internet, or copy the files there yourself") from None
        raise DataError("the files of the data set are damaged", where=folder, found=str(error) or repr(error),
                        expected="the published files, unchanged",
                        fix="remove the folder and set download = true in [data]") from None


def _under_root(folder: Path) -> str:
    return "FashionMNIST/raw" if folder.name == "raw" else folder.name
