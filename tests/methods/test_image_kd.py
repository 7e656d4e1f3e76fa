"""image_kd: its edges and weights, what it refuses, and a teacher that nobody listens to."""

import pytest

from tutelage.errors import UsageError
from tutelage.graph.fused_images import brightest, l1, sharpest, ssim_loss
from tutelage.graph.nodes import Frozen, Trained
from tutelage.methods.image_kd import image_kd
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.fusion.rows import fused
from tutelage.tasks.fusion.task import FUSION


def test_the_student_hears_the_teacher_and_if_asked_the_sources():
    plain = image_kd("t", "s", task=FUSION)
    assert plain.nodes == {"t": Frozen(), "s": Trained()}
    assert [(e.teacher, e.student, e.divergence, e.weight, e.rows) for e in plain.edges] == [
        ("t", "s", l1, 1.0, fused), ("t", "s", ssim_loss, 0.5, fused)]
    both = image_kd("t", "s", image=2, ssim=0, brightest=1, sharpest=10, task=FUSION)
    assert [(e.teacher, e.divergence, e.weight) for e in both.edges] == [
        ("t", l1, 2), ("labels.sources", brightest, 1), ("labels.sources", sharpest, 10)]


def test_a_teacher_may_stand_by():
    graph = image_kd("t", "s", image=0, ssim=0, brightest=1, task=FUSION)
    assert "t" in graph.nodes
    assert {edge.teacher for edge in graph.edges} == {"labels.sources"}


@pytest.mark.parametrize(("options", "words"), [
    ({"student": "t"}, "its own teacher"), ({"ssim": -1}, "a weight that cannot be"),
    ({"image": 0, "ssim": 0}, "nothing is learned"), ({"task": CLASSIFICATION}, "networks that give images")])
def test_what_cannot_be_meant_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        image_kd(**{"teacher": "t", "student": "s", "task": FUSION, **options})
