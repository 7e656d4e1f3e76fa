"""Networks of other libraries that give a map of logits: torchvision's, and those of segmentation_models_pytorch.

They are taken as they are, with the names of their weights; what is changed is what they return, a map of logits alone.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torchvision
from torch import Tensor, nn

from tutelage.errors import ModelError, UsageError, unknown
from tutelage.models.classifier import name_classifier

LIBRARY = "segmentation_models_pytorch"
HEADS_OF_TORCHVISION = ("classifier.4", "classifier.low_classifier", "classifier.high_classifier")
"""The layers that make the logits: one in FCN and DeepLab, two that are added in LR-ASPP."""
RESERVED_BY_LIBRARY = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")
"""What is said elsewhere in a recipe, or would make something else than logits."""


def torchvision_dense_names() -> list[str]:
    """torchvision's networks for segmentation."""
    return torchvision.models.list_models(module=torchvision.models.segmentation)


def torchvision_dense(network: nn.Module) -> nn.Module:
    """The same network of torchvision's, which returns its map of logits alone; one without its auxiliary head."""
    if "aux_classifier" in dict(network.named_children()):
        network.aux_classifier = None  # pyright: ignore[reportArgumentType] - torchvision's own word for "none"
    network.register_forward_hook(_only_logits)
    modules = dict(network.named_modules())
    name_classifier(network, [name for name in HEADS_OF_TORCHVISION if name in modules])
    return network


def library_network(network: nn.Module) -> nn.Module:
    """The same network of the library's, with its head named."""
    name_classifier(network, ["segmentation_head"])
    return network


def segmentation_library(arch: str) -> ModuleType:
    """The library; ModelError if it is not installed."""
    try:
        import segmentation_models_pytorch as library  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        raise ModelError(f"an smp: network needs {LIBRARY}: pip install 'tutelage[segmentation]'",
                         where=arch) from None
    return library


def library_names(library: ModuleType, arch: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """Network and encoder that "smp:NETWORK:ENCODER" names; UsageError for words that mean none."""
    _, _, name = arch.partition(":")
    kind, colon, encoder = name.partition(":")
    kinds = [made.__name__ for made in library.MODEL_ARCHITECTURES_MAPPING.values()]
    if kind.lower() not in map(str.lower, kinds):
        raise unknown("smp network", kind, kinds, where=arch)
    encoders = list(library.encoders.get_encoder_names())
    if not colon:
        raise UsageError("an smp: network needs an encoder", where=arch, expected="smp:NETWORK:ENCODER",
                         fix=f'write "smp:{kind}:resnet34", for one')
    if encoder not in encoders and not encoder.startswith("tu-"):
        raise unknown("encoder", encoder, encoders, where=arch)
    reserved = sorted(set(RESERVED_BY_LIBRARY) & set(options))
    if reserved:
        raise UsageError("these options are not the network's own", where=f"{arch}, options", found=reserved,
                         fix="leave them out: classes and channels come from the data, and logits are wanted")
    return kind, encoder


def _only_logits(network: nn.Module, inputs: Any, output: Mapping[str, Tensor]) -> Tensor:
    return output["out"]
