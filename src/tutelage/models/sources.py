"""Where networks come from: our own pages, timm, torchvision, smp, or a plugin that the user has allowed.

Nothing in a recipe can run code from elsewhere: a name is looked up among the functions that a page defines, hubs are
refused, and a plugin's module must be named on the command line too.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from statistics import fmean
from types import ModuleType
from typing import Any

import timm
import torchvision
from torch import nn

from tutelage.errors import ModelError, SecurityError, UsageError, unknown
from tutelage.models import fcos, forecast, fusion, recommend, series, text, unet
from tutelage.models.architecture import Architecture
from tutelage.models.cifar import mobilenet, resnet, shufflenet, vgg, wide_resnet
from tutelage.models.dense import (
    library_names,
    library_network,
    segmentation_library,
    torchvision_dense,
    torchvision_dense_names,
)
from tutelage.models.detectors import (
    detector_classes,
    detector_names,
    has_background,
    timm_backbone,
    timm_fcos,
    torchvision_detector,
    with_moving_norms,
)
from tutelage.models.download import downloading
from tutelage.models.huggingface import PREFIX, hf_folder, hf_network, hf_weights
from tutelage.models.moved import import_plugin

CIFAR_PAGES = (resnet, wide_resnet, vgg, mobilenet, shufflenet)
DENSE_PAGES = (unet,)
"""Networks of our own that give a map of logits."""
BOX_PAGES = (fcos,)
"""Networks of our own that give boxes, as `dense_boxes` has them."""
SERIES_PAGES = (series, forecast)
"""Networks of our own whose input is scaled by its data, and not by a mean and std of the network's."""
USER_PAGES = (recommend,)
"""Networks of our own that give users scores of items."""
FUSION_PAGES = (fusion,)
"""Networks of our own that give one image of several."""
WITHOUT_WEIGHTS = ("fused_files", "tutelage:fused_files")
"""Networks that have none, and need no training."""
TEXT_PAGES = (text,)
"""Networks of our own that read pieces of words."""
OWN = "tutelage"
CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HUBS = ("hub", "torchhub", "hf-hub", "hf_hub", "huggingface", "local-dir", "github", "http", "https", "file")
# What `build` decides, or what would fetch a file or change what comes out behind its back.
RESERVED = ("num_classes", "channels", "in_chans", "weights", "weights_backbone", "progress", "pretrained",
            "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir",
            "features_only")


