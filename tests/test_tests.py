"""What holds of every test: it asserts something whichever way it runs, and nothing of no things at all.

Read from the source of the tests, without running it.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from every import every

ROOT = Path(__file__).parent
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
         for path in sorted(ROOT.rglob("*.py"))}
REJECTING = {"pytest.raises", "pytest.warns", "pytest.fail", "pytest.skip"}


def vacuous(tree: ast.AST) -> list[str]:
    """What says nothing where there is nothing to look at: `all`, and `any` in an assertion that it may be false."""
    found = [node for node in ast.walk(tree) if calls(node, "all")]
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assert) and not calls(statement.test, "any"):
            found += [node for node in ast.walk(statement.test) if calls(node, "any")]
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in found]


def calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


def always_asserts(body: Iterable[ast.stmt], helpers: set[str]) -> bool:
    """Whether an assertion stands on every way through the statements. A loop counts as if it were entered."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(statement, ast.If):
            if always_asserts(statement.body, helpers) and always_asserts(statement.orelse, helpers):
                return True
            if any(isinstance(node, ast.Return) for node in ast.walk(statement)):
                return False
        elif isinstance(statement, ast.Try):
            if always_asserts([*statement.body, *statement.orelse, *statement.finalbody], helpers):
                return True
        elif isinstance(statement, ast.For | ast.While | ast.With):
            heads = [item.context_expr for item in getattr(statement, "items", [])]
            if any(rejects(head, helpers) for head in heads) or always_asserts(statement.body, helpers):
                return True
        elif isinstance(statement, ast.Assert) or rejects(statement, helpers):
            return True
    return False


def rejects(tree: ast.AST, helpers: set[str]) -> bool:
    """Whether something is called that fails by itself."""
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(name in REJECTING | helpers or name.rpartition(".")[2].startswith("assert_") for name in called)


def silent_tests(tree: ast.AST) -> list[str]:
    """The tests of a page that may end without an assertion; what they call of the page's functions may have it."""
    functions = {node.name: node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    helpers: set[str] = set()
    while (found := {name for name, body in functions.items() if always_asserts(body, helpers)}) != helpers:
        helpers = found
    return [name for name in functions if name.startswith("test_") and name not in helpers]


each_page = pytest.mark.parametrize("page", TREES)


@each_page
def test_nothing_is_asserted_of_no_things(page):
    assert page == "every.py" or vacuous(TREES[page]) == [], "`every` of tests/every.py looks at one thing at least"


@each_page
def test_every_test_asserts_something_whichever_way_it_runs(page):
    assert silent_tests(TREES[page]) == []


def test_the_tests_are_found():
    assert {"test_tests.py", "data/test_from_python.py", "models/test_cifar.py"} <= set(TREES)


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


@pytest.mark.parametrize("body", [
    "train(run)", "every(found)", "if fast:\n    assert run", "if fast:\n    return\nassert run",
    "for node in run:\n    if fast:\n        assert node", "def spy():\n    assert run\ntrain(spy)",
    "raised = AssertionError(run)", "with open(path):\n    train(run)"])
def test_a_body_that_may_assert_nothing_is_found(body):
    assert not always_asserts(ast.parse(body).body, {"refused"})


@pytest.mark.parametrize("body", [
    "assert run", "torch.testing.assert_close(one, other)", "error = refused(run).block()", "pytest.fail(why)",
    "with pytest.raises(ValueError):\n    train(run)", "with open(path):\n    assert run",
    "if fast:\n    assert run\nelse:\n    refused(run)", "if fast:\n    train(run)\nassert run",
    "for node in run:\n    assert node", "try:\n    train(run)\nfinally:\n    assert run"])
def test_a_body_that_asserts_is_known_by_it(body):
    assert always_asserts(ast.parse(body).body, {"refused"})


def test_a_test_may_leave_its_assertion_to_functions_of_its_page_but_must_call_them():
    tree = ast.parse("def check(x):\n    assert x\ndef twice(x):\n    check(x)\n    check(x)\n"
                     "def test_one():\n    twice(1)\ndef test_other():\n    train(1)\n")
    assert silent_tests(tree) == ["test_other"]


def test_every_is_all_of_at_least_one():
    assert every([1, True])
    assert not every([1, False])
    with pytest.raises(AssertionError, match="nothing was looked at"):
        every([])
