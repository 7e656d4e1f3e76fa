"""What networks and data of text must know of each other before a run."""

import json

from tutelage.data.source import Data
from tutelage.data.text_preparation import TEXT, pieces_alike
from tutelage.data.text_source import TextSource
from tutelage.errors import DataError, ModelError, unknown
from tutelage.models.architecture import Architecture
from tutelage.models.huggingface import PREFIX, hf_most
from tutelage.models.sources import OWN
from tutelage.models.text import MOST
from tutelage.models.weights import read_metadata


def channels_for(arch: Architecture, data: Data) -> int:
    """What a network is told of its input: channels or, of text, how many pieces its tokenizer has."""
    name = _tokenizer(arch)
    if not isinstance(data.train, TextSource) or not name:
        return data.shape[0]
    if name not in data.train.tokens:
        raise unknown("tokenizer", name, [one for one in data.train.tokens if one], where="options, tokenizer")
    return data.train.tokens[name].size


def require_fitting_text(node: str, arch: Architecture, data: Data) -> None:
    """Refuse weights that know other pieces by the same numbers, and sentences that are longer than a network allows.

    For `words` all networks must have the main tokenizer: a piece of one is none of another.
    """
    if not isinstance(data.train, TextSource):
        return
    name, own = _tokenizer(arch), dict(data.preprocessing)
    if name and own["task"] == "words":
        raise ModelError("networks that guess words must have one tokenizer", where=f"network {node!r}",
                         found=f"tokenizer = {name!r}", expected="that of the data",
                         fix='leave the option out; with task = "sentences" networks may have unlike ones')
    if arch.weights is not None:
        told = json.loads(read_metadata(arch.weights, node).get("preprocessing", "{}"))
        theirs = _named(told, name)
        if told.get("kind") == TEXT and (theirs is None or not pieces_alike(theirs, _named(own, name) or own)):
            raise ModelError("these weights know words by other pieces than the data", where=arch.weights,
                             found="another vocabulary", expected="the same pieces with the same numbers",
                             fix="name the same texts, and the same vocabulary, in [data] of both recipes; or take "
                                 "one tokenizer for both")
    prefix, _, folder = arch.arch.partition(":")
    own_limit = arch.options.get("most", MOST if prefix in (arch.arch, OWN) else None)
    most = hf_most(folder) if prefix == PREFIX else own_limit
    longest = data.train.tokens[name].pieces.shape[1]
    if isinstance(most, int) and longest > most:
        raise DataError("a sentence that is longer than the network allows", where=data.train.tokens[name].longest,
                        found=f"{longest} pieces", expected=f"{most} at most, by options of {node!r}",
                        fix=f'options = {{ most = {longest} }}, or length = {most} and too_long = "cut" in [data]')


def _named(told: dict, name: str) -> dict | None:
    """The preparation by the tokenizer of this name, "" being the main one."""
    if not name:
        return told
    return {"tokenizer": told["others"][name]} if name in told.get("others", {}) else None


def _tokenizer(arch: Architecture) -> str:
    return str(arch.options.get("tokenizer", ""))
