"""A plugin that imports what has moved, or is not there at all, is told what to write."""

from importlib import import_module
from importlib.util import find_spec

import pytest

from tutelage.errors import UsageError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.moved import MOVED, import_plugin

TABLE = {"tutelage.records_of_old": "tutelage.rooms.records", "tutelage.rooms_of_old": "tutelage.rooms"}


@pytest.mark.parametrize("old", MOVED)
def test_what_has_moved_is_where_the_table_says(old):
    module, _, name = MOVED[old].rpartition(".")
    assert name in vars(import_module(module)) or find_spec(MOVED[old]) is not None


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """The error of a plugin with these lines."""
    def failing_(source: str, name: str) -> UsageError:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(UsageError, match=f"cannot import the plugin '{name}'") as caught:
            import_plugin(name, f"{name}:net", TABLE)
        return caught.value
    return failing_


@pytest.mark.parametrize(("source", "fix"), [
    ("import tutelage.records_of_old", "tutelage.records_of_old is now tutelage.rooms.records: mend the import"),
    ("from tutelage.records_of_old import read", "tutelage.records_of_old is now tutelage.rooms.records: mend the "
                                                 "import"),
    ("from tutelage import records_of_old", "tutelage.records_of_old is now tutelage.rooms.records: mend the import"),
    ("import tutelage.rooms_of_old.door", "tutelage.rooms_of_old is now tutelage.rooms: mend the import"),
    ("import tutelage.rooms_of_old_times", "mend the import: this version of tutelage has no such name"),
    ("from tutelage.errors import Mistake", "mend the import: this version of tutelage has no such name"),
    ("import records_of_old", "install it, or add its folder to PYTHONPATH"),
    ("from json import records_of_old", "install it, or add its folder to PYTHONPATH"),
])
def test_a_plugin_that_imports_what_has_moved_is_told_the_new_name(failing, source, fix, request):
    error = failing(source, f"lab_{abs(hash(request.node.name))}")
    assert error.fix == fix
    assert error.found


def test_a_module_that_is_not_there_is_to_be_installed():
    with pytest.raises(UsageError) as caught:
        import_plugin("lab_missing", "lab_missing:net", TABLE)
    assert caught.value.fix == "install it, or add its folder to PYTHONPATH"


def test_the_networks_of_a_plugin_are_looked_for_with_the_table(tmp_path, monkeypatch):
    old = next(iter(MOVED))
    (tmp_path / "lab_of_old.py").write_text(f"raise ModuleNotFoundError('No module named {old}', name={old!r})")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as caught:
        build(Architecture("lab_of_old:net"), class_names=["a", "b"], plugins=["lab_of_old"])
    assert caught.value.fix == f"{old} is now {MOVED[old]}: mend the import"
