"""The table of published systems names recipes and pages that are there."""

import re
from pathlib import Path

from tutelage.recipes.names import find_recipe

DOCS = Path(__file__).parents[1] / "docs"
ROWS = [line.strip("|").split("|") for line in (DOCS / "systems.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")][1:]


def test_there_are_twenty_five():
    assert len(ROWS) == 25
    assert len({row[0] for row in ROWS}) == 25


def test_each_names_recipes_that_are_found_or_a_command_and_a_page_that_is_there():
    for system, recipes, page, verified, missing in ROWS:
        names = re.findall(r"`([^`]+)`", recipes)
        assert names, system
        for name in names:
            assert name == "tutelage search" or find_recipe(name).is_file(), name
        (target,) = re.findall(r"\]\(([^)]+)\)", page)
        assert (DOCS / target).is_file(), target
        assert verified.strip()
        assert missing.strip()
