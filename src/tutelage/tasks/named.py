"""The tasks there are, by name, and that of some data."""

from dataclasses import replace

import torch

from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.source import Data
from tutelage.data.stream import CPU
from tutelage.errors import unknown
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.detection.task import ANCHOR_DETECTION, DETECTION
from tutelage.tasks.forecast.task import FORECAST, REGRESSION
from tutelage.tasks.fusion.task import FUSION
from tutelage.tasks.recommendation.task import RECOMMENDATION
from tutelage.tasks.segmentation.task import SEGMENTATION
from tutelage.tasks.series import SERIES
from tutelage.tasks.task import Task
from tutelage.tasks.text.task import SENTENCES, SLOTS, WORDS

TASKS = {task.name: task for task in (CLASSIFICATION, SEGMENTATION, SERIES, DETECTION, ANCHOR_DETECTION, FORECAST,
                                    REGRESSION, RECOMMENDATION, FUSION, SENTENCES, SLOTS, WORDS)}


def task_named(name: str, where: object = "[data] task") -> Task:
    """A task by its name; UsageError with a suggestion for one that there is not."""
    if name not in TASKS:
        raise unknown("task", name, TASKS, where=where)
    return TASKS[name]


def data_for(settings: DataSettings, *, seed: int = 0, device: torch.device = CPU, quick: bool = False) -> Data:
    """`data.load.load_data`, with the task that the settings name."""
    task = task_named(settings.work)
    return replace(load_data(settings, seed=seed, device=device, quick=quick), task=task)


def task_of(data: Data) -> Task:
    """The task that the data are for: classification where they do not say."""
    task = data.task
    assert task is None or isinstance(task, Task)
    return task or CLASSIFICATION
