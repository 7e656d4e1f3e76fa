"""Detectors of other libraries, which say boxes as `dense_boxes` has them: torchvision's, and backbones of timm.

torchvision's are taken as they are, with the names of their weights. Only what lies around them is left out: images are
not resized, and come normalised; places are not sorted out, and come packed. Where a side is no multiple of 32 zeros
are added, as torchvision does, so a place may lie beyond the image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from tutelage.errors import ModelError, UsageError
from tutelage.models.classifier import name_classifier
from tutelage.models.dense_boxes import ABSENT, Packed, distances_of, pack_places
from tutelage.models.fcos import FCOS, STRIDES, rising

ONE_STAGE, TWO_STAGES = ("fcos_", "retinanet_"), "fasterrcnn_"
MULTIPLE = 32
"""torchvision adds zeros to images until their sides are multiples of this."""
NOTHING = "N/A"
"""torchvision's name for an output that is no class."""


def detector_names() -> list[str]:
    """torchvision's networks for detection that can be adapted: FCOS, RetinaNet and Faster R-CNN."""
    return [name for name in torchvision.models.list_models(module=torchvision.models.detection)
            if name.startswith((*ONE_STAGE, TWO_STAGES))]


def has_background(name: str) -> bool:
    """Whether output 0 of torchvision's network of this name is "nothing", which is no class here.

    >>> has_background("fasterrcnn_resnet50_fpn"), has_background("fcos_resnet50_fpn")
    (True, False)
    """
    return name.startswith(TWO_STAGES)


def detector_classes(name: str, categories: Sequence[str]) -> tuple[str, ...]:
    """What the outputs of torchvision's weights are called, each by a name of its own.

    >>> detector_classes("fcos_resnet50_fpn", ["__background__", "person", "N/A", "N/A"])
    ('__background__', 'person', 'N/A 2', 'N/A 3')
    """
    names = [f"{text} {number}" if text == NOTHING else text for number, text in enumerate(categories)]
    return tuple(names[1:] if has_background(name) else names)


def torchvision_detector(name: str, network: nn.Module) -> nn.Module:
    """The backbone and the head of torchvision's network of this name, which give packed boxes."""
    return TwoStages(network) if has_background(name) else OneStage(network)


def with_moving_norms(network: nn.Module) -> nn.Module:
    """A downloaded network with BatchNorms in the place of torchvision's frozen ones; in eval mode it says the same.

    So a network has one form, wherever its weights come from. What a frozen norm adds to a variance is moved into it.
    """
    for name, norm in list(network.named_modules()):
        if isinstance(norm, FrozenBatchNorm2d):
            told = {key: tensor.clone() for key, tensor in norm.state_dict().items()}
            moving = nn.BatchNorm2d(len(told["weight"]))
            told["running_var"] += norm.eps - moving.eps
            moving.load_state_dict({**moving.state_dict(), **told})
            network.set_submodule(name, moving)
    return network


