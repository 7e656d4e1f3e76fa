"""`tutelage init` and `check-data` for a file of interactions."""

from pathlib import Path

import pytest

from tutelage.data.check_interactions import InteractionReport
from tutelage.errors import DataError, UserError
from tutelage.recipes.folder_check import check_any_folder, task_of_folder
from tutelage.recipes.init import write_recipes
from tutelage.recipes.recipe import read_recipe
from tutelage.tasks.named import data_for


def table(path: Path, head: str = "user,item,time", more: str = "", users: int = 40) -> Path:
    """Users with 12 of 30 items each."""
    rows = [f"u{user},i{7 * (user + place) % 30},{1 + place}" for user in range(users) for place in range(12)]
    path.write_text("\n".join([head, *rows]) + "\n" + more)
    return path


def written(given: Path, to: Path, **more: object):
    said = write_recipes(given, None, (), to, reachable=lambda: False, **more)
    return read_recipe(to / "teacher.toml"), read_recipe(to / "students.toml"), said


def test_a_table_with_users_and_items_is_known_by_its_columns(tmp_path: Path) -> None:
    teacher, students, said = written(table(tmp_path / "taken.csv"), tmp_path)

    assert teacher.data == students.data
    assert "40 users and 30 items after a core of 10" in said
    assert data_for(students.data).shape == (40, 30)
    assert {name: arch.arch for name, arch in students.models.items()} == {
        "teacher": "mf", "narrow": "mf", "spread": "lightgcn"}
    assert students.train.weight_decay == 0.1


def test_columns_of_other_names_are_found_where_the_task_is_told(tmp_path: Path) -> None:
    given = table(tmp_path / "taken.csv", "Customer_ID,StockCode,InvoiceDate")

    _, recipe, _ = written(given, tmp_path, told="recommendation")

    assert recipe.data.columns == {"user": "Customer_ID", "item": "StockCode", "time": "InvoiceDate"}
    assert task_of_folder(given) != "recommendation"


def test_pairs_that_come_again_are_merged_and_told_by_init_and_an_error_of_check_data(tmp_path: Path) -> None:
    given = table(tmp_path / "taken.csv", more="u0,i0,99\nu1,i7,99\n")

    _, recipe, said = written(given, tmp_path)
    report = check_any_folder(given)

    assert recipe.data.doubled == "merge"
    assert "2 rows name a user and an item that an earlier row has" in said
    assert isinstance(report, InteractionReport)
    assert [finding.what for finding in report.errors] == ["the same user and item more than once"]
    assert "row 481" in report.errors[0].example
    assert report.counts == {"train": 40, "validation": 40, "test": 40}  # what a run would keep of them


def test_a_small_core_is_taken_where_a_large_one_would_leave_little(tmp_path: Path) -> None:
    given = tmp_path / "taken.csv"
    given.write_text("user,item\n" + "".join(f"u{user},i{(user + place) % 9}\n" for user in range(9)
                                             for place in range(6)))
    _, recipe, _ = written(given, tmp_path)

    assert recipe.data.core == 5


def test_a_report_says_what_is_kept(tmp_path: Path) -> None:
    report = check_any_folder(table(tmp_path / "taken.csv"))

    text = str(report)
    assert "480 interactions of 40 users with 30 items in the file" in text
    assert "groups of" in text
    assert "nothing wrong was found" in text
    assert '"errors": []' in report.as_json()


@pytest.mark.parametrize(("more", "what", "row"), [("u0,i1,yesterday\n", "time that cannot be read", "row 481"),
                                                   ("u0\n", "another length", "row 481")])
def test_what_cannot_be_read_is_told_with_its_row(tmp_path: Path, more: str, what: str, row: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        check_any_folder(table(tmp_path / "taken.csv", more=more))
    assert row in str(caught.value.where)


def test_a_recipe_s_interactions_are_checked_as_it_cuts_them(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[data]\nname = "interactions"\nroot = "{table(tmp_path / "taken.csv", more="u0,i1,soon")}"\n'
                      'groups = 50\n[models.a]\narch = "mf"\n[method]\nname = "scratch"\nstudent = "a"\n')

    report = check_any_folder(recipe)

    assert [finding.what for finding in report.errors] == ["a time that cannot be read"]
    assert "row 481" in report.errors[0].example


def test_networks_of_other_tasks_are_refused(tmp_path: Path) -> None:
    given = table(tmp_path / "taken.csv")
    with pytest.raises(UserError, match="not a network for recommendation"):
        write_recipes(given, "timm:resnet18", (), tmp_path / "to", reachable=lambda: False)
    assert not (tmp_path / "to").exists()
