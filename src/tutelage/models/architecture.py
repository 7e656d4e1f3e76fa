"""What a recipe says about one network. No torch here, so that a recipe can be checked without paying for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tutelage.errors import UsageError, unknown

STEMS = ("as-is", "cifar")
HEADS = ("strict", "new")
BY_NAME, KNOWN = "by-name", "known"
"""What `classes` may say instead of a file."""


@dataclass(frozen=True)
class Architecture:
    """A network by name, and where its first weights come from.

    arch        "resnet20" and the other names of this package's own networks (or "tutelage:resnet20"), "timm:NAME",
                "torchvision:NAME", "smp:NETWORK:ENCODER", "fcos:NAME" (a detector on a backbone of timm's), "hf:FOLDER"
                (an encoder of text of Hugging Face), or a plugin as "package.module:function"
    weights     a .safetensors file or a run folder
    pretrained  true: timm's or torchvision's own weights; of "fcos:NAME" and "hf:FOLDER" those of the body
    stem        "cifar" fits an ImageNet network to 32 px
    head        "new" starts the classifier afresh, whatever the weights bring
    classes     cuts a network that knows more classes to those of the data: "by-name", or the path of a file with one
                class name a line, in the order of the network's outputs; "known" is for a detector that knows
                only some of the data's classes: the others are absent from what it says
    mean, std   of images in [0, 1], one number a channel, instead of the network's own; none of what is no image
    cut         a layer: labels teach what comes after it alone; its output is the tap "cut"
    draws       so many draws are made of the network's dropout: the taps "draws.LAYER"
    dropout     the share that is left out of what a drawn layer gives, for networks without dropout of their own
    cosine      true: the classifier compares directions alone; the taps "cosine" and "cosine.features"
    second_head true: a second classifier on the same features; its logits are the tap "second_head"
    freeze      a layer, or a list of them, that does not learn: no gradient, and its norms keep their statistics
    options     further keyword arguments of the network's function

    >>> Architecture("timm:resnet18", stem="cifra")
    Traceback (most recent call last):
    tutelage.errors.UsageError: unknown stem 'cifra'
      expected  one of: as-is, cifar
      fix       did you mean 'cifar'?
    """

    arch: str
    weights: str | None = None
    pretrained: bool = False
    stem: str = "as-is"
    head: str = "strict"
    classes: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    cut: str | None = None
    draws: int | None = None
    dropout: float | None = None
    cosine: bool = False
    second_head: bool = False
    freeze: str | tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stem not in STEMS:
            raise unknown("stem", self.stem, STEMS)
        if self.head not in HEADS:
            raise unknown("head", self.head, HEADS)
        if self.pretrained and self.weights is not None:
            raise UsageError("weights and pretrained exclude each other", where=self.arch, found=self.weights,
                             fix="keep one of the two")
        if self.head == "new" and self.classes is not None:
            raise UsageError("a new head has no other classes to cut", where=self.arch,
                             found=f'head = "new" and classes = {self.classes!r}', fix="keep one of the two")
        self._check_normalisation()
        self._check_draws()
        self._check_options()

    def _check_draws(self) -> None:
        if self.draws is not None and self.draws < 1:
            raise UsageError("a number of draws that cannot be", where=f"{self.arch}, draws", found=self.draws,
                             expected="1 or more")
        if self.dropout is not None and (self.draws is None or not 0 < self.dropout < 1):
            raise UsageError("a dropout that cannot be", where=f"{self.arch}, dropout",
                             found=f"dropout = {self.dropout}" + " without draws" * (self.draws is None),
                             expected="between 0 and 1, beside draws")

    def _check_options(self) -> None:
        # They are written beside the weights. At the end of a training it is too late to learn that they cannot be.
        try:
            json.dumps(dict(self.options))
        except (TypeError, ValueError) as problem:
            raise UsageError("options must be plain values", where=f"{self.arch}, options", found=problem,
                             expected="numbers, text, true or false, lists and tables of them") from None

    def _check_normalisation(self) -> None:
        if self.std is not None and any(not value > 0 for value in self.std):
            raise UsageError("a standard deviation must be above 0", where=f"{self.arch}, std", found=self.std)
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise UsageError("mean and std must have one number for each channel", where=self.arch,
                             found=f"{len(self.mean)} and {len(self.std)} numbers")
