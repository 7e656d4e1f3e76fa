"""Small folders of images, and the real data sets where TUTELAGE_DATA says they lie."""

import io
import json
import os
from collections.abc import Callable
from functools import cache
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


@cache
def noise(number: int) -> bytes:
    """A PNG file of noise, 40 pixels wide and 30 high."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "png", compress_level=0)
    return file.getvalue()


def picture(path: Path, number: int) -> None:
    """Write an image of `noise`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(noise(number))


CATS = [[4.0, 5.0, 20.0, 25.0], [0.0, 0.0, 40.0, 30.0]]
"""Left, top, right and lower edges of boxes in an image of 40 x 30 pixels."""


def write_plain(root: Path, count: int = 12) -> Path:
    """boxes.json: image N has N % 3 boxes, a cat and a dog."""
    boxes = {}
    for number in range(count):
        picture(root / "images" / f"s{number:02}.png", number)
        boxes[f"s{number:02}"] = [[name, *box] for name, box in zip(("cat", "dog"), CATS, strict=True)][:number % 3]
    (root / "boxes.json").write_text(json.dumps({"boxes": boxes}))
    return root


def coco_json(count: int, first: int = 0) -> dict:
    """What instances_*.json says of the images of `write_plain`; ids are out of order and have gaps."""
    held: dict = {"images": [], "annotations": [], "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]}
    for number in range(first, first + count):
        held["images"].append({"id": 1000 - number, "file_name": f"s{number:02}.png", "width": 40, "height": 30})
        for category, (left, top, right, lower) in list(zip((3, 9), CATS, strict=True))[:number % 3]:
            held["annotations"].append({"id": len(held["annotations"]), "image_id": 1000 - number, "iscrowd": 0,
                                        "category_id": category, "bbox": [left, top, right - left, lower - top]})
    return held


def write_coco(root: Path, splits: dict[str, int]) -> Path:
    """annotations/instances_SPLIT.json beside SPLIT/*."""
    (root / "annotations").mkdir(parents=True)
    first = 0
    for split, count in splits.items():
        for number in range(first, first + count):
            picture(root / split / f"s{number:02}.png", number)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco_json(count, first)))
        first += count
    return root


def voc_xml(boxes: list, size: tuple[int, int] = (40, 30)) -> str:
    """An annotation of VOC; edges are written as VOC counts them, from 1 and with the last pixel."""
    things = "".join(f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{left + 1:g}</xmin><ymin>"
                     f"{top + 1:g}</ymin><xmax>{right:g}</xmax><ymax>{lower:g}</ymax></bndbox></object>\n"
                     for name, left, top, right, lower in boxes)
    return (f"<annotation>\n<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>\n{things}"
            "</annotation>\n")


def write_voc(root: Path, splits: dict[str, int]) -> Path:
    """JPEGImages, Annotations and ImageSets/Main."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    first = 0
    for split, count in splits.items():
        names = [f"s{number:02}" for number in range(first, first + count)]
        for number, name in enumerate(names, first):
            picture(root / "JPEGImages" / f"{name}.png", number)
            boxes = [[kind, *box] for kind, box in zip(("cat", "dog"), CATS, strict=True)][:number % 3]
            (root / "Annotations" / f"{name}.xml").write_text(voc_xml(boxes))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        first += count
    return root


def write_yolo(root: Path, splits: dict[str, int], yaml: str = "names: [cat, dog]\n") -> Path:
    """images/SPLIT, labels/SPLIT and data.yaml; an image without objects has no file of labels."""
    first = 0
    for split, count in splits.items():
        (root / "labels" / split).mkdir(parents=True)
        for number in range(first, first + count):
            picture(root / "images" / split / f"s{number:02}.png", number)
            lines = [f"{kind} {(left + right) / 80} {(top + lower) / 60} {(right - left) / 40} {(lower - top) / 30}"
                     for kind, (left, top, right, lower) in enumerate(CATS)][:number % 3]
            if lines:
                (root / "labels" / split / f"s{number:02}.txt").write_text("\n".join(lines) + "\n")
        first += count
    if yaml:
        (root / "data.yaml").write_text(yaml)
    return root


SPLIT_COUNTS = {"train": 8, "val": 2, "test": 2}


@pytest.fixture
def boxes_of_kind(tmp_path: Path) -> Callable[[str], Path]:
    """The same twelve images and boxes in the format that is asked for."""
    def write(kind: str) -> Path:
        root = tmp_path / kind
        if kind == "plain":
            names = [f"s{number:02}" for number in range(12)]
            write_plain(root)
            splits = {"train": names[:8], "val": names[8:10], "test": names[10:]}
            (root / "splits.json").write_text(json.dumps(splits))
            return root
        return {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}[kind](root, SPLIT_COUNTS)
    return write
