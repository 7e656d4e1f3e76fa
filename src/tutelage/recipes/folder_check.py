"""What `check-data` checks: a folder of classes, one of images and masks, series, or what a recipe's [data] names."""

from dataclasses import replace
from pathlib import Path

from tutelage.data.check import Report, check_folder
from tutelage.data.check_series import SeriesReport, check_series, holds_series
from tutelage.data.images import Range
from tutelage.data.load import root_of
from tutelage.data.mask_folder import holds_masks
from tutelage.data.mask_report import MaskReport, check_mask_folder
from tutelage.data.settings import DataSettings
from tutelage.errors import UsageError
from tutelage.recipes.recipe import read_recipe


def check_any_folder(place: Path, value_range: Range | None = None) -> Report | MaskReport | SeriesReport:
    """Check a folder, or the one of a recipe by the recipe's keys; with masks if it holds `images` and `masks`.

    Series are known by their files.
    """
    if place.suffix == ".toml" and place.is_file():
        settings = read_recipe(place).data
        if settings.name == "series":
            return check_series(root_of(settings))
        if settings.name != "folder":
            raise UsageError("a recipe without a folder to check", where=f"{place}, [data] name", found=settings.name,
                             expected='name = "folder"')
        root, masks = root_of(settings), settings.work == "segmentation"
        settings = settings if value_range is None else replace(settings, value_range=value_range)
    elif holds_series(place):
        return check_series(place)
    else:
        masks = place.is_dir() and holds_masks(place)
        root, task = place, "segmentation" if masks else None
        settings = DataSettings("folder", task=task, value_range=value_range)
    if masks:
        return check_mask_folder(root, settings)
    return check_folder(root, max_pixels=settings.max_pixels, follow_symlinks=settings.follow_symlinks,
                        value_range=settings.value_range)
