"""The examples and the README's Python run as they are printed."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAYS = {
    "01_distill": "test: student",
    "02_peers": "the students agree on",
    "03_own_weight": "validation: student",
    "04_own_loop": "the teacher has no gradient: True",
    "05_own_task": "b->a:distance[Points]",
}
README = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)


def test_every_example_is_tried() -> None:
    assert sorted(path.stem for path in (ROOT / "examples").glob("[0-9]*.py")) == sorted(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert SAYS[name] in capsys.readouterr().out


def test_the_readme_has_python() -> None:
    assert README


@pytest.mark.slow
@pytest.mark.parametrize("block", README)
def test_readme(block: str) -> None:
    names = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec"), names)
    accuracy = names["epoch"].accuracy
    assert accuracy.keys() == names["models"].keys()
    assert max(accuracy.values()) > 0.5, "ten classes, and something was learned"


def test_the_guide_to_a_task_of_ones_own_shows_the_example_whole_and_in_sixty_lines() -> None:
    guide = (ROOT / "docs/own_task.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```python\n(.*?)^```", guide, re.S | re.M)
    code = (ROOT / "examples/05_own_task.py").read_text(encoding="utf-8")
    assert shown == code
    assert len(code.splitlines()) <= 60
