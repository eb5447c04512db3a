"""Every phrase that the prompt reader understands, and what it can mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from atlas.facts import levels, region_names, with_side, wordings

IRREGULAR = {"hippocampus": "hippocampi", "thalamus": "thalami", "putamen": "putamina", "gyrus": "gyri"}

Phrase = tuple[str, ...]
Table = dict[Phrase, dict[str, Any]]


def split_words(text: str) -> Phrase:
    """The lower-case words of a phrase as the reader compares them; hyphens separate."""
    return tuple(re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower()))


def known_phrases(words: list[str], at: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(length, meanings) of the known phrases that start at a word, the longest first."""
    table = phrases()
    for length in _lengths().get(words[at], ()):
        meanings = table.get(tuple(words[at : at + length]))
        if meanings is not None and at + length <= len(words):
            yield length, meanings


def suggestions(unknown: Iterable[str]) -> dict[str, str]:
    """Unknown word -> the known word it resembles, where there is one."""
    near = {
        word: difflib.get_close_matches(word, _vocabulary(), n=1, cutoff=0.75)
        for word in unknown
        if word.isalpha()
    }
    return {word: matches[0] for word, matches in near.items() if matches and matches[0] != word}


@lru_cache(maxsize=1)
def _vocabulary() -> list[str]:
    return sorted({word for phrase in phrases() for word in phrase if len(word) > 4})


@lru_cache(maxsize=1)
def _lengths() -> dict[str, tuple[int, ...]]:
    """First word -> how many words the phrases that start with it have, the longest first."""
    lengths: dict[str, set[int]] = {}
    for phrase in phrases():
        lengths.setdefault(phrase[0], set()).add(len(phrase))
    return {word: tuple(sorted(found, reverse=True)) for word, found in lengths.items()}


def _add(table: Table, text: str, kind: str, value: Any) -> None:
    """A phrase that can mean this, unless it already means another thing of the same kind."""
    table.setdefault(split_words(text), {}).setdefault(kind, value)


@lru_cache(maxsize=1)
def phrases() -> Table:
    """Every known phrase -> what it can mean: kind -> value ("level": plane -> name, "region": names)."""
    said, understood = wordings(), wordings()["understood"]
    table: Table = {}
    for kind in ("plane", "modality", "sex", "health", "handedness"):
        for value in said[kind]:
            for text in (*said[kind][value], *understood[kind].get(value, ())):
                _add(table, text, kind, value)
    for sex, texts in said["sex_short"].items():
        for text in texts:
            _add(table, text, "sex", sex)
    for band, texts in (*said["band_words"].items(), *said["decades"].items(), *understood["bands"].items()):
        for text in texts:
            _add(table, text, "age_band", band)
    _add_levels(table)
    _add_regions(table)
    _add_sizes(table)
    silent = (
        *understood["words"]["stop"],
        *said["regions"]["said"],
        *understood["words"]["image"],
        *understood["words"]["person"],
        *said["person"]["nobody"],
        *said["image"]["plain"],
    )
    for text in silent:
        if split_words(text) not in table:
            _add(table, text, "stop", True)
    return table


def _add_levels(table: Table) -> None:
    for plane, rows in levels().items():
        for level in rows:
            for text in (*level.said, *level.understood):
                table.setdefault(split_words(text), {}).setdefault("level", {}).setdefault(plane, level.name)
            for text in level.views:
                _add(table, text, "view", (plane, level.name))


def _add_regions(table: Table) -> None:
    """Regions with and without a side; "around" is the level named after the region without its side."""
    synonyms = wordings()["understood"]["regions"]
    for name, sides in region_names().items():
        last = name.split()[-1]
        ending = last[:-1] + "ies" if last.endswith("y") else last + "s"
        plural = name.removesuffix(last) + IRREGULAR.get(last, ending)
        for text in (name, plural, *synonyms.get(name, ())):
            _add(table, text, "region", (name,))
            if not {"left", "right"} <= sides:
                continue
            both = tuple(with_side(name, side) for side in ("left", "right"))
            around = table[split_words(text)].get("level", {})
            for prefix, names in {"left": both[:1], "right": both[1:]}.items():
                _add(table, f"{prefix} {text}", "region", names)
                _add(table, f"{prefix} {text}", "around", around)
            for prefix in ("left and right", "right and left", "both", "bilateral", "left and the right"):
                _add(table, f"{prefix} {text}", "region", both)
                _add(table, f"{prefix} {text}", "around", around)


def _add_sizes(table: Table) -> None:
    """What is said of sizes, and every size with every name of a structure in every pattern."""
    understood = wordings()["understood"]
    for rows in (wordings()["size"], understood["sizes"]):
        for size, by_structure in rows.items():
            for structure, texts in by_structure.items():
                for text in texts:
                    _add(table, text, "size", (structure, size))
    for pattern in understood["structure"]["patterns"]:
        for structure, names in understood["structure"]["names"].items():
            for size, words in understood["size"].items():
                for name in names:
                    for word in words:
                        _add(table, pattern.format(size=word, name=name), "size", (structure, size))
