"""Recipes by name on the command line: `tutelage recipes`, and the file that a command's word means."""

import json
from pathlib import Path

from tutelage.cli.terminal import note, say
from tutelage.recipes.names import find_recipe, first_line, recipe_names
from tutelage.system.text import table


def file_of(word: Path, *, folders: bool = False) -> Path:
    """The file that RECIPE means: one that is there, else the built-in recipe of that name, which is told.

    `folders`: a folder that is there may be meant too, as a run.
    """
    if word.is_file() or (folders and word.is_dir()):
        return word
    file = find_recipe(word.as_posix())
    note(f"{word} is {file}")
    return file


def list_recipes(as_json: bool) -> None:
    """Print GROUP/NAME of each built-in recipe and study with the first line of its file."""
    lines = {name: first_line(file) for name, file in recipe_names().items()}
    say(json.dumps(lines) if as_json else table([[name, line] for name, line in lines.items()]))
