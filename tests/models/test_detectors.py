"""Detectors of other libraries: they say what torchvision says, and outputs are classes by their names."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import (
    FCOS,
    FasterRCNN,
    RetinaNet,
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.ops import FrozenBatchNorm2d, batched_nms, clip_boxes_to_image

from every import every
from tutelage.errors import ModelError, SecurityError, UsageError
from tutelage.models.architecture import Architecture
from tutelage.models.build import build
from tutelage.models.classifier import classifiers_of
from tutelage.models.dense_boxes import ABSENT, LEAD, boxes_of, grid_places, scores_of, unpack_places
from tutelage.models.detectors import detector_names, torchvision_detector, with_moving_norms
from tutelage.models.fcos import tiny_fcos
from tutelage.models.saved import load_network, metadata_of
from tutelage.models.weights import weights_of
from tutelage.system.files import pack

MAKERS = {"fcos_resnet50_fpn": fcos_resnet50_fpn, "retinanet_resnet50_fpn": retinanet_resnet50_fpn,
          "retinanet_resnet50_fpn_v2": retinanet_resnet50_fpn_v2}
NAMES = ["red", "white", "platelet"]
SMALL = "fcos:test_resnet"
"""A backbone of half a million weights."""


def talkative(network: Any) -> Any:
    """The same network with weights that make it see things of many sizes, here and there."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.head.named_parameters():
            if "cls_logits" in name or "bbox" in name:
                scale = 0.03 if parameter.dim() > 1 else 1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return network


def detections(packed: Tensor, size: tuple[int, int], threshold: float, overlap: float, most: int) -> dict[str, Tensor]:
    """What is left of one image's places by torchvision's rules."""
    parts = unpack_places(packed)
    boxes, scores = clip_boxes_to_image(boxes_of(parts.places, parts.distances), size), scores_of(parts)
    place, label = torch.nonzero(scores > threshold, as_tuple=True)
    kept = batched_nms(boxes[place], scores[place, label], label, overlap)[:most]
    return {"boxes": boxes[place[kept]], "scores": scores[place[kept], label[kept]], "labels": label[kept]}


@pytest.mark.parametrize(("name", "size"), [("fcos_resnet50_fpn", (50, 70)), ("retinanet_resnet50_fpn", (64, 96)),
                                            ("retinanet_resnet50_fpn_v2", (70, 50))])
def test_what_is_detected_is_what_torchvision_detects_and_places_are_its_anchors(monkeypatch, name, size):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))
    theirs = talkative(MAKERS[name](weights=None, weights_backbone=None, num_classes=3, min_size=min(size),
                                    max_size=max(size), score_thresh=0.05, topk_candidates=10**6)).eval().double()
    ours = build(Architecture(f"torchvision:{name}"), class_names=NAMES).eval().double()
    ours.body.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    asked: list[Tensor] = []
    theirs.anchor_generator.register_forward_hook(lambda module, inputs, output: asked.extend(output))
    with torch.no_grad():
        found, packed = theirs(list(images)), ours(images)
    assert packed.is_contiguous()
    for image, expected, anchors in zip(packed, found, asked, strict=True):
        assert len(expected["boxes"]) > 20
        told = detections(image, size, 0.05, theirs.nms_thresh, theirs.detections_per_img)
        assert told.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(told[key], value, rtol=1e-5, atol=1e-5)
        places = torch.cat([(anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]], 1)
        torch.testing.assert_close(unpack_places(image).places, places, rtol=0, atol=0)


def test_a_network_of_16_bits_has_the_same_places():
    anchors = torchvision.models.detection.anchor_utils.AnchorGenerator(((362,),), ((0.5, 1.0, 2.0),))
    head = torchvision.models.detection.retinanet.RetinaNetHead(32, 3, 2)
    network = torchvision_detector("retinanet_", RetinaNet(WithNorm(), 2, anchor_generator=anchors, head=head)).eval()
    images = torch.rand(1, 3, 32, 1024)
    with torch.no_grad():
        whole, half = network(images), deepcopy(network).to(torch.bfloat16)(images.to(torch.bfloat16))
    assert half.dtype == torch.float32
    assert torch.equal(unpack_places(whole).places, unpack_places(half).places)
    apart = boxes_of(*unpack_places(whole)[:2]) - boxes_of(*unpack_places(half)[:2])
    assert 0 < float(apart.abs().max()) < 20, "of 362 pixels"


def test_networks_that_can_be_adapted_are_named():
    assert {*MAKERS, "fasterrcnn_resnet50_fpn"} <= set(detector_names())
    assert every(not name.startswith(("mask", "keypoint", "ssd")) for name in detector_names())