@dataclass(frozen=True)
class NetworkSource:
    """How to make one network: `make` takes the number of classes, `download` gives it with its own weights and head.

    `outputs` is how many classes the downloaded weights know, `names` are those of them where ImageNet's are not meant.
    `part` is the name of the sub-module that `download` gives, where it gives no whole network.
    """

    make: Callable[[int], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: int | None = None
    download: Callable[[], nn.Module] | None = None
    names: tuple[str, ...] | None = None
    part: str = ""


def find(spec: Architecture, channels: int, plugins: Sequence[str] = ()) -> NetworkSource:
    """The source that `spec.arch` names."""
    reserved = sorted(set(RESERVED) & set(spec.options))
    if reserved:
        raise UsageError("these options are not the network's own", where=f"{spec.arch}, options", found=reserved,
                         fix="leave them out; see weights, pretrained, head and classes")
    prefix, colon, name = spec.arch.partition(":")
    if not colon or prefix == OWN:
        return _own(spec, name if colon else prefix, channels)
    if prefix == "timm":
        return _timm(spec, name, channels)
    if prefix == "fcos":
        return _timm_fcos(spec, name, channels)
    if prefix == PREFIX:
        return _huggingface(spec, name, channels)
    if prefix == "torchvision":
        return _torchvision(spec, name, channels)
    if prefix == "smp":
        return _smp(spec, channels)
    return _plugin(spec, channels, plugins)


def cifar_networks() -> dict[str, Callable[..., nn.Module]]:
    """Name -> function of every network on the pages of `models.cifar`."""
    return _networks(CIFAR_PAGES)


def own_networks(pages: Sequence[ModuleType] = (*CIFAR_PAGES, *DENSE_PAGES, *BOX_PAGES, *SERIES_PAGES,
                                                  *USER_PAGES, *FUSION_PAGES, *TEXT_PAGES)
                 ) -> dict[str, Callable[..., nn.Module]]:
    """Name -> function of every network of this package, or of some of its `pages`."""
    return _networks(pages)


def _networks(pages: Sequence[ModuleType]) -> dict[str, Callable[..., nn.Module]]:
    return {name: value for page in pages for name, value in _defined(page).items()
            if inspect.isfunction(value) and not name.startswith("_") and "num_classes" in _parameters(value)}


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _own(spec: Architecture, name: str, channels: int) -> NetworkSource:
    networks = own_networks()
    if name not in networks:
        raise _unknown_bare(name, networks)
    mean, std = CIFAR100 if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
    if name in _networks((*SERIES_PAGES, *USER_PAGES, *TEXT_PAGES)):
        if any(spec.mean or ()) or any(value != 1 for value in spec.std or ()):
            raise UsageError("the input of this network is scaled by its data", where=f"{spec.arch}, mean and std",
                             fix="leave them out")
        count = 1 if name in _networks((*USER_PAGES, *TEXT_PAGES)) else channels
        mean, std = (0.0,) * count, (1.0,) * count
    return NetworkSource(lambda classes: _call(networks[name], spec, num_classes=classes, channels=channels), mean, std)


def _unknown_bare(arch: str, networks: Mapping[str, Any]) -> UsageError | SecurityError:
    if "/" in arch or "\\" in arch or arch.endswith(".py"):
        return SecurityError(f"refused to run code from the path {arch!r}", expected="a name", fix=(
            'make it an importable module, write arch = "module:function" and pass --plugin module'))
    wider = [prefix + arch for prefix, names in (("timm:", timm.list_models()), ("torchvision:", _torchvision_names()))
             if arch in names]
    if wider:
        return UsageError(f"unknown network {arch!r}", expected=f"one of {', '.join(sorted(networks))}, or a prefix",
                          fix=f"did you mean {' or '.join(map(repr, wider))}?")
    error = unknown("network", arch, networks)
    assert isinstance(error, UsageError)
    return error


def _timm(spec: Architecture, name: str, channels: int) -> NetworkSource:
    facts, mean, std = _of_timm(spec, name, channels)

    def make(classes: int) -> nn.Module:
        return _call(timm.create_model, spec, name, num_classes=classes, in_chans=channels)

    def download() -> nn.Module:
        with downloading(spec.arch):
            return _call(timm.create_model, spec, name, pretrained=True, in_chans=channels)
    return NetworkSource(make, mean, std, facts.get("num_classes"), download)


def _huggingface(spec: Architecture, name: str, channels: int) -> NetworkSource:
    folder = hf_folder(name)

    def make(classes: int) -> nn.Module:
        return _call(hf_network, spec, num_classes=classes, channels=channels, folder=folder)
    return NetworkSource(make, (0.0,), (1.0,), download=lambda: hf_weights(folder), part="encoder")


def _timm_fcos(spec: Architecture, name: str, channels: int) -> NetworkSource:
    _, mean, std = _of_timm(spec, name, channels)

    def make(classes: int) -> nn.Module:
        return _call(timm_fcos, spec, name, num_classes=classes, channels=channels)

    def download() -> nn.Module:
        strides = fcos.rising(spec.options.get("strides", fcos.STRIDES))
        with downloading(spec.arch):
            return timm_backbone(name, channels, strides, pretrained=True)
    return NetworkSource(make, mean, std, download=download, part="backbone")


def _of_timm(spec: Architecture, name: str, channels: int) -> tuple[dict[str, Any], tuple[float, ...],
                                                                    tuple[float, ...]]:
    """What timm says of a network of this name, and the mean and std of its images."""
    if name.partition(":")[0].lower() in HUBS:
        raise _hub(spec.arch)
    if not timm.is_model(name):
        raise unknown("timm network", name, timm.list_models(), where=spec.arch)
    facts = _timm_facts(name)
    mean, std = facts.get("mean", IMAGENET[0]), facts.get("std", IMAGENET[1])
    if channels != len(mean):
        # timm sums the first filters over the colours for one channel; the averages are then the nearest statistics.
        mean, std = (fmean(mean),) * channels, (fmean(std),) * channels
    return facts, tuple(mean), tuple(std)


def _timm_facts(name: str) -> dict[str, Any]:
    try:
        facts = timm.get_pretrained_cfg(name)
    except RuntimeError:
        architecture, _, tag = name.partition(".")
        raise unknown("weights", tag, [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")],
                      where=f"timm:{name}") from None
    return {} if facts is None else facts.to_dict()


def _torchvision(spec: Architecture, name: str, channels: int) -> NetworkSource:
    if name not in _torchvision_names():
        raise unknown("torchvision network", name, _torchvision_names(), where=spec.arch)
    if channels not in (1, 3):
        raise ModelError("torchvision's networks take colour images", where=spec.arch, found=f"{channels} channels",
                         expected="3 channels, or 1 that is repeated", fix='take the same network from "timm:"')
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    if name in detector_names():
        return _torchvision_detector(spec, name, detector_classes(name, weights.meta["categories"]))
    seen, outputs = weights.transforms(), len(weights.meta["categories"])
    if name in torchvision_dense_names():
        return _torchvision_dense(spec, name, tuple(seen.mean), tuple(seen.std), tuple(weights.meta["categories"]))

    def make(classes: int) -> nn.Module:
        return _call(torchvision.models.get_model, spec, name, weights=None, num_classes=classes)

    def download() -> nn.Module:
        with downloading(spec.arch):
            return _call(torchvision.models.get_model, spec, name, weights="DEFAULT")
    return NetworkSource(make, tuple(seen.mean), tuple(seen.std), outputs, download)


def _torchvision_dense(spec: Architecture, name: str, mean: tuple[float, ...], std: tuple[float, ...],
                       names: tuple[str, ...]) -> NetworkSource:
    def make(classes: int) -> nn.Module:
        return torchvision_dense(_call(torchvision.models.get_model, spec, name, weights=None, weights_backbone=None,
                                       aux_loss=False, num_classes=classes))

    def download() -> nn.Module:
        with downloading(spec.arch):
            return torchvision_dense(_call(torchvision.models.get_model, spec, name, weights="DEFAULT"))
    return NetworkSource(make, mean, std, len(names), download, names)


def _torchvision_detector(spec: Architecture, name: str, names: tuple[str, ...]) -> NetworkSource:
    if spec.options:
        raise UsageError("torchvision's detectors take no options here", where=f"{spec.arch}, options",
                         found=sorted(spec.options), fix="leave them out: images keep their size, and scores and "
                                                         "suppression are the task's")
    nothing = int(has_background(name))

    def make(classes: int) -> nn.Module:
        return torchvision_detector(name, torchvision.models.get_model(
            name, weights=None, weights_backbone=None, num_classes=classes + nothing))

    def download() -> nn.Module:
        with downloading(spec.arch):
            made = torchvision.models.get_model(name, weights="DEFAULT")
        return torchvision_detector(name, with_moving_norms(made))
    return NetworkSource(make, *IMAGENET, len(names), download, names)


def _torchvision_names() -> list[str]:
    return [*torchvision.models.list_models(module=torchvision.models), *torchvision_dense_names(), *detector_names()]


def _smp(spec: Architecture, channels: int) -> NetworkSource:
    library = segmentation_library(spec.arch)
    kind, encoder = library_names(library, spec.arch, spec.options)
    mean, std = IMAGENET if channels == 3 else ((0.5,) * channels, (0.5,) * channels)

    def make(classes: int) -> nn.Module:
        return library_network(_call(library.create_model, spec, kind, encoder_name=encoder, encoder_weights=None,
                                     in_channels=channels, classes=classes))
    return NetworkSource(make, mean, std)


def _plugin(spec: Architecture, channels: int, plugins: Sequence[str]) -> NetworkSource:
    place, _, name = spec.arch.partition(":")
    if place not in plugins:
        raise _hub(spec.arch) if place.lower() in HUBS else _not_allowed(spec.arch, place)
    module = import_plugin(place, spec.arch)
    found = {key: value for key, value in _defined(module).items() if callable(value)}
    if name not in found:
        raise unknown("network", name, found, where=place)
    function = found[name]
    extra = {"channels": channels} if "channels" in _parameters(function) else {}
    return NetworkSource(lambda classes: _call(function, spec, num_classes=classes, **extra), (0.0,) * channels,
                         (1.0,) * channels)


def _not_allowed(arch: str, place: str) -> SecurityError:
    close = get_close_matches(place, [OWN, "timm", "torchvision", "smp", "fcos"], n=1)
    meant = f" (or did you mean {close[0] + ':' + arch.partition(':')[2]!r}?)" if close else ""
    return SecurityError(f"{arch!r} would run the Python module {place!r}, which is not allowed",
                         expected="timm:NAME, torchvision:NAME, a network of this package, or an allowed plugin",
                         fix=f"if you trust it, add --plugin {place}{meant}")


def _hub(arch: str) -> SecurityError:
    return SecurityError(f"refused to fetch a network from a hub: {arch!r}",
                         expected="timm:NAME, torchvision:NAME, a network of this package, or an allowed plugin",
                         fix="name the network, and give its .safetensors file as `weights`")


def _defined(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__}


def _call(function: Callable[..., Any], spec: Architecture, *name: str, **own: Any) -> nn.Module:
    try:
        network = function(*name, **own, **spec.options)
    except TypeError as problem:
        if not spec.options:
            raise
        raise UsageError("the network does not take these options", where=f"{spec.arch}, options",
                         found=f"{dict(spec.options)}: {problem}", fix="mend or leave out the options") from None
    if not isinstance(network, nn.Module):
        raise ModelError("this function does not make a network", where=spec.arch,
                         found=f"a {type(network).__name__}", expected="a torch.nn.Module")
    return network
