"""Which part of a network makes its logits."""

from collections.abc import Mapping, Sequence

from torch import nn

HEADS = ("head", "fc", "classifier", "heads")
"""What timm and torchvision call the last layer."""
SECOND_HEAD = "second_head"
"""The sub-module that `wrappers.add_second_head` adds to a network's classifier."""


def classifiers_of(body: nn.Module) -> tuple[str, ...]:
    """The names of the sub-modules that make the logits: timm's own word for them, or else the last linear layer.

    >>> classifiers_of(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    ('2',)
    """
    facts = vars(body).get("pretrained_cfg")
    said = facts.get("classifier") if isinstance(facts, Mapping) else None
    if said:
        return (said,) if isinstance(said, str) else tuple(said)
    for kind in (nn.Linear, nn.Conv2d):
        names = [name for name, module in body.named_modules()
                 if isinstance(module, kind) and SECOND_HEAD not in name.split(".")]
        if names:
            return (names[-1],)
    return ()


def name_classifier(body: nn.Module, names: Sequence[str]) -> None:
    """Say, as timm does of its networks, which sub-modules make the logits, where `classifiers_of` could not guess."""
    body.pretrained_cfg = {"classifier": tuple(names)}  # pyright: ignore[reportArgumentType] - no tensor, no module


def is_headless(body: nn.Module) -> bool:
    """Whether a network was made without a classifier, `num_classes=0` in timm, and gives features.

    >>> is_headless(nn.Sequential(nn.Linear(4, 3)))
    False
    """
    children = dict(body.named_children())
    names = [name for name in (*classifiers_of(body), *HEADS) if name in children]
    return vars(body).get("num_classes") == 0 or (
        bool(names) and all(isinstance(children[name], nn.Identity) for name in names))
