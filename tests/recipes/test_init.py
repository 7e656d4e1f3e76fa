"""`tutelage init`: recipes that fit a folder of images, and that train as they are."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from tutelage.errors import UserError
from tutelage.models import build as build_page
from tutelage.models.sources import find
from tutelage.recipes.init import FoundImages, choose_plan, write_recipes
from tutelage.recipes.job import make_job, train_job
from tutelage.recipes.recipe import read_recipe
from tutelage.recipes.teachers import with_teachers
from tutelage.system.distributed import World

CPU = World(torch.device("cpu"))


def images(root: Path, *, classes: int = 3, each: int = 12, side: int = 32) -> Path:
    generator = torch.Generator().manual_seed(0)
    for number in range(classes):
        folder = root / f"class_{number}"
        folder.mkdir(parents=True)
        for row in range(each):
            noise = torch.randint(0, 80, (side, side + 4, 3), generator=generator, dtype=torch.uint8)
            noise[..., number % 3] += 120
            Image.fromarray(noise.numpy()).save(folder / f"{row}.png")
    return root


def run(recipe: Path, out: Path, *overrides: str, quick: bool = False) -> dict:
    job = make_job(with_teachers(read_recipe(recipe, ["data.workers=0", *overrides], quick=quick)), CPU)
    for _ in train_job(job, out, CPU, lambda: 0):
        pass
    return json.loads((out / "FINISHED").read_text(encoding="utf-8"))


def one_epoch(*recipes: Path) -> None:
    for path in recipes:
        text = re.sub("(?m)^(epochs|warmup_epochs) = .*$", "", path.read_text(encoding="utf-8"))
        path.write_text(text.replace("[train]", "[train]\nepochs = 1\nwarmup_epochs = 0"), encoding="utf-8")


def test_both_recipes_train_as_they_are_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    to = Path("mine")
    folder = images(tmp_path / "photos")
    said = write_recipes(folder, "resnet8", ["resnet8", "mobilenetv2"], to, reachable=lambda: False)
    assert "36 images" in said
    for command in ("teacher.toml --out runs/mine/teacher", "students.toml --out runs/mine/students",
                    "students.toml --with-teachers --out runs/mine/students"):
        assert f"  tutelage train mine/{command}" in said.splitlines()
    recipe = read_recipe(to / "students.toml")
    assert recipe.data.image_size == 32
    assert recipe.models["teacher"].weights == str(tmp_path / "runs" / "mine" / "teacher")
    assert list(recipe.models) == ["teacher", "resnet8", "mobilenetv2"]
    for name in ("teacher", "students"):
        run(to / f"{name}.toml", tmp_path / f"quick-{name}", quick=True)
    one_epoch(to / "teacher.toml", to / "students.toml")
    run(to / "teacher.toml", Path("runs/mine/teacher"))
    finished = run(to / "students.toml", Path("runs/mine/students"))
    assert set(finished["weights"]) == {"resnet8", "mobilenetv2"}


def test_pretrained_only_where_it_can_be_had(tmp_path: Path) -> None:
    folder = images(tmp_path / "photos", each=2, side=100)
    students = ["timm:resnet18", "timm:mobilenetv2_100"]
    for reachable in (True, False):
        to = tmp_path / str(reachable)
        write_recipes(folder, "timm:resnet50", students, to, reachable=lambda answer=reachable: answer)
        teacher = read_recipe(to / "teacher.toml").models["teacher"]
        assert (teacher.pretrained, teacher.head) == (reachable, "new" if reachable else "strict")
        assert list(read_recipe(to / "students.toml").models) == ["teacher", "resnet18", "mobilenetv2_100"]


def test_small_images_give_imagenet_networks_a_small_stem(tmp_path: Path) -> None:
    write_recipes(images(tmp_path / "photos", each=2), "timm:resnet50", ["timm:resnet18", "resnet8"], tmp_path / "to",
                  reachable=lambda: False)
    models = read_recipe(tmp_path / "to" / "students.toml").models
    assert {name: arch.stem for name, arch in models.items()} == {"teacher": "cifar", "resnet18": "cifar",
                                                                  "resnet8": "as-is"}


def test_a_pretrained_teacher_of_small_images_keeps_the_stem_that_its_weights_fit(tmp_path: Path, monkeypatch) -> None:
    write_recipes(images(tmp_path / "photos", each=4), "timm:resnet18", ["resnet8", "resnet14"], tmp_path / "to",
                  reachable=lambda: True)
    teacher = read_recipe(tmp_path / "to" / "teacher.toml").models["teacher"]
    assert read_recipe(tmp_path / "to" / "students.toml").models["teacher"].stem == teacher.stem
    downloaded = replace(find(teacher, 3), download=lambda: timm.create_model("resnet18"))
    monkeypatch.setattr(build_page, "find", lambda *arguments: downloaded)
    build_page.build(teacher, class_names=["a", "b", "c"])  # strict: a changed stem would be refused


@pytest.mark.parametrize(("teacher", "students", "told"), [
    ("resnet8", ["resnet8"], "two students"),
    ("resnet8", ["resnet8", "resnte14"], "did you mean 'resnet14'"),
    ("timm:resnt50", ["resnet8", "resnet14"], "did you mean 'resnet50'"),
    ("resnet8", ["resnet8", "unet"], "not a network for classification"),
    ("tutelage:series_cnn", ["resnet8", "resnet14"], "not a network for classification"),
])
def test_what_cannot_be_meant_is_refused_before_anything_is_written(teacher: str, students: list[str], told: str,
                                                                    tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        write_recipes(images(tmp_path / "photos", each=1), teacher, students, tmp_path / "to", reachable=lambda: False)
    assert not (tmp_path / "to").exists()


def test_networks_of_this_package_have_no_weights_to_download(tmp_path: Path) -> None:
    said = write_recipes(images(tmp_path / "photos", each=2), "tutelage:resnet8", ["resnet8", "resnet14"], tmp_path,
                         reachable=lambda: True)
    assert "from random weights" in said
    assert not read_recipe(tmp_path / "teacher.toml").models["teacher"].pretrained


def test_a_table_beside_the_images_makes_them_no_series(tmp_path: Path) -> None:
    folder = images(tmp_path / "photos", each=4)
    (folder / "labels.csv").write_text("image,class\n", encoding="utf-8")
    write_recipes(folder, None, [], tmp_path, reachable=lambda: False)
    recipe = read_recipe(tmp_path / "students.toml")
    assert (recipe.data.name, recipe.data.work) == ("folder", "classification")
    assert [arch.arch for arch in recipe.models.values()] == ["timm:resnet50", "timm:resnet18", "timm:mobilenetv2_100"]


def test_recipes_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "students.toml").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="already there"):
        write_recipes(images(tmp_path / "photos", each=1), "resnet8", ["resnet8", "resnet14"], tmp_path,
                      reachable=lambda: False)
    assert (tmp_path / "students.toml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "teacher.toml").exists()


def test_fewer_images_are_seen_more_often() -> None:
    few, many = (choose_plan(FoundImages(Path("x"), count, count, 10, 500)) for count in (500, 50_000))
    assert few.epochs > many.epochs
    assert few.batch_size < many.batch_size
    assert few.image_size == 224
