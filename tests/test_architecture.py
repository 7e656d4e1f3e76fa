"""The floors of the package, its budgets, and what must never stand in it: read from the source, without running it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tutelage

ROOT = Path(tutelage.__file__).parent
PAGES = {".".join(("tutelage", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
         for path in sorted(ROOT.rglob("*.py"))}
each_page = pytest.mark.parametrize("page", PAGES)

FLOORS = [
    {"types", "errors", "moved", "randomness"},
    {"divergences", "sample_weights", "schedules", "parts", "metrics", "world", "files", "records", "machine", "data",
     "models", "results", "calibration"},
    {"graph", "graph_data"},
    {"methods", "attacks", "objective", "closed_form", "kept_rows", "teacher_cache"},
    {"uncertainty", "assessment", "cost", "knowledge_quality", "diswot", "evolution", "complexity",
     "optim", "settings", "checkpoint", "evaluation", "preparation", "guard", "running", "recording", "caching",
     "numerics", "tuning", "loop", "training"},
    {"benchmarking", "floor", "naive", "exporting", "predicting", "comparison"},
    {"places", "words", "config", "sequence", "incremental", "jobs", "benching", "shipping", "starting", "studies",
     "tabulating", "agreeing", "working", "studying", "candidates", "searching", "supervision", "reporting", "terminal",
     "commands", "exploring", "usage", "cli", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WORDS = {"types", "errors"}
ONLY = {  # rooms that know less than their floor allows
    "types": set(), "errors": set(), "randomness": set(), "moved": {"errors"}, "places": set(),
    "divergences": WORDS, "sample_weights": WORDS, "schedules": WORDS, "parts": WORDS, "metrics": WORDS,
    "world": WORDS, "machine": WORDS, "files": WORDS, "records": {*WORDS, "files"},
    "results": {*WORDS, "files"}, "calibration": {*WORDS, "metrics"},
    "data": {*WORDS, "randomness", "files"}, "models": {*WORDS, "randomness", "files", "moved"},
    "predicting": {"errors", "data"}, "evolution": {"randomness"},
    "diswot": {*WORDS, "models"}, "complexity": {*WORDS, "models"},
}


def room(page: str) -> str:
    """The page or folder directly under the package that a module belongs to."""
    return page.split(".")[1]


def outside_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield other
                yield from outside_type_checking(other)
            continue
        yield node
        yield from outside_type_checking(node)


def modules_imported(path: Path) -> list[str]:
    """Every name that an import statement of the file could mean, `from a import b` as a and as a.b."""
    names = []
    for node in outside_type_checking(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


IMPORTS = {page: {name for name in modules_imported(path) if name in PAGES and name != "tutelage"}
           for page, path in PAGES.items()}


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_room_has_a_floor():
    assert {room(page) for page in PAGES if page != "tutelage"} <= set(FLOOR)


@each_page
def test_imports_only_go_down(page):
    if page == "tutelage":
        assert not IMPORTS[page], "the front page is lazy"
        return
    up = {name for name in IMPORTS[page] if FLOOR[room(name)] > FLOOR[room(page)]}
    assert not up, f"{page} reaches up to {sorted(up)}"


@each_page
def test_methods_and_objective_do_not_know_each_other_and_side_rooms_know_little(page):
    if page == "tutelage":
        return
    others = {room(name) for name in IMPORTS[page]} - {room(page)}
    assert others <= ONLY.get(room(page), set(FLOOR)), page
    if FLOOR[room(page)] <= FLOOR["training"]:  # above, the bench holds a method against the objective
        assert not {"methods", "objective"} <= others | {room(page)}, page


def test_nothing_imports_itself_in_a_circle_even_through_a_folder():
    waits_for = {page: set(names) for page, names in IMPORTS.items()}
    for page, names in IMPORTS.items():
        for name in names:  # to import a.b.c, Python first runs a.b (the package itself imports nothing)
            folders = {name.rsplit(".", k)[0] for k in range(1, name.count("."))}
            waits_for[page] |= {folder for folder in folders if not page.startswith(f"{folder}.") and folder != page}
    try:
        TopologicalSorter(waits_for).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@each_page
def test_a_page_has_at_most_400_lines_and_its_functions_60(page):
    path = PAGES[page]
    assert len(path.read_text().splitlines()) <= 400
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno - f.lineno >= 60}
    assert not long


def test_the_heart_has_at_most_80_lines():
    assert len(PAGES["tutelage.objective"].read_text().splitlines()) <= 80


def test_a_methods_function_has_at_most_45_lines():
    for page, path in PAGES.items():
        if page.startswith("tutelage.methods."):
            assert all(f.end_lineno - f.lineno < 45 for f in functions(path)), page


UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "torch.jit.load", "numpy.load",
                "np.load", "os.system", "torch.hub.load"}


def full_names(tree: ast.AST) -> dict[str, str]:
    """Name in this file -> what was imported under it."""
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) for alias in node.names}


def unsafe(source: str) -> set[str]:
    tree = ast.parse(source)
    known = full_names(tree)
    calls = (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)
             if not any(ast.unparse(keyword) == "allow_pickle=False" for keyword in node.keywords))
    called = {known.get(name, name) for name in calls}
    imported = {name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
                for name in [alias.name.split(".")[0]]}
    imported |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowing = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.keyword)
                and (node.arg, ast.unparse(node.value)) in {("allow_pickle", "True"), ("weights_only", "False"),
                                                            ("shell", "True")}}
    return (called & UNSAFE_CALLS) | (imported & UNSAFE_MODULES) | allowing


@each_page
def test_trap_33_nothing_here_can_run_what_a_file_says(page):
    assert not unsafe(PAGES[page].read_text())


@pytest.mark.parametrize("source", ["import pickle", "from yaml import safe_load", "import torch\ntorch.load(p)",
                                    "from torch import load\nload(p)", "eval('1')", "np.load(p)",
                                    "np.load(p, allow_pickle=True)"])
def test_the_search_for_what_is_unsafe_finds_it(source):
    assert unsafe(source)


def test_the_search_for_what_is_unsafe_lets_networks_evaluate_and_safetensors_load():
    assert not unsafe("import safetensors.torch\nnetwork.eval()\nsafetensors.torch.load(data)\nre.compile('x')")


LIGHT = "import sys; heavy = {'torch', 'torchvision', 'timm', 'pydantic'} & set(sys.modules); assert not heavy, heavy"


@pytest.mark.parametrize("code", [
    "import tutelage; tutelage.__version__; dir(tutelage)",
    "import sys; sys.argv = ['tutelage', '--help']\nfrom tutelage.cli import main\ntry: main()\n"
    "except SystemExit as stop: assert not stop.code, stop.code",
], ids=["import", "--help"])
def test_neither_import_nor_help_waits_for_torch(code):
    done = subprocess.run([sys.executable, "-c", f"{code}\n{LIGHT}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