# --- regions, and a second stage -----------------------------------------------------------------------------------


def two_stages(classes: int) -> tuple[FasterRCNN, nn.Module]:
    """A small Faster R-CNN of torchvision's, and the same network as it is used here."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, padding=1), nn.ReLU())
    backbone.out_channels = 8
    anchors = torchvision.models.detection.anchor_utils.AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),))
    pool = torchvision.ops.MultiScaleRoIAlign(["0"], 7, 2)
    theirs = FasterRCNN(Named(backbone), classes + 1, rpn_anchor_generator=anchors, box_roi_pool=pool, min_size=64,
                        max_size=64, image_mean=[0.0] * 3, image_std=[1.0] * 3, rpn_post_nms_top_n_test=20,
                        box_score_thresh=0.5, box_head=nn.Sequential(nn.Flatten(), nn.Linear(8 * 49, 1024), nn.ReLU()))
    with torch.no_grad():
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(30)
        theirs.roi_heads.box_predictor.bbox_pred.weight.mul_(20)
    return theirs.eval(), torchvision_detector("fasterrcnn_resnet50_fpn", theirs).eval()


class Named(nn.Module):
    """A backbone that gives its map a name, as torchvision's do."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.out_channels = body, body.out_channels

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        return {"0": self.body(x)}


def test_of_a_region_a_second_stage_says_its_box_and_the_softmaxs_mass_on_each_class():
    theirs, ours = two_stages(3)
    images = torch.rand(2, 3, 64, 64)
    regions = torch.tensor([[[4.0, 8, 36, 40], [0, 0, 64, 64], [10, 10, 20, 50]],
                            [[30.0, 2, 60, 33], [0, 0, 0, 0], [0, 0, 0, 0]]])
    with torch.no_grad():
        parts = unpack_places(ours(images=images, regions=regions))
        features = theirs.roi_heads.box_head(theirs.roi_heads.box_roi_pool(
            theirs.backbone(images), list(regions), [(64, 64)] * 2))
        scores, offsets = theirs.roi_heads.box_predictor(features)
        decoded = theirs.roi_heads.box_coder.decode(offsets, list(regions)).view(2, 3, 4, 4)
        mass = scores.softmax(-1).view(2, 3, 4)
    real = regions[..., 2] > 0
    torch.testing.assert_close(parts.logits.sigmoid()[real], mass[real][:, 1:])
    best = mass[..., 1:].argmax(-1) + 1
    expected = torch.stack([decoded[i, j, best[i, j]] for i, j in real.nonzero().tolist()])
    torch.testing.assert_close(boxes_of(parts.places, parts.distances)[real], expected, rtol=1e-4, atol=1e-3)
    assert every(parts.logits[~real].flatten() == ABSENT)
    assert every((parts.places[~real][:, 2:] == 1).flatten())
    torch.testing.assert_close(parts.places[0, 0], torch.tensor([20.0, 24, 32, 32]))
    assert float(scores_of(parts)[~real].max()) == 0


def test_a_class_that_is_nearly_certain_has_a_finite_logit():
    theirs, ours = two_stages(2)
    with torch.no_grad():
        theirs.roi_heads.box_predictor.cls_score.weight.zero_()
        theirs.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([-50.0, 60.0, -40.0]))
        logits = unpack_places(ours(torch.rand(1, 3, 64, 64), torch.tensor([[[4.0, 8, 36, 40]]]))).logits
    torch.testing.assert_close(logits, torch.tensor([[[100.0, -100.0]]]), rtol=1e-5, atol=1e-4)


