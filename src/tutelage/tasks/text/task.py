"""Three tasks on text: a sentence has an intent, a word has a slot, and a hidden piece is to be guessed."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.data.source import Data
from tutelage.data.text_source import TextSource
from tutelage.errors import DataError, ModelError
from tutelage.graph.divergences import cross_entropy, kl
from tutelage.tasks.classification import metrics
from tutelage.tasks.classification.task import CLASSIFICATION, check_labels, judge_of_classes, score
from tutelage.tasks.task import Evidence, Judge, Score, Task, Term
from tutelage.tasks.text.metrics import entity_f1, said_right
from tutelage.tasks.text.rows import pieces_of, slots, tags_of, words
from tutelage.types import BatchLabels

SCORES_OF_SENTENCES = (*(one for one in CLASSIFICATION.scores if one.key != "top5"),
                       Score("oos_auroc", "out-of-scope AUROC", each_epoch=False))
SCORES_OF_SLOTS = (Score("entity_f1", "entity F1"), Score("tag_accuracy", "tag accuracy"),
                   Score("whole_sentences", "sentences without an error"))
SCORES_OF_WORDS = (Score("word_accuracy", "masked-word accuracy"), Score("nll", "NLL", "number", "lower"))


def check_is_text(data: Data) -> None:
    """Refuse data that are no text."""
    if not isinstance(data.train, TextSource):
        raise DataError("not text", where="training data", found=data.name,
                        expected='name = "text" or "sentences" in [data]')
    if len(data.classes) < 2:
        raise DataError("too few classes: there is nothing to tell apart", where="training data",
                        found=f"{len(data.classes)} classes", expected="two or more")


def check_sentences(data: Data) -> None:
    """Refuse data that are no sentences of classes."""
    check_is_text(data)
    check_labels(data)


def judge_of_sentences(classes: int) -> Judge:
    """That of classes; of held-out sentences without one, which are out of scope, whether a network is less sure."""
    return judge_of_classes(classes)._replace(summary=_of_sentences)


def _of_sentences(evidence: Evidence) -> dict[str, float]:
    logits, labels = evidence["logits"], evidence["labels"]
    given = labels >= 0
    if not bool(given.any()):
        raise DataError("there is nothing to evaluate on", found="no sentence with a label")
    found, apart = score(logits[given], labels[given]), metrics.auroc(metrics.top_probability(logits), given)
    return {**found, "macro_f1": metrics.macro_f1(logits[given], labels[given]),
            "oos_auroc": float("nan") if apart is None else apart}


def judge_of_slots(names: tuple[str, ...]) -> Judge:
    """The judge of logits [B, W, tags]; its evidence is "said" and "tags" [N, W], -1 where no word is judged."""
    return Judge(partial(_measure_slots, len(names)), partial(_of_slots, names), _agreement,
                 by_sample=lambda evidence: said_right(evidence["said"], evidence["tags"]))


def _measure_slots(classes: int, taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    logits, (tags, _) = taps[""], tags_of(labels)
    if logits.dim() != 3 or logits.shape[1:] != (tags.shape[1], classes):
        return None
    return {"said": torch.where(tags >= 0, logits.argmax(-1), -1), "tags": tags}


def _of_slots(names: tuple[str, ...], evidence: Evidence) -> dict[str, Any]:
    said, true = evidence["said"], evidence["tags"]
    there = true >= 0
    if not bool(there.any()):
        raise DataError("there is nothing to evaluate on", found="no word with a tag")
    pairs = [([names[tag] for tag in wanted if tag >= 0], [names[tag] for tag in given if tag >= 0])
             for wanted, given in zip(true.tolist(), said.tolist(), strict=True)]
    right = said_right(said, true)
    return {"entity_f1": entity_f1(pairs), "tag_accuracy": (said == true)[there].double().mean().item(),
            "whole_sentences": (right[~right.isnan()] == 1).double().mean().item()}


def judge_of_words(classes: int) -> Judge:
    """The judge of logits [B, P, pieces]; its evidence is "said" and "true" [N, P], -1 for none, and "nll" [N]."""
    return Judge(partial(_measure_words, classes), _of_words, _agreement,
                 by_sample=lambda evidence: said_right(evidence["said"], evidence["tags"]))


def _measure_words(classes: int, taps: Mapping[str, Tensor], labels: BatchLabels, ids: Tensor) -> Evidence | None:
    logits, (true, there) = taps[""], pieces_of(labels)
    if logits.dim() != 3 or logits.shape[1:] != (true.shape[1], classes):
        return None
    cost = F.cross_entropy(logits.double().flatten(0, 1), true.flatten(), ignore_index=-1, reduction="none")
    return {"said": torch.where(there, logits.argmax(-1), -1), "tags": true, "nll": cost.view_as(true).sum(1)}


def _of_words(evidence: Evidence) -> dict[str, Any]:
    said, true = evidence["said"], evidence["tags"]
    there = true >= 0
    if not bool(there.any()):
        raise DataError("there is nothing to evaluate on", found="no hidden word")
    return {"word_accuracy": (said == true)[there].double().mean().item(),
            "nll": (evidence["nll"].sum() / there.sum()).item()}


def _agreement(one: Evidence, other: Evidence) -> float:
    there = one["tags"] >= 0
    return (one["said"] == other["said"])[there].double().mean().item()


def mean_over_places(*logits: Tensor) -> Tensor:
    """The log of the mean probability of several networks' logits [B, P, K], at each place.

    >>> mean_over_places(torch.full((1, 1, 2), 9.0), torch.zeros(1, 1, 2)).exp().flatten().tolist()
    [0.5, 0.5]
    """
    if any(one.dim() != 3 or one.shape != logits[0].shape for one in logits):
        raise ModelError("a mean of what is not logits of the same places", found=str([list(x.shape) for x in logits]),
                         expected="[B, places, classes] of each")
    return torch.stack([one.log_softmax(-1) for one in logits]).logsumexp(0) - math.log(len(logits))


SENTENCES = replace(CLASSIFICATION, name="sentences", scores=SCORES_OF_SENTENCES, check=check_sentences,
                    judge=lambda data: judge_of_sentences(len(data.classes)), samples="sentences", labels="intents")
SLOTS = Task("slots", SCORES_OF_SLOTS, check_is_text, lambda data: judge_of_slots(data.classes),
             learn=(Term(cross_entropy, rows=slots, soft=True),), imitate=(Term(kl, rows=slots, soft=True),),
             mean=mean_over_places, rows=(slots,), samples="sentences", labels="tags")
WORDS = Task("words", SCORES_OF_WORDS, check_is_text, lambda data: judge_of_words(len(data.classes)),
             learn=(Term(cross_entropy, rows=words, soft=True),), imitate=(Term(kl, rows=words, soft=True),),
             mean=mean_over_places, rows=(words,), samples="sentences", labels="pieces")
