"""A study whose students start from what its teachers of another task have learned."""

from pathlib import Path

import pytest

from tutelage.errors import UsageError
from tutelage.recipes.names import built_in_recipes
from tutelage.studies.compare import task_of_cells
from tutelage.studies.study import Asked, cells_of, read_study

STUDY = built_in_recipes() / "sentences" / "study.toml"


def test_each_arm_starts_from_its_own_transfer_set_after_the_same_steps(tmp_path: Path):
    study = read_study([STUDY])
    cells = {(cell.method, cell.seed): cell for cell in cells_of(study, Asked(2), tmp_path)}
    for method, teacher in (("generic", "on_generic"), ("both", "on_both"), ("task", "on_task")):
        cell = cells[method, 1]
        run = (tmp_path / "runs" / teacher / "seed-1")
        assert cell.recipe.models["student"].weights == str(run.resolve() / "models" / "student.safetensors")
        assert run in cell.needs
    assert cells["scratch", 0].recipe.models["student"].weights is None
    distilled = [cells[name, 0].recipe for name in ("on_generic", "on_both", "on_task")]
    assert [one.data.mixture for one in distilled] == [{"generic": 1.0}, {"generic": 0.7, "task": 0.3}, {"task": 1.0}]
    assert len({(one.train.epochs, one.data.batch_size, one.data.root) for one in distilled}) == 1
    assert task_of_cells(list(cells.values()), study).name == "sentences"


@pytest.mark.parametrize(("line", "what"), [('starts = { student = "nobody" }', "unknown teacher"),
                                            ('starts = { pupil = "on_task" }', "unknown network")])
def test_a_start_that_is_not_there_is_refused(line: str, what: str, tmp_path: Path):
    text = STUDY.read_text().replace('starts = { student = "on_task" }', line)
    for name in ("pretrain", "distil", "chain", "scratch"):
        text = text.replace(f'"{name}.toml"', f'"{STUDY.parent / name}.toml"')
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(UsageError, match=what):
        cells_of(read_study([tmp_path / "study.toml"]), Asked(1), tmp_path / "out")