def test_without_regions_it_detects_what_torchvision_detects_where_one_class_has_the_most():
    theirs, ours = two_stages(3)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found, packed = theirs(list(images)), ours(images)
    assert packed.shape == (2, 20, LEAD + 3)
    assert sum(len(expected["boxes"]) for expected in found) > 0
    for image, expected in zip(packed, found, strict=True):
        told = detections(image, (64, 64), 0.5, 0.5, 100)
        torch.testing.assert_close(told["boxes"], expected["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(told["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
        assert torch.equal(told["labels"] + 1, expected["labels"])


def test_two_stages_do_not_learn_and_an_architecture_names_them():
    network = build(Architecture("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"), class_names=NAMES)
    with pytest.raises(ModelError, match="a network of two stages does not learn here"):
        network(torch.rand(1, 3, 64, 64))
    seen = []
    network.eval().body.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images, regions = torch.rand(1, 3, 64, 64), torch.tensor([[[0.0, 0, 32, 32]]])
    assert network(images=images, regions=regions).shape == (1, 1, LEAD + 3)
    torch.testing.assert_close(seen[0], (images - network.mean) / network.std)


# --- classes by name -----------------------------------------------------------------------------------------------


class WithNorm(Named):
    """A small backbone with a norm, whose downloaded weights torchvision would freeze."""

    def __init__(self) -> None:
        body = nn.Sequential(nn.Conv2d(3, 32, 3, 8, padding=1), nn.BatchNorm2d(32))
        body.out_channels = 32
        super().__init__(body)


def with_own_weights(monkeypatch) -> list[Any]:
    """Let torchvision's own weights be those of a small network that is made here, with frozen norms as theirs have."""
    made: list[Any] = []
    anchors = torchvision.models.detection.anchor_utils.AnchorGenerator(((8,),), ((1.0,),))

    def get_model(name: str, *, weights: str | None, weights_backbone: None = None, num_classes: int = 91) -> nn.Module:
        network = FCOS(WithNorm(), num_classes, anchor_generator=anchors)
        if weights is not None:
            made.append(deepcopy(talkative(frozen(network, 0.5, 2))).eval())
        return network
    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    return made


def frozen(network: nn.Module, *variances: float) -> nn.Module:
    """With torchvision's frozen norms, which add nothing to their variances, as its oldest weights want them."""
    for name, norm in list(network.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            still = FrozenBatchNorm2d(norm.num_features, eps=0.0)
            still.running_var.uniform_(*variances)
            still.running_mean.normal_(0, 0.1)
            network.set_submodule(name, still)
    return network


def test_torchvisions_weights_are_cut_to_the_datas_classes_and_some_may_be_absent(monkeypatch, tmp_path):
    made, arch = with_own_weights(monkeypatch), "torchvision:fcos_resnet50_fpn"
    network = build(Architecture(arch, pretrained=True, classes="known"),
                    class_names=["Sports_Ball", "platelet", "person"]).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        normalised = (images - network.mean) / network.std
        said = made[0].head(list(made[0].backbone(normalised).values()))
        parts = unpack_places(network(images))
    torch.testing.assert_close(parts.logits[..., [0, 2]], said["cls_logits"][..., [37, 1]], rtol=1e-4, atol=1e-4)
    assert every((parts.logits[..., 1] == ABSENT).flatten())
    file = tmp_path / "teacher.safetensors"
    classes = ["Sports_Ball", "platelet", "person"]
    file.write_bytes(pack(weights_of(network), metadata_of(network, classes, "teacher")))
    again, names = load_network(file)
    assert names == tuple(classes)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), network(images))
    new = build(Architecture(arch, pretrained=True, head="new"), class_names=classes)
    assert classifiers_of(new.body) == ("head.classification_head.cls_logits",)
    kept = {name: tensor for name, tensor in weights_of(new).items() if "num_batches" not in name
            and "running_var" not in name}
    theirs = made[-1].state_dict()
    assert [name for name, tensor in kept.items() if tensor.shape != theirs[name].shape
            or not torch.equal(tensor, theirs[name])] == [f"head.classification_head.cls_logits.{part}"
                                                          for part in ("weight", "bias")]


def test_a_downloaded_norm_says_the_same_when_it_may_move_again():
    network = frozen(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 1e-4, 1e-3)
    images = torch.rand(2, 3, 8, 8)
    before = network(images)
    assert isinstance(with_moving_norms(network)[1], nn.BatchNorm2d)
    torch.testing.assert_close(network.eval()(images), before)


def run_of(tmp_path, classes: list[str], **options: Any) -> tuple[str, nn.Module]:
    """The file of a tiny detector of these classes, and the detector."""
    network = build(Architecture("tiny_fcos", options={"width": 2, **options}), class_names=classes).eval()
    file = tmp_path / "before.safetensors"
    file.write_bytes(pack(weights_of(network), metadata_of(network, classes, "before")))
    return str(file), network


def test_a_teacher_of_one_class_teaches_that_class_among_others(tmp_path):
    file, before = run_of(tmp_path, ["platelet", "dust"])
    spec = Architecture("tiny_fcos", weights=file, classes="known", options={"width": 2})
    network = build(spec, class_names=NAMES).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        said, whole = network(images), before(images)
    assert said.shape[-1] == LEAD + 3
    assert said.is_contiguous()
    assert torch.equal(said[..., :LEAD], whole[..., :LEAD])
    assert torch.equal(unpack_places(said).logits[..., 2], unpack_places(whole).logits[..., 0])
    assert every((unpack_places(said).logits[..., :2] == ABSENT).flatten())
    with pytest.raises(ModelError, match="knows none of the data's classes") as caught:
        build(spec, class_names=["cat", "dog"])
    assert "'platelet', 'dust'" in str(caught.value)
    assert "'cat', 'dog'" in str(caught.value)


def test_boxes_of_more_classes_are_cut_to_those_of_the_data_in_their_order(tmp_path):
    file, before = run_of(tmp_path, NAMES)
    network = build(Architecture("tiny_fcos", weights=file, classes="by-name", options={"width": 2}),
                    class_names=["platelet", "red"]).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images), before(images)[..., [*range(LEAD), LEAD + 2, LEAD]])


