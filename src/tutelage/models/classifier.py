"""Which part of a network makes its logits."""

from collections.abc import Mapping

from torch import nn

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
