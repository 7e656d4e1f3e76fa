"""What `tutelage init` writes for a folder of registered infrared and visible images."""

import json
from pathlib import Path

from tutelage.data.folder import require_sound
from tutelage.data.pair_folder import list_pairs
from tutelage.data.pairs import colour_notes, cuts_of, pair_splits, sizes_of_pairs
from tutelage.data.settings import DataSettings
from tutelage.models.architecture import Architecture
from tutelage.recipes.starts import Start, batch_that_fits, epochs_of

STEPS = 1500
TEACHER = Architecture("fusion_dense", options={"width": 16, "depth": 4})
STUDENTS = {"student": Architecture("fusion_dense", options={"width": 6, "depth": 2})}
METHOD = 'name = "image_kd"\nteacher = "teacher"\nstudent = {student}\n'


def start_of_pairs(root: Path) -> Start:
    """Look at every pair of a folder; whatever would stop a run is an error."""
    pairs = list_pairs(root)
    require_sound(pairs.listing)
    settings = DataSettings("folder", task="fusion", root=str(root))
    sizes, problems = sizes_of_pairs(pairs, settings)
    if problems:
        raise problems[0]
    known = [size for size in sizes if size is not None]
    how, note = cuts_of(settings, known, 0)
    training = len(pair_splits(settings, pairs)["train"].ids)
    batch = batch_that_fits(training, (16, 8, 4), 10)
    sets = [name for name in pairs.listing.classes if name]
    told = f"{root}: {len(known)} pairs, {training} of them for training"
    told += f", sets: {', '.join(sets)}" if sets else ""
    notes = [*pairs.listing.notes, *([note] if note else []), *colour_notes(pairs, settings)]
    crop = how.crop or how.whole
    lines = ['name = "folder"', 'task = "fusion"', f"root = {json.dumps(str(root.resolve()))}", f"batch_size = {batch}",
             f"crop = {crop[0] if crop[0] == crop[1] else list(crop)}"]
    return Start("\n".join([told, *(f"  {one}" for one in notes)]), "fused images", "pairs", "fusion",
                 "\n".join(lines), epochs_of(STEPS, batch, training, 20, 100), 0.003, TEACHER, STUDENTS, "adamw")
