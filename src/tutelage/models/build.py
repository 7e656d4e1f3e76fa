"""A recipe's words -> a network, with its normalisation, its first weights and outputs that mean the data's classes."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from tutelage.errors import ModelError, UsageError
from tutelage.models.architecture import BY_NAME, KNOWN, Architecture
from tutelage.models.class_names import (
    Spellings,
    columns_by_name,
    columns_of_some,
    imagenet_spellings,
    plain,
    read_names,
    readable,
    shortened,
    unmatched,
)
from tutelage.models.classifier import SECOND_HEAD
from tutelage.models.freezing import freeze
from tutelage.models.network import Network
from tutelage.models.sources import NetworkSource, find
from tutelage.models.stem import fit_to_32px
from tutelage.models.weights import WeightsFile, load_weights, read_weights
from tutelage.models.wrappers import add_second_head, compare_directions, cut, draw
from tutelage.system.random import seeded

NEW_HEAD = 'write head = "new" to fine-tune with a fresh classifier'
CUT_BY_NAME = 'classes = "by-name" (or a file of names) to cut its classifier to the data\'s classes'


def build(spec: Architecture, *, class_names: Sequence[str], channels: int = 3, name: str = "model", seed: int = 0,
          plugins: Sequence[str] = ()) -> Network:
    """The network that `spec` names, for images of `channels` in [0, 1] and logits in the order of `class_names`.

    Its first weights are a function of (seed, name) alone, and the global random numbers stay as they were. `plugins`
    are the modules that "module:function" may name.

    >>> build(Architecture("resnet8"), class_names=["cat", "dog"]).body.get_submodule("fc")
    Linear(in_features=64, out_features=2, bias=True)
    """
    source = find(spec, channels, plugins)
    file = None if spec.weights is None else read_weights(spec.weights, name)
    known = _known(spec, source, file, class_names)
    choose = columns_of_some if spec.classes == KNOWN else columns_by_name
    columns = None if known is None else choose(class_names, known, where=spec.arch)
    body_classes = tuple(class_names) if known is None else tuple(names[0] for names in known)
    network = assemble(spec, source, body_classes, channels, columns, name, seed)
    if file is not None:
        load_weights(network, file.tensors, head=spec.head, where=file.path)
    if spec.pretrained:
        part = network.body.get_submodule(source.part) if source.part else network
        load_weights(part, _downloaded(source, seed, name), head="strict" if source.part else spec.head,
                     where=f"{spec.arch}, pretrained")
    if spec.freeze is not None:
        freeze(network, spec.freeze)
    return network


def assemble(spec: Architecture, source: NetworkSource, body_classes: Sequence[str], channels: int,
             columns: tuple[int, ...] | None, name: str, seed: int) -> Network:
    """The network with first weights from (seed, name), before any file is read."""
    with seeded(seed, "weights", name):
        body = source.make(len(body_classes))
        if spec.stem == "cifar":
            if source.outputs is None:
                raise ModelError("only ImageNet networks of timm and torchvision get a CIFAR stem", where=spec.arch,
                                 found='stem = "cifar"', fix='write stem = "as-is"')
            fit_to_32px(body, spec.arch)
    whole = columns is None or columns == tuple(range(len(body_classes)))
    network = Network(body, spec, mean=_one_a_channel(spec.mean, source.mean, channels, f"{spec.arch}, mean"),
                      std=_one_a_channel(spec.std, source.std, channels, f"{spec.arch}, std"), channels=channels,
                      body_classes=tuple(body_classes), columns=None if whole else columns)
    if spec.cosine:
        with seeded(seed, "cosine", name):
            compare_directions(network.body)
    if spec.cut is not None:
        cut(network.body, spec.cut)
    if spec.draws is not None:
        draw(network, spec.draws, spec.dropout)
    if spec.second_head:
        with seeded(seed, SECOND_HEAD, name):
            add_second_head(network.body, None if whole or columns is None else len(columns))
    return network


def _downloaded(source: NetworkSource, seed: int, name: str) -> Mapping[str, Tensor]:
    assert source.download is not None, "checked by _known"
    with seeded(seed, "download", name):
        return source.download().state_dict()


def _known(spec: Architecture, source: NetworkSource, file: WeightsFile | None,
           class_names: Sequence[str]) -> Spellings | None:
    # What the outputs of the plain network mean, or None where they are made to be the data's classes.
    if spec.pretrained and source.download is None:
        raise UsageError("only networks of timm and torchvision come pretrained", where=spec.arch,
                         found="pretrained = true", fix="give a .safetensors file as `weights`")
    if spec.head == "new":
        return None
    if spec.pretrained and source.part:
        raise ModelError(f"only the {source.part} of this network comes pretrained", where=f"{spec.arch}, pretrained",
                         found="pretrained = true", expected='head = "new" beside it',
                         fix='write head = "new": what follows it starts afresh, and must be trained')
    if spec.pretrained and source.outputs == 0:
        raise ModelError("these weights come without a classifier: the network gives features", where=f"{spec.arch}, "
                         "pretrained", found="num_classes = 0", expected=f"a classifier of {len(class_names)} classes",
                         fix='write head = "new" for a network that learns; for a frozen teacher train one so first, '
                             "and give its run as weights")
    if spec.classes not in (None, BY_NAME, KNOWN):
        return plain(read_names(spec.classes))
    imagenet = plain(source.names) if source.names else imagenet_spellings(source.outputs or 0)
    told = plain(file.classes) if file is not None and file.classes is not None else None
    if spec.classes == KNOWN and file is None and not spec.pretrained:
        return plain(class_names[:1])  # a smoke run, without the weights that would tell
    if spec.classes is not None:
        return _some(told or imagenet, spec)
    if spec.pretrained:
        return _same(imagenet or [], class_names, f"{spec.arch}, pretrained", source.outputs or 0)
    return None if told is None or file is None else _same(told, class_names, file.path, len(told))


def _some(known: Spellings | None, spec: Architecture) -> Spellings:
    if known is None:
        raise ModelError("the names of the network's outputs are not known", where=spec.arch,
                         found=f'classes = "{spec.classes}"',
                         expected="a pretrained network, or weights with their classes",
                         fix="give a file of names as `classes`, one a line in the order of the outputs")
    return known


def _same(known: Spellings, class_names: Sequence[str], where: object, outputs: int) -> Spellings:
    # Without a word in the recipe, weights may only be used for the classes they were trained on. The alternative,
    # timm's, is a random classifier on a teacher that nobody trains.
    if len(known) == len(class_names):
        try:
            columns_by_name(class_names, known)
            return known
        except ModelError:
            pass
    strange = unmatched(class_names, known)
    beyond = [readable(names) for names in known if len(unmatched(names, plain(class_names))) == len(names)]
    raise ModelError("the weights know other classes than the data", where=where,
                     found=f"{outputs} classes, not in the data: {shortened(beyond[:5])} ({len(beyond)} in all)",
                     expected=f"the data's {len(class_names)} classes, not in the weights: "
                              f"{shortened(strange) or 'none'}",
                     fix=f"{NEW_HEAD}, or {CUT_BY_NAME}")


def _one_a_channel(given: tuple[float, ...] | None, own: tuple[float, ...], channels: int,
                   where: str) -> tuple[float, ...]:
    if given is None:
        return own
    if len(given) not in (1, channels, len(own)):
        raise UsageError("one number for each channel is needed", where=where, found=f"{len(given)} numbers",
                         expected=f"1 or {channels} numbers")
    return tuple(given) * (len(own) if len(given) == 1 else 1)
