"""The layers of the package, its budgets, and what must never stand in it: read from the source, without running it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tutelage
from every import every

ROOT = Path(tutelage.__file__).parent
MODULES = {".".join(("tutelage", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
           for path in sorted(ROOT.rglob("*.py"))}
each_module = pytest.mark.parametrize("module", MODULES)

LAZY = ("tutelage", "tutelage.data")
"""Front pages: they name what lies below them, and import it when it is first asked for."""
LAYERS = [  # each imports from those before it; packages of one layer do not import each other
    {"errors", "types"},
    {"system"},
    {"graph", "data", "runs"},
    {"models"},
    {"tasks"},
    {"methods", "engine"},
    {"recipes"},
    {"exporting", "studies", "analysis", "bench"},
    {"reporting"},
    {"cli"},
    {"__main__"},
]
LAYER = {package: number for number, packages in enumerate(LAYERS) for package in packages}


def package(module: str) -> str:
    """The package, or the module directly under tutelage, that a module belongs to."""
    return module.split(".")[1]


def modules_imported(path: Path) -> list[str]:
    """Every name that an import statement of the file could mean, `from a import b` as a and as a.b.

    Imports inside functions and those for the type checker alone count like all others.
    """
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


IMPORTS = {module: {name for name in modules_imported(path) if name in MODULES and name != "tutelage"}
           for module, path in MODULES.items() if module not in LAZY}


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("page", LAZY)
def test_a_front_page_imports_for_the_type_checker_alone(page):
    page = ast.parse(MODULES[page].read_text())
    at_once = [node for node in page.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in at_once} == {"importlib", "typing"}


def test_every_package_has_a_layer_and_every_layer_its_packages():
    assert {package(module) for module in IMPORTS} == set(LAYER)


@pytest.mark.parametrize("module", IMPORTS)
def test_imports_only_go_down(module):
    own = package(module)
    up = {name for name in IMPORTS[module] if package(name) != own and LAYER[package(name)] >= LAYER[own]}
    assert not up, f"{module} reaches up or aside to {sorted(up)}"


def circle_in(imports: Mapping[str, Iterable[str]]) -> list[str] | None:
    """A circle of modules that import each other, if there is one, whichever way they do it."""
    waits_for = {module: set(names) for module, names in imports.items()}
    for module, names in imports.items():
        for name in names:  # to import a.b.c, Python first runs a.b (the package itself imports nothing)
            folders = {name.rsplit(".", k)[0] for k in range(1, name.count("."))}
            waits_for[module] |= {folder for folder in folders
                                  if not module.startswith(f"{folder}.") and folder != module}
    try:
        TopologicalSorter(waits_for).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_modules_import_each_other_in_a_circle_even_through_a_package():
    circle = circle_in(IMPORTS)
    assert circle is None, f"a circle of imports: {' -> '.join(circle)}"


def test_a_circle_is_found_also_through_a_package():
    assert circle_in({"t.a.x": {"t.b.y"}, "t.b.y": set(), "t.b": {"t.a.x"}}) is not None
    assert circle_in({"t.a.x": {"t.b.y"}, "t.b.y": set(), "t.b": set()}) is None


@each_module
def test_a_module_has_at_most_400_lines_and_its_functions_60(module):
    path = MODULES[module]
    assert len(path.read_text().splitlines()) <= 400
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno - f.lineno >= 60}
    assert not long


def test_the_heart_has_at_most_80_lines():
    assert len(MODULES["tutelage.graph.objective"].read_text().splitlines()) <= 80


def test_a_methods_function_has_at_most_45_lines():
    lengths = {(module, f.name): f.end_lineno - f.lineno + 1 for module, path in MODULES.items()
               if module.startswith("tutelage.methods.") for f in functions(path)}
    assert every(length <= 45 for length in lengths.values())


BY_IDENTITY = re.compile(r"\bis (?:not )?"
                         r"(?:kl|reverse_kl|js|cross_entropy|entropy|confidence|margin|correct|mean_one)\b")


@each_module
def test_functions_are_compared_by_identity_only_where_they_are_defined(module):
    own = package(f"{module}.")
    assert own == "graph" or not BY_IDENTITY.findall(MODULES[module].read_text())


def test_a_comparison_by_identity_is_found():
    assert BY_IDENTITY.search("if edge.divergence is kl:")
    assert not BY_IDENTITY.search("what it is klassisch")


ALSO_ELSEWHERE = {  # name -> why it stands in more than one module
    "LookAhead": "the text of a graph names its controllers, and the text tells runs made before from others",
    "losses": "the fused losses take the place of the plain ones",
    "main": "the entry of the command, and that of the process in which an export is tried",
}
COMMANDS = {"tutelage.cli.commands", "tutelage.cli.analyse"}
"""A command is named after what it does."""


def public_names() -> dict[str, set[str]]:
    """Name of a public function or class -> the modules that define it, those of the command line left out."""
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, set()).add(module)
    return {name: modules - COMMANDS for name, modules in found.items()}


def test_no_public_function_or_class_stands_in_two_modules():
    several = {name: modules for name, modules in public_names().items() if len(modules) > 1}
    assert {name: modules for name, modules in several.items() if name not in ALSO_ELSEWHERE} == {}
    assert set(several) == set(ALSO_ELSEWHERE), "an exception that is none any more"


METHODS = {path.stem for module, path in MODULES.items() if module.startswith("tutelage.methods.")} - {"__init__"}


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(("tutelage.engine",
                                                                                       "tutelage.recipes"))])
def test_the_engine_and_the_recipes_know_no_method_by_its_name(module):
    """But for `init`, which writes recipes."""
    words = {node.value for node in ast.walk(ast.parse(MODULES[module].read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not words & METHODS
    assert not {name for name in IMPORTS.get(module, ()) if name.startswith("tutelage.methods.")}


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


@each_module
def test_trap_33_nothing_here_can_run_what_a_file_says(module):
    assert not unsafe(MODULES[module].read_text())


@pytest.mark.parametrize("source", ["import pickle", "from yaml import safe_load", "import torch\ntorch.load(p)",
                                    "from torch import load\nload(p)", "eval('1')", "np.load(p)",
                                    "np.load(p, allow_pickle=True)"])
def test_the_search_for_what_is_unsafe_finds_it(source):
    assert unsafe(source)


def test_the_search_for_what_is_unsafe_lets_networks_evaluate_and_safetensors_load():
    assert not unsafe("import safetensors.torch\nnetwork.eval()\nsafetensors.torch.load(data)\nre.compile('x')")


HEART = "import sys; heavy = {'torchvision', 'timm', 'PIL'} & set(sys.modules); assert not heavy, heavy"


@pytest.mark.parametrize("module", ["graph.objective", "graph.fused_losses", "graph.graph", "graph.taps"])
def test_the_heart_loads_no_library_of_networks_or_images(module):
    code = f"import tutelage.{module}\n{HEART}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LIGHT = "import sys; heavy = {'torch', 'torchvision', 'timm', 'pydantic'} & set(sys.modules); assert not heavy, heavy"


@pytest.mark.parametrize("code", [
    "import tutelage; tutelage.__version__; dir(tutelage)",
    "import sys; sys.argv = ['tutelage', '--help']\nfrom tutelage.cli.main import main\ntry: main()\n"
    "except SystemExit as stop: assert not stop.code, stop.code",
], ids=["import", "--help"])
def test_neither_import_nor_help_waits_for_torch(code):
    done = subprocess.run([sys.executable, "-c", f"{code}\n{LIGHT}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
