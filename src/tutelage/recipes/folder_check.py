"""What `check-data` checks: a folder of classes, of masks or of boxes, series, or what a recipe's [data] names."""

from dataclasses import replace
from pathlib import Path

from tutelage.data.box_folder import kinds_of_boxes
from tutelage.data.box_report import BoxReport, check_box_folder
from tutelage.data.check import Report, check_folder
from tutelage.data.check_interactions import InteractionReport, check_interactions
from tutelage.data.check_series import SeriesReport, check_series, holds_series
from tutelage.data.check_tables import TableReport, check_table, guessed_panel
from tutelage.data.check_text import TextReport, check_text, holds_text
from tutelage.data.folder import list_folder
from tutelage.data.images import Range
from tutelage.data.mask_folder import holds_masks
from tutelage.data.mask_report import MaskReport, check_mask_folder
from tutelage.data.pair_folder import holds_pairs
from tutelage.data.pair_report import PairReport, check_pair_folder
from tutelage.data.roots import found_path, root_of, roots_of
from tutelage.data.settings import OF_BOXES, DataSettings
from tutelage.data.text_files import every_tagged, find_text_files
from tutelage.data.text_settings import TASKS_OF_TEXT
from tutelage.errors import DataError, UsageError, unknown
from tutelage.recipes.init_users import has_users_and_items, settings_of_interactions
from tutelage.recipes.recipe import read_recipe

TASKS_OF_FILES = ("classification", "segmentation", "detection", "series", "forecast", "recommendation", "fusion",
                  "sentences", "slots")
"""What a folder or file may be for."""


def task_of_folder(place: Path, told: str | None = None) -> str:
    """The name of the task that a folder or file is for: what one is `told`, or by what lies there.

    A table beside the folders of images, such as `labels.csv`, makes them no series; a folder with masks and boxes is
    one of masks. A table with columns `user` and `item` is one of interactions.
    """
    if told is not None:
        if told not in TASKS_OF_FILES:
            raise unknown("task", told, TASKS_OF_FILES, where="--task")
        return told
    try:
        if place.is_dir() and holds_masks(place):
            return "segmentation"
        if place.is_dir() and kinds_of_boxes(place):
            return "detection"
        if place.is_dir() and holds_pairs(place):
            return "fusion"
    except DataError:  # folders that may be splits of these, and are not; those who read classes judge them themselves
        return "classification"
    if has_users_and_items(place):
        return "recommendation"
    if place.is_file() and place.suffix.lower() == ".parquet":
        return "forecast"
    if holds_text(place) and not (place.is_dir() and list_folder(place).images):
        return "sentences" if find_text_files(place) and not every_tagged(place) else "slots"
    if holds_series(place) and not (place.is_dir() and list_folder(place).images):
        return "series"
    return "classification"


def check_any_folder(place: Path, value_range: Range | None = None, told: str | None = None) -> (
        Report | MaskReport | BoxReport | SeriesReport | InteractionReport | TableReport | PairReport | TextReport):
    """Check a folder, or the one of a recipe by the recipe's keys; with masks if it holds `images` and `masks`.

    Boxes and series are known by their files, a panel by its task. Interactions are cut as a recipe says, or as
    `tutelage init` would.
    """
    if place.suffix == ".toml" and place.is_file():
        settings = read_recipe(place).data
        if settings.name == "series":
            return check_series(root_of(settings))
        if settings.name == "text":
            root = next((root for root in roots_of(settings) if root.exists()), roots_of(settings)[0])
            return check_text(root, tagged=settings.work == "slots", columns=settings.columns)
        if settings.name == "interactions":
            return check_interactions(settings, roots_of(settings))
        if settings.name in ("panel", "table"):
            return check_table(settings)
        if settings.name != "folder":
            raise UsageError("a recipe without a folder to check", where=f"{place}, [data] name", found=settings.name,
                             expected='name = "folder"')
        root = root_of(settings)
        settings = settings if value_range is None else replace(settings, value_range=value_range)
    else:
        task = task_of_folder(place, told)
        if task in TASKS_OF_TEXT:
            return check_text(place, tagged=task == "slots")
        if task == "series":
            return check_series(place)
        if task == "forecast":
            return check_table(guessed_panel(place))
        if task == "recommendation":
            return check_interactions(replace(settings_of_interactions(place)[0], doubled=None), [place])
        root = place
        settings = DataSettings("folder", task=task, value_range=value_range)
    if settings.work == "segmentation":
        return check_mask_folder(root, settings)
    if settings.work in OF_BOXES:
        return check_box_folder(root, settings)
    if settings.work == "fusion":
        return check_pair_folder(root, settings, None if settings.fused is None else found_path(settings.fused))
    return check_folder(root, max_pixels=settings.max_pixels, follow_symlinks=settings.follow_symlinks,
                        value_range=settings.value_range)
