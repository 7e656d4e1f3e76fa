"""What `tutelage init` writes for a file or a folder of series."""

import json
from dataclasses import replace
from pathlib import Path

from tutelage.data.series import SeriesSet, read_set, splits_of_series
from tutelage.data.settings import DataSettings
from tutelage.data.splits import Cut
from tutelage.errors import UserError
from tutelage.models.architecture import Architecture
from tutelage.recipes.starts import Start, batch_that_fits, epochs_of

STEPS = 3000
TEACHER = Architecture("series_cnn", options={"width": 16, "depth": 4, "dropout": 0.2})
STUDENTS = {"convolutional": Architecture("series_cnn", options={"width": 4, "depth": 2}),
            "recurrent": Architecture("series_gru", options={"width": 12})}


def start_of_series(given: Path) -> Start:
    """Read a set of series: a file, a folder of one, or FOLDER/NAME; whatever would stop a run is an error."""
    root = given.parent.resolve() / given.name  # the name of a link tells its split, that of its target need not
    settings = DataSettings("series", root=str(root))
    found = read_set(settings, [root])
    settings, notes = _by_subject(found, settings)
    training = len(splits_of_series(found, settings, Cut(settings.split_rule))["train"].ids)
    batch = batch_that_fits(training, (64, 32, 16, 8, 4), 5)
    channels, lengths = len(found.values[0]), found.lengths
    told = (f"{given}: {len(found.values)} series of {channels} channel{'s' if channels > 1 else ''} and "
            f"{int(lengths.min())} to {int(lengths.max())} steps, {training} of them for training, "
            f"{len(found.classes)} classes")
    lines = ['name = "series"', f"root = {json.dumps(str(root))}", f"batch_size = {batch}"]
    if settings.by is not None:
        lines.append('by = "subject"                # nobody\'s series are in two splits')
    return Start("\n".join([told, *notes]), f"{len(found.classes)} classes of series", "series", "series",
                 "\n".join(lines), epochs_of(STEPS, batch, training, 30, 200), 0.003, TEACHER, STUDENTS, "adamw")


def _by_subject(found: SeriesSet, settings: DataSettings) -> tuple[DataSettings, list[str]]:
    """Splits by whole subjects, where they are known and enough; a note where they are not."""
    if found.subjects is None:
        return settings, []
    by_subject = replace(settings, by="subject")
    try:
        splits_of_series(found, by_subject, Cut(settings.split_rule))
    except UserError as error:
        return settings, [f"  not held out by subject: {error.what}"]
    return by_subject, []