def test_only_a_detector_may_know_some_of_the_classes():
    network = build(Architecture("timm:resnet18", classes="known"), class_names=["goldfish", "platelet"])
    with pytest.raises(ModelError, match="only a detector may know some of the data's classes"):
        network(torch.rand(2, 3, 32, 32))


# --- backbones of timm ---------------------------------------------------------------------------------------------


def test_a_backbone_of_timm_gives_boxes_for_images_of_any_size():
    network = build(Architecture(SMALL, options={"width": 8, "strides": [4, 16]}), class_names=NAMES).eval()
    images = torch.rand(2, 3, 40, 33)
    said = network(images)
    assert said.shape == (2, 10 * 9 + 3 * 3, LEAD + 3)
    assert torch.equal(unpack_places(said).places[0], grid_places((40, 33), (4, 16)))
    plain = timm.create_model("test_resnet", features_only=True, out_indices=(1, 3)).eval()
    plain.load_state_dict(network.body.backbone.state_dict())
    grey = build(Architecture(SMALL), class_names=NAMES, channels=1)
    assert grey.eval()(torch.rand(1, 1, 32, 32)).shape == (1, 21, LEAD + 3)


def test_of_a_backbone_of_timm_its_own_weights_are_all_that_comes_pretrained(monkeypatch):
    real, asked = timm.create_model, []

    def create_model(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        made = real(name, pretrained=False, **options)
        if pretrained:
            asked.append(options)
            for parameter in made.parameters():
                nn.init.constant_(parameter, 0.25)
        return made
    monkeypatch.setattr(timm, "create_model", create_model)
    fresh = build(Architecture(SMALL), class_names=NAMES)
    assert asked == []
    network = build(Architecture(SMALL, pretrained=True, head="new"), class_names=NAMES)
    assert every((parameter == 0.25).all() for parameter in network.body.backbone.parameters())
    for part in ("neck", "head"):
        for name, tensor in network.body.get_submodule(part).state_dict().items():
            assert torch.equal(tensor, fresh.body.get_submodule(part).state_dict()[name]), name
    with pytest.raises(ModelError, match="only the backbone of this network comes pretrained"):
        build(Architecture(SMALL, pretrained=True), class_names=NAMES)


@pytest.mark.parametrize(("arch", "options", "error", "said"), [
    ("fcos:mobilenetv3_smal_050", {}, UsageError, "mobilenetv3_small_050"),
    ("fcos:vit_tiny_patch16_224", {}, UsageError, "no maps of these strides"),
    (SMALL, {"strides": [8, 64]}, UsageError, "no maps of these strides"),
    (SMALL, {"width": 0}, UsageError, "an option of the network that cannot be"),
    (SMALL, {"depth": 3}, UsageError, "does not take these options"),
    ("fcos:hf-hub:someone/thing", {}, SecurityError, "refused to fetch a network from a hub"),
    ("torchvision:fcos_resnet50_fpn", {"score_thresh": 0.1}, UsageError, "take no options"),
    ("torchvision:fcos_resnet50", {}, UsageError, "fcos_resnet50_fpn"),
    ("tiny_fcoss", {}, UsageError, "'tiny_fcos'"),
])
def test_what_cannot_be_is_refused(arch, options, error, said):
    with pytest.raises(error) as caught:
        build(Architecture(arch, options=options), class_names=NAMES)
    assert said in str(caught.value)


def test_a_tiny_network_can_have_the_places_of_torchvisions_fcos_and_learn_from_it():
    teacher = torchvision_detector("fcos_resnet50_fpn", torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2)).eval()
    student = tiny_fcos(2, width=2, strides=(8, 16, 32, 64, 128), corners=True).eval()
    images = torch.rand(1, 3, 128, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        grids = [unpack_places(network(images)).places for network in (teacher, student)]
    assert torch.equal(*grids)
