"""What holds of every test: it asserts nothing of no things at all.

Read from the source of the tests, without running it.
"""

import ast
from pathlib import Path

import pytest

from every import every

ROOT = Path(__file__).parent
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
         for path in sorted(ROOT.rglob("*.py"))}
LEFT_OUT = {"test_architecture.py"}  # it waits for its rewriting, and then this goes


def vacuous(tree: ast.AST) -> list[str]:
    """What says nothing where there is nothing to look at: `all`, and `any` in an assertion that it may be false."""
    found = [node for node in ast.walk(tree) if calls(node, "all")]
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assert) and not calls(statement.test, "any"):
            found += [node for node in ast.walk(statement.test) if calls(node, "any")]
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in found]


def calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


each_page = pytest.mark.parametrize("page", [page for page in TREES if page not in LEFT_OUT])


@each_page
def test_nothing_is_asserted_of_no_things(page):
    assert page == "every.py" or vacuous(TREES[page]) == [], "`every` of tests/every.py looks at one thing at least"


def test_the_tests_are_found():
    assert {"test_tests.py", "data/test_own.py", "models/test_cifar.py"} <= set(TREES)


@pytest.mark.parametrize("source", [
    "assert all(x for x in found)", "assert not any(x for x in found)", "assert any(found) == wanted",
    "def same(one, other):\n    return one.keys() == other.keys() and all(one[k] == other[k] for k in one)"])
def test_what_is_said_of_no_things_is_found(source):
    assert len(vacuous(ast.parse(source))) == 1


@pytest.mark.parametrize("source", [
    "assert every(x for x in found)", "assert any(x for x in found)", "assert (found >= 0).all()",
    "left = [x for x in found if any(x)]"])
def test_what_looks_at_one_thing_at_least_is_let_be(source):
    assert vacuous(ast.parse(source)) == []


def test_every_is_all_of_at_least_one():
    assert every([1, True])
    assert not every([1, False])
    with pytest.raises(AssertionError, match="nothing was looked at"):
        every([])
