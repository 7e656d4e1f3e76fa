"""The keys of [data] that text alone has.

texts: pools of sentences without labels, { generic = "wiki/sentences.txt" }: files of any of the formats, whose labels
    and tags are not read. "task" is the name of the set's own training sentences.
mixture: what is trained on instead of the labelled sentences: of each pool its share of every batch, in exact counts,
    { generic = 0.7, task = 0.3 }. The sentences come without labels. An epoch has as many batches as all the pools
    together would fill, whatever their shares are.
tokenizer: the folder of a Hugging Face tokenizer, or its tokenizer.json; without it a vocabulary of our own is made of
    the training sentences and of all `texts`.
tokenizers: further ones by name, for networks with the option `tokenizer = "NAME"`; none where words are hidden.
vocabulary: pieces of our own vocabulary, at most.
length: pieces of a sentence, at most. too_long: what a longer one does: "error", or "cut" it there.
hidden: the share of the pieces of each sentence that `words` are asked for.
out_of_scope: the label of sentences that are of no class: none is trained on, and held out ones say how well a network
    tells them from the others.
broken_tags: what an I- without its B- does: "error", or "repair" makes it a B-.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from tutelage.errors import UsageError, unknown

TEXTS = ("text", "sentences")
"""Sets of sentences: files, and made ones."""
TASKS_OF_TEXT = ("sentences", "slots", "words")
TooLong = Literal["error", "cut"]
BrokenTags = Literal["error", "repair"]
TEXT_COLUMNS = ("text", "label", "tokens", "tags")
TEXT_KEYS = ("texts", "mixture", "tokenizer", "tokenizers", "vocabulary", "length", "too_long", "hidden",
             "out_of_scope", "broken_tags")
OWN_POOL = "task"
"""What the set's own training sentences are called in a mixture."""
_NOT_OF_TEXT = ("only", "balance", "mask_values", "ignore")


def check_texts(settings: Any, own: Sequence[str], given: Sequence[str]) -> None:
    """Refuse keys of text where there is none, and those that cannot be meant."""
    refused = [key for key in given if key in _NOT_OF_TEXT] if settings.name in TEXTS else own
    if refused:
        raise UsageError("a key that these data do not have", where=f"[data] {refused[0]}",
                         found=vars(settings)[refused[0]], fix="leave it out")
    if settings.name not in TEXTS:
        return
    for key, kind in (("too_long", TooLong), ("broken_tags", BrokenTags)):
        if vars(settings)[key] not in get_args(kind):
            raise unknown("choice", vars(settings)[key], get_args(kind), where=f"[data] {key}")
    for key, low, high in (("vocabulary", 16, 2**20), ("length", 2, 2**14)):
        if not low <= vars(settings)[key] <= high:
            raise UsageError("a setting out of range", where=f"[data] {key}", found=vars(settings)[key],
                             expected=f"{low} .. {high}")
    if not 0 < settings.hidden <= 1:
        raise UsageError("a share of hidden pieces that cannot be", where="[data] hidden", found=settings.hidden,
                         expected="above 0, and at most 1")
    if settings.tokenizers and settings.work == "words":
        raise UsageError("networks that guess words must have one tokenizer", where="[data] tokenizers",
                         found=", ".join(settings.tokenizers), expected="pieces that mean the same to all networks",
                         fix='leave it out; with task = "sentences" networks may have unlike ones')
    if settings.mixture is not None:
        _check_mixture(settings)
    if OWN_POOL in (settings.texts or {}):
        raise UsageError(f"{OWN_POOL!r} is the set's own training sentences", where="[data] texts",
                         fix="give the pool another name")


def _check_mixture(settings: Any) -> None:
    pools = [OWN_POOL, *settings.pools]
    for name, share in settings.mixture.items():
        if name not in pools:
            raise unknown("pool", name, pools, where="[data] mixture")
        if not 0 <= share <= 1:
            raise UsageError("a share that cannot be", where="[data] mixture", found=f"{name} = {share:g}",
                             expected="0 .. 1")
    total = math.fsum(settings.mixture.values())
    if abs(total - 1) > 1e-6:
        raise UsageError("shares that do not add up", where="[data] mixture", found=f"{total:g} in all", expected="1")
