"""Small folders of images, and the real data sets where TUTELAGE_DATA says they lie."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_image(path: Path, *, size: tuple[int, int] = (12, 10), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def image_file() -> Callable[..., Path]:
    return write_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with ten images each in train, three each in val and two each in test."""
    root = tmp_path / "photos"
    for split, count in {"train": 10, "val": 3, "test": 2}.items():
        for label in ("cat", "dog"):
            for number in range(count):
                seed = sum(map(ord, split)) * 10_000 + ord(label[0]) * 10 + number
                write_image(root / split / label / f"{number}.png", seed=seed)
    return root


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("TUTELAGE_DATA")
    if folder is None:
        pytest.skip("TUTELAGE_DATA is not set to the folder of the real data sets")
    return Path(folder)


def write_pair(root: Path, name: str, mask: np.ndarray, *, seed: int = 0, split: str = "", suffix: str = "png") -> Path:
    """An image of noise and the mask given, of one size, under `root`; the path of the mask."""
    height, width = mask.shape
    write_image(root / split / "images" / f"{name}.{suffix}", size=(width, height), seed=seed)
    path = root / split / "masks" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def pair_of_files() -> Callable[..., Path]:
    return write_pair


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Twenty images and masks of 12 x 10 pixels, with the classes 0 and 1."""
    root = tmp_path / "scans"
    for number in range(20):
        mask = np.random.default_rng(1000 + number).integers(0, 2, (10, 12), dtype=np.uint8)
        write_pair(root, f"s{number:02}", mask, seed=number)
    return root
