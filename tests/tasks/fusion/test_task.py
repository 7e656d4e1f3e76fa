"""The task fusion: edges, judge, methods that are for it, whole runs, and a step beside a loop by hand."""

import copy
import io
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from every import every
from tutelage.data.balance import rows_of_epoch
from tutelage.data.settings import DataSettings
from tutelage.engine.settings import Settings
from tutelage.engine.train import train, train_in_folder
from tutelage.errors import DataError, Interrupted, UsageError
from tutelage.graph.fused_images import l1, ssim_loss
from tutelage.graph.objective import forward, losses
from tutelage.graph.schedules import constant
from tutelage.methods.distill import distill
from tutelage.methods.dual_student import dual_student
from tutelage.methods.image_kd import image_kd
from tutelage.methods.mutual import mutual
from tutelage.methods.peer_cohort import peer_cohort
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.recipes.methods import method_names
from tutelage.system.distributed import World
from tutelage.tasks.classification.task import CLASSIFICATION
from tutelage.tasks.fusion.judge import judge_of_epochs, judge_of_fusion
from tutelage.tasks.fusion.strips import draw_strips
from tutelage.tasks.fusion.task import FUSION
from tutelage.tasks.named import TASKS, data_for

SGD = partial(torch.optim.SGD, lr=0.2, momentum=0.9)


def network(name: str, width: int = 3, depth: int = 1):
    return build(Architecture("fusion_dense", options={"width": width, "depth": depth}), class_names=["fused"],
                 channels=2, name=name)


@pytest.fixture(scope="module")
def data():
    return data_for(DataSettings("pairs", crop=24, batch_size=8, limit=24))


def test_methods_for_images_are_offered_and_those_for_choices_are_not():
    assert TASKS["fusion"] is FUSION
    names = set(method_names(FUSION))
    assert {"scratch", "distill", "image_kd", "mutual", "dual_student", "peer_cohort"} <= names
    assert not names & {"abkd", "pld", "akd", "dckd", "unkd", "channel_wise", "class_aware"}
    assert "image_kd" not in method_names(CLASSIFICATION)


@pytest.mark.parametrize("graph", [
    distill("t", "a", task=FUSION), mutual(["a", "b"], task=FUSION), peer_cohort("t", ["a", "b"], task=FUSION),
    dual_student("t", ["a", "b"], task=FUSION)], ids=["distill", "mutual", "peer_cohort", "dual_student"])
def test_other_methods_learn_from_sources_and_from_images(graph, data):
    (batch,) = data.train.batches([torch.arange(3)], draw=0)
    nodes = {node: network(node) for node in ("t", "a", "b") if node in graph.nodes}
    ends = [end for edge in graph.edges for end in edge.ends if not end.startswith("labels")]
    outputs = forward(graph, nodes, batch.inputs, ends)
    found = losses(graph, outputs, batch.labels, graph.weights(0.5))
    assert every(bool(loss.isfinite()) for loss in found.values())
    assert every(edge.temperature == 1 for edge in graph.edges)


def test_a_certainty_is_refused_where_nothing_is_a_choice():
    with pytest.raises(UsageError):
        dual_student("t", ["a", "b"], uncertainty=True, task=FUSION)


def sobel(images: torch.Tensor) -> torch.Tensor:
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return sum(F.conv2d(images, k[None, None], padding=1).abs() for k in (kernel, kernel.T))


