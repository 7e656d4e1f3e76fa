"""What `tutelage init` writes for a file or a folder of sentences."""

import json
from pathlib import Path

from tutelage.data.load import load_data
from tutelage.data.settings import DataSettings
from tutelage.data.text_files import find_text_files
from tutelage.models.architecture import Architecture
from tutelage.recipes.starts import Start, batch_that_fits, epochs_of

STEPS = 2500
TEACHER = {"width": 96, "depth": 2}
STUDENTS = {"narrow": {"width": 32, "depth": 2}, "shallow": {"width": 64, "depth": 1}}


def start_of_text(given: Path, task: str = "sentences") -> Start:
    """Read a set of sentences; whatever would stop a run is an error."""
    root = given.resolve()
    only_val = root.is_dir() and _has(root, "val") and not _has(root, "test")
    settings = DataSettings("text", root=str(root), task=task, test="val" if only_val else None)
    data = load_data(settings)
    training = len(data.train.ids)
    batch = batch_that_fits(training, (64, 32, 16, 8, 4), 5)
    kind = "labels" if task == "sentences" else "tags"
    told = (f"{given}: {training} sentences for training, {len(data.validation.ids)} for validation, "
            f"{len(data.test.ids) if data.test is not None else 0} for testing, {len(data.classes)} {kind}, "
            f"{data.shape[0]} pieces, {data.shape[1]} of them in the longest sentence")
    lines = ['name = "text"', f"root = {json.dumps(str(root))}", *([f'task = "{task}"'] if task != "sentences" else []),
             *(['test = "val"                  # its validation split; another is cut from train'] if only_val else []),
             f"batch_size = {batch}"]
    arch = "sentence_encoder" if task == "sentences" else "word_encoder"
    students = {name: Architecture(arch, options=options) for name, options in STUDENTS.items()}
    return Start("\n".join([told, *(f"  {note}" for note in data.notes)]), f"{len(data.classes)} {kind} of "
                 f"{'sentences' if task == 'sentences' else 'words'}", "sentences", task, "\n".join(lines),
                 epochs_of(STEPS, batch, training, 10, 60), 0.002, Architecture(arch, options=TEACHER), students,
                 "adamw")


def _has(root: Path, split: str) -> bool:
    return split in find_text_files(root)