class OneStage(nn.Module):
    """torchvision's FCOS or RetinaNet: its own anchors are the places, all of its outputs are classes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self.anchors = _Anchors(network.anchor_generator)
        coder = network.box_coder  # RetinaNet's has a limit: the logarithm of a factor
        self.largest = coder.bbox_xform_clip if isinstance(coder, BoxCoder) else None
        name_classifier(self, ["head.classification_head.cls_logits"])

    def forward(self, images: Tensor) -> Packed:
        """Normalised images [B, 3, H, W] -> boxes and logits [B, places, 9 + classes]."""
        images = _padded(images)
        maps = list(self.backbone(images).values())
        said, places = self.head(maps), self.anchors(images, maps)
        if self.largest is None:
            return pack_places(places, said["bbox_regression"], said["bbox_ctrness"][..., 0], said["cls_logits"])
        return pack_places(places, _decoded(_exact(said["bbox_regression"]), self.largest), None, said["cls_logits"])


class TwoStages(nn.Module):
    """torchvision's Faster R-CNN, frozen: what its second stage says of regions, those given or its own.

    The logit of class k is log p_k - log(1 - p_k) of its softmax, so its sigmoid is the softmax's mass on the class;
    the background is left out. The box of a region is that of its likeliest class.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.takes_regions = True
        self.backbone, self.rpn, self.roi_heads = network.backbone, network.rpn, network.roi_heads
        name_classifier(self, ["roi_heads.box_predictor"])

    def forward(self, images: Tensor, regions: Tensor | None = None) -> Packed:
        """Normalised images [B, 3, H, W] and regions [B, G, 4] in pixels -> boxes and logits [B, G, 9 + classes].

        A region is (left, top, right, lower); one of area 0 is padding, a place of size 1 without any class. Without
        regions they are those that the network's first stage proposes, padded to as many as it may.
        """
        if self.training:
            raise ModelError("a network of two stages does not learn here", found="Faster R-CNN in training mode",
                             expected="a frozen teacher", fix="let it be frozen, or take FCOS or RetinaNet")
        images = _padded(images)
        maps = self.backbone(images)
        if regions is None:
            regions = self._proposed(images, maps)
        batch, count = regions.shape[:2]
        regions = _exact(regions.to(images.dtype))
        sizes = [tuple(images.shape[2:])] * batch
        features = self.roi_heads.box_head(self.roi_heads.box_roi_pool(maps, list(regions), sizes))
        scores, offsets = map(_exact, self.roi_heads.box_predictor(features))
        logits = _one_against_rest(scores)[:, 1:]
        best = (scores[:, 1:].argmax(-1) + 1)[:, None, None].expand(-1, 1, 4)
        offsets = offsets.unflatten(-1, (-1, 4)).gather(1, best)[:, 0]
        boxes = self.roi_heads.box_coder.decode_single(offsets, regions.flatten(0, 1)).unflatten(0, (batch, count))
        places = torch.cat([(regions[..., :2] + regions[..., 2:]) / 2, regions[..., 2:] - regions[..., :2]], -1)
        real = (places[..., 2:] > 0).all(-1, keepdim=True)
        places = torch.cat([places[..., :2], torch.where(real, places[..., 2:], 1)], -1)
        distances = torch.where(real, distances_of(places, boxes), 0)
        return pack_places(places, distances, None, torch.where(real, logits.unflatten(0, (batch, count)), ABSENT))

    def _proposed(self, images: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
        height, width = images.shape[2:]
        found, _ = self.rpn(ImageList(images, [(height, width)] * len(images)), maps)
        most = self.rpn.post_nms_top_n()
        return torch.stack([F.pad(boxes, (0, 0, 0, most - len(boxes))) for boxes in found])


class _Anchors(nn.Module):
    """What an `AnchorGenerator` gives for a batch, as places; without its lists, which a compiler cannot follow."""

    def __init__(self, generator: AnchorGenerator) -> None:
        super().__init__()
        for level, cell in enumerate(generator.cell_anchors):  # whole numbers: they stay exact in a network of 16 bits
            self.register_buffer(f"cell{level}", cell.long(), persistent=False)

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> Tensor:
        found = []
        for made, cell in zip(maps, self.buffers(), strict=True):
            (height, width), device = made.shape[2:], made.device
            y = torch.arange(height, device=device) * (images.shape[2] // height)
            x = torch.arange(width, device=device) * (images.shape[3] // width)
            y, x = torch.meshgrid(y, x, indexing="ij")
            middles = torch.stack([x, y], -1).reshape(-1, 1, 2) + (cell[:, :2] + cell[:, 2:]) / 2
            sizes = (cell[:, 2:] - cell[:, :2]).to(middles).expand_as(middles)
            found.append(torch.cat([middles, sizes], -1).flatten(0, 1))
        return torch.cat(found)


def _padded(images: Tensor) -> Tensor:
    down, right = (-side % MULTIPLE for side in images.shape[2:])
    return F.pad(images, (0, right, 0, down)) if right or down else images


def _exact(numbers: Tensor) -> Tensor:
    """In 32 bits at least: half numbers would move boxes by whole pixels."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


def _decoded(offsets: Tensor, largest: float) -> Tensor:
    """RetinaNet's offsets of a box from its anchor -> distances in sizes of the anchor."""
    shift, half = offsets[..., :2], offsets[..., 2:].clamp(max=largest).exp() / 2
    return torch.cat([half - shift, half + shift], -1)


def _one_against_rest(scores: Tensor) -> Tensor:
    """Of each class, [R, C] logits of a softmax -> the logit of its probability, exact where that is nearly 1."""
    same = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores - scores[:, None, :].masked_fill(same, -torch.inf).logsumexp(-1)


# --- backbones of timm ---------------------------------------------------------------------------------------------


def timm_fcos(name: str, *, num_classes: int, channels: int, width: int = 32,
              strides: Sequence[int] = STRIDES, corners: bool = False) -> FCOS:
    """timm's network of this name, cut where it gives maps of these strides, with neck and head of `tiny_fcos`."""
    if not isinstance(width, int) or width < 1:
        raise UsageError("an option of the network that cannot be", where="options, width", found=width,
                         expected="1 or more")
    backbone = timm_backbone(name, channels, rising(strides))
    planes = backbone.feature_info.channels()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return FCOS(backbone, planes, rising(strides), width, num_classes, corners)


def timm_backbone(name: str, channels: int, strides: tuple[int, ...], pretrained: bool = False) -> nn.Module:
    """timm's network of this name as a backbone, a map of each stride; its weights are fetched only where asked."""
    given = timm_strides(name, channels)
    lacking = [stride for stride in strides if stride not in given]
    if lacking:
        raise UsageError("the backbone has no maps of these strides", where=f"fcos:{name}, strides", found=lacking,
                         expected=f"among {sorted(set(given))}")
    last = [max(i for i, stride in enumerate(given) if stride == wanted) for wanted in strides]
    return timm.create_model(name, features_only=True, out_indices=tuple(last), in_chans=channels,
                             pretrained=pretrained)


def timm_strides(name: str, channels: int) -> list[int]:
    """The strides of the maps that timm's network of this name gives as a backbone."""
    try:
        made = timm.create_model(name, features_only=True, in_chans=channels)
        return made.feature_info.reduction()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    except (RuntimeError, TypeError, AttributeError, AssertionError) as problem:
        raise ModelError("this network of timm's gives no maps, so it is no backbone", where=f"fcos:{name}",
                         found=str(problem).partition("\n")[0],
                         fix="take another, such as mobilenetv3_small_050") from None
