"""Whole numbers from files of numpy: labels that somebody else gave, ids of the rows to train on."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from tutelage.data.published import Arrays
from tutelage.errors import DataError


def labels_in_file(path: Path, name: str, arrays: Arrays) -> Tensor:
    """Other labels [N] int64 for the training rows of `arrays`: of a .npy file or, by their name, of a .npz file."""
    labels = _read(path, name, f"labels = {path}, or FILE.npz:NAME")
    if len(labels) != arrays.training:
        raise DataError("not the labels of these images", where=path, found=f"{len(labels)} numbers",
                        expected=f"{arrays.training}, one for each training image")
    if not -1 <= int(labels.min()) <= int(labels.max()) < len(arrays.classes):
        raise DataError("labels of other classes", where=path, found=f"{int(labels.min())} .. {int(labels.max())}",
                        expected=f"0 .. {len(arrays.classes) - 1}, or -1 for none")
    return labels


def rows_of(path: Path, ids: Tensor) -> Tensor:
    """Which of `ids` are in a .npy file of ids: [N] of bool; DataError if the file holds others."""
    wanted = _read(path, "", "only = FILE.npy")
    kept = torch.isin(ids, wanted)
    if int(kept.sum()) != len(wanted) or not len(wanted):
        raise DataError("not the ids of training images", where=path,
                        found=f"{len(wanted)} ids, {int(kept.sum())} training images", expected="each id once")
    return kept


def _read(path: Path, name: str, fix: str) -> Tensor:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray) == bool(name):
            raise DataError("which numbers of this file?", where=path, found=name or ", ".join(found), fix=fix)
        found = found[name] if name else found
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise DataError("cannot read the numbers", where=path, found=error, fix=fix) from None
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise DataError("not a list of whole numbers", where=path, found=f"{found.dtype} {list(found.shape)}", fix=fix)
    return torch.from_numpy(found.astype(np.int64))
