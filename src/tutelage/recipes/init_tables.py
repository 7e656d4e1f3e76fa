"""What `tutelage init` writes for a table of several series over time."""

import json
from pathlib import Path

from tutelage.data.check_tables import guessed_panel, words_of_panel
from tutelage.data.load import load_data
from tutelage.models.architecture import Architecture
from tutelage.recipes.starts import Start, batch_that_fits, epochs_of

STEPS = 4000
TEACHER = Architecture("forecast_gru", options={"width": 64, "depth": 2, "dropout": 0.1})
STUDENTS = {"recurrent": Architecture("forecast_gru", options={"width": 8}),
            "linear": Architecture("forecast_linear", options={"width": 8})}


def start_of_panel(given: Path) -> Start:
    """Read a CSV or parquet file as a panel; whatever would stop a run is an error."""
    settings = guessed_panel(given)
    data = load_data(settings)
    training = len(data.train.ids)
    batch = batch_that_fits(training, (128, 64, 32, 16, 8), 10)
    inputs = ", ".join(map(json.dumps, settings.inputs or ()))
    lines = ['name = "panel"', f"root = {json.dumps(settings.root)}",
             *([f"series = {json.dumps(settings.series)}"] if settings.series else []),
             f"time = {json.dumps(settings.time)}",
             f"targets = [{', '.join(map(json.dumps, settings.targets or ()))}]   # what is forecast: mend it if it is "
             "another", f"inputs = [{inputs}]", "# log = [...]                 # of which log(1 + x) is taken first",
             f"window = {settings.window}", f"horizon = {settings.horizon}", f"gap = {settings.gap}",
             f"validation = {settings.validation:g}", f"batch_size = {batch}"]
    told = (f"{given}: {words_of_panel(settings)}; {len(data.preprocessing['series'])} series, "  # pyright: ignore
            f"{training} windows for training")
    return Start(told, f"{', '.join(settings.targets or ())} of the next step", "windows", "forecast",
                 "\n".join(lines), epochs_of(STEPS, batch, training, 10, 100), 0.003, TEACHER, STUDENTS, "adamw")