def test_training_is_a_loop_by_hand(data):
    graph = image_kd("t", "s", brightest=0.3, sharpest=0.2, task=FUSION)
    teacher, student = network("t", 4, 2), network("s")
    by_hand = copy.deepcopy(student)
    optimizer = SGD(by_hand.parameters())
    list(train(graph, {"t": teacher, "s": student}, data, epochs=2, optimizer=SGD, rate=constant, batch_size=8,
               precision="exact", seed=3, device="cpu"))
    for epoch in range(2):
        order = rows_of_epoch(data.train.labels, "none", 3, epoch)
        for batch in data.train.batches(order.split(8), draw=epoch):
            images, infrared, visible = by_hand(batch.inputs), batch.inputs[:, :1], batch.inputs[:, 1:]
            wanted = teacher(batch.inputs).detach()
            loss = ((images - wanted).abs().mean() + 0.5 * ssim_loss(images, wanted).mean()
                    + 0.3 * (images - torch.maximum(infrared, visible)).abs().mean()
                    + 0.2 * (sobel(images) - torch.maximum(sobel(infrared), sobel(visible))).abs().mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for own, other in zip(student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)


def test_a_run_that_was_stopped_within_an_epoch_ends_with_the_bits_of_one_that_was_not(data, tmp_path):
    settings = Settings(2, {"": SGD}, batch_size=8, precision="exact", seed=3, checkpoint_steps=1)

    def run(folder: str, interrupted=lambda: 0) -> dict[str, torch.Tensor]:
        nodes = {"t": network("t", 4, 2), "s": network("s")}
        list(train_in_folder(tmp_path / folder, image_kd("t", "s", task=FUSION), nodes, data, settings,
                             World(torch.device("cpu")), config="# a test", tensorboard=False,
                             interrupted=interrupted))
        return nodes["s"].state_dict()

    asked = iter([0, 0, 0, 0, 15])
    with pytest.raises(Interrupted):
        run("stopped", lambda: next(asked, 15))
    whole, resumed = run("whole"), run("stopped")
    assert every(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_student_that_is_its_teacher_learns_nothing(data):
    (batch,) = data.train.batches([torch.arange(3)], draw=0)
    teacher, graph = network("t"), image_kd("t", "s", task=FUSION)
    outputs = forward(graph, {"t": teacher, "s": teacher}, batch.inputs, ["t", "s"])
    assert [edge.divergence for edge in graph.edges] == [l1, ssim_loss]
    assert sum(losses(graph, outputs, batch.labels).values()).item() == pytest.approx(0, abs=1e-6)


def test_fused_files_teach_like_a_network_that_gives_them():
    given = data_for(DataSettings("pairs", crop=24, limit=16, fused="means"))
    (batch,) = given.train.batches([torch.arange(4)], draw=1)
    graph = image_kd("t", "s", task=FUSION)
    files = build(Architecture("fused_files"), class_names=["fused"], channels=2)
    outputs = forward(graph, {"t": files, "s": network("s")}, batch.inputs, ["t", "s"])
    means = batch.labels["sources"].mean(1, keepdim=True)
    assert (outputs["t"] - means).abs().max() <= 0.51 / 255
    found = losses(graph, outputs, batch.labels)
    assert next(iter(found.values())).item() == pytest.approx((outputs["s"] - outputs["t"]).abs().mean().item())


def test_the_judge_tells_day_and_night_apart_and_how_near_a_teacher_is(data):
    (batch,) = data.test.batches([torch.arange(16)], draw=None)
    judge = judge_of_fusion(data)
    pytest.importorskip("torchmetrics")
    means, darker = (factor * batch.labels["sources"].mean(1, keepdim=True) for factor in (1, 0.9))
    own, other = (judge.measure({"": images}, batch.labels, batch.ids) for images in (means, darker))
    found = judge.summary(own)
    night = batch.labels["group"] == 1
    assert found["by_set"]["names"] == ["day", "night"]
    assert found["by_set"]["count"] == [8, 8]
    assert found["by_set"]["qabf"][1] == pytest.approx(own["qabf"][night].double().mean().item())
    assert found["vif"] == pytest.approx(own["vif"].double().mean().item())
    near = judge.to_teacher(other, own)
    assert 15 < near["teacher_psnr"] < 40
    assert judge.agreement(own, own) == pytest.approx(1)
    assert near["teacher_ssim"] == pytest.approx(judge.agreement(own, other))
    assert judge.measure({"": means[:, :, :8]}, batch.labels, batch.ids) is None
    light = judge_of_epochs(data)
    assert "image" not in light.measure({"": means}, batch.labels, batch.ids)
    assert light.summary(light.measure({"": means}, batch.labels, batch.ids))["qabf"] == found["qabf"]


def test_pictures_are_of_both_sources_and_of_each_network(data):
    (batch,) = data.test.batches([torch.arange(2)], draw=None)
    strips = draw_strips(batch.labels, {"teacher": batch.inputs[:, :1], "student": batch.inputs[:, 1:]})
    assert [list(strip) for strip in strips] == [["infrared", "visible", "teacher", "student"]] * 2
    for strip in strips:
        assert strip["infrared"] == strip["teacher"]
        assert strip["visible"] == strip["student"]
        shown = np.asarray(Image.open(io.BytesIO(strip["visible"])))
        assert shown.shape == (128, 128)
    levels = (batch.inputs[1, 1] * 255).round().byte().numpy()
    assert np.array_equal(shown[::2, ::2], levels)


def test_data_without_sources_are_refused(data):
    FUSION.check(data)
    with pytest.raises(DataError, match="no sources"):
        FUSION.check(data_for(DataSettings("waves"), quick=True))
