"""Made sentences with intents and slots, sentences that are out of scope, and generic text; the same on every machine.

A grammar: each intent has patterns, each slot of a pattern its values. The set is written as files of JSON lines and
read back by the reader of such files. Of every slot some values, and of every intent one pattern, are kept for the
held-out splits, so that what is judged is more than memory.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.system.random import derive

OUT_OF_SCOPE = "out_of_scope"
SIZES = {"train": 480, "val": 120, "test": 240}
"""Sentences with an intent; of every `EACH` there is one more that is out of scope, but in train."""
EACH = 5
GENERIC = 1200
SLOTS: Mapping[str, Sequence[str]] = {
    "artist": ("anna berg", "the blue lamps", "kofi", "maria silva", "old harbour band", "lena", "tom wood",
               "the quiet hours"),
    "song": ("green river", "first snow", "run", "paper moon", "home again", "yellow light", "stone bridge", "hello"),
    "room": ("kitchen", "bedroom", "living room", "hall", "office", "garage", "bath room", "attic"),
    "city": ("paris", "new york", "oslo", "san diego", "accra", "kyoto", "rio", "hong kong"),
    "day": ("today", "tomorrow", "monday", "next friday", "tonight", "sunday morning", "wednesday", "next week"),
    "number": ("two", "ten", "three", "fifteen", "twenty", "five", "thirty", "six"),
    "person": ("john", "my mother", "sara", "doctor lee", "uncle bob", "emma", "the plumber", "peter"),
    "food": ("pasta", "green soup", "rice", "fried fish", "apple pie", "bread", "bean salad", "eggs"),
}
INTENTS: Mapping[str, Sequence[str]] = {
    "play_music": ("play {song} by {artist}", "i want to hear {artist}", "put on {song}",
                   "play something from {artist}", "can you play {song} now"),
    "weather": ("what is the weather in {city} {day}", "will it rain in {city}", "how cold is it in {city} {day}",
                "do i need a coat in {city}", "forecast for {city} please"),
    "lights_on": ("turn on the light in the {room}", "make the {room} bright", "lights on in the {room} please",
                  "switch the {room} lamp on", "it is too dark in the {room}"),
    "lights_off": ("turn off the light in the {room}", "make the {room} dark", "lights off in the {room} please",
                   "switch the {room} lamp off", "it is too bright in the {room}"),
    "timer": ("set a timer for {number} minutes", "wake me in {number} hours", "count down {number} minutes",
              "remind me in {number} minutes", "start a timer of {number} hours"),
    "call": ("call {person}", "i need to talk to {person}", "ring {person} {day}", "please phone {person} now",
             "get {person} on the line"),
    "book_flight": ("book a flight to {city} {day}", "i want to fly to {city}", "find {number} seats to {city} {day}",
                    "is there a plane to {city} {day}", "get me to {city} by air"),
    "recipe": ("how do i cook {food}", "what goes into {food}", "show me how to make {food} for {number}",
               "find a recipe for {food}", "i would like to cook {food} {day}"),
}
_OUTSIDE = ("who wrote {song}", "how tall is {person}", "sell my car {day}", "what does {food} mean in french",
            "how many people live in {city}", "tell me a joke about {food}", "paint the {room} blue",
            "is {artist} married", "how old is {person}", "divide {number} by {number}", "buy shares of {city} bank",
            "why is the sky over {city} red {day}")
_SUBJECTS = ("the mayor", "a teacher", "the old bridge", "her brother", "the company", "a small bird", "the river",
             "the council", "a young painter", "the museum")
_VERBS = ("opened", "was built", "wrote a book", "moved", "was sold", "became famous", "stood", "was seen", "grew",
          "worked")
_PLACES = ("in the north", "near the harbour", "in {city}", "on a hill", "behind the church", "in a valley",
           "by the sea", "in the old town")
_TIMES = ("for {number} years", "in the last century", "after the war", "during the summer", "in {number} days",
          "before the fire", "at the end of the year", "every spring")
_KEPT = 2
"""Values of a slot that only held-out sentences have."""


def write_sentences(folder: Path) -> dict[str, Path]:
    """Write train, val and test.jsonl and generic.txt into a folder: what each file is -> its path."""
    paths = {}
    for split, count in SIZES.items():
        intents = sorted(INTENTS) * (count // len(INTENTS))
        lines = [_line(split, intent, number) for number, intent in enumerate(intents)]
        if split != "train":
            lines += [_line(split, OUT_OF_SCOPE, number) for number in range(count // EACH)]
        paths[split] = folder / f"{split}.jsonl"
        paths[split].write_text("\n".join([*map(json.dumps, lines), ""]), encoding="utf-8")
    paths["generic"] = folder / "generic.txt"
    paths["generic"].write_text("\n".join([*map(_generic, range(GENERIC)), ""]), encoding="utf-8")
    return paths


def _line(split: str, intent: str, number: int) -> dict[str, object]:
    held_out = split != "train"
    patterns = _OUTSIDE if intent == OUT_OF_SCOPE else INTENTS[intent][:None if held_out else -1]
    words, tags = _filled(patterns[_pick(len(patterns), split, intent, number)], held_out, split, intent, number)
    return {"tokens": words, "tags": tags, "label": intent}


def _generic(number: int) -> str:
    pattern = " ".join(those[_pick(len(those), "generic", which, number)]
                       for which, those in enumerate((_SUBJECTS, _VERBS, _PLACES, _TIMES)))
    return " ".join(_filled(pattern, False, "generic", "", number)[0])


def _filled(pattern: str, held_out: bool, *key: int | str) -> tuple[list[str], list[str]]:
    """The words of a pattern and their tags."""
    words, tags = list[str](), list[str]()
    for place, part in enumerate(pattern.split()):
        if not part.startswith("{"):
            words, tags = [*words, part], [*tags, "O"]
            continue
        slot = part.strip("{}")
        values = SLOTS[slot][:None if held_out else -_KEPT]
        value = values[_pick(len(values), slot, place, *key)].split()
        words, tags = [*words, *value], [*tags, f"B-{slot}", *[f"I-{slot}"] * (len(value) - 1)]
    return words, tags


def _pick(count: int, *key: int | str) -> int:
    return derive("sentences", *key) % count
