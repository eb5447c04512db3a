"""Every phrase that the prompt reader understands, and what it can mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from atlas.facts import levels, region_names, with_side, wordings

IRREGULAR = {"hippocampus": "hippocampi", "thalamus": "thalami", "putamen": "putamina", "gyrus": "gyri"}

WORD = r"[a-z0-9]+\*?(?:'[a-z]+)?"  # "t2*" is another word than "t2"
NO_ANSWER = {"disease", "refused"}  # kinds of phrases that no one is told to use

Phrase = tuple[str, ...]
Table = dict[Phrase, dict[str, Any]]


def split_words(text: str) -> Phrase:
    """The lower-case words of a phrase as the reader compares them; hyphens separate."""
    return tuple(re.findall(WORD, text.lower()))


def known_phrases(words: list[str], at: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(length, meanings) of the known phrases that start at a word, the longest first."""
    table = phrases()
    for length in _lengths().get(words[at], ()):
        meanings = table.get(tuple(words[at : at + length]))
        if meanings is not None and at + length <= len(words):
            yield length, meanings


def longest_phrase(words: list[str], at: int, plane: str | None) -> tuple[int, dict[str, Any]]:
    """The longest known phrase that starts at a word and what it can mean in this plane; length 0 if none."""
    for length, meanings in known_phrases(words, at):
        if "level" in meanings and plane is not None and plane not in meanings["level"]:
            meanings = {kind: value for kind, value in meanings.items() if kind != "level"}
        if meanings:
            return length, meanings
    return 0, {}


def suggestions(unknown: Iterable[str]) -> dict[str, str]:
    """Unknown word -> the known word it resembles, where there is one."""
    near = {
        word: difflib.get_close_matches(word, _vocabulary(), n=1, cutoff=0.75)
        for word in unknown
        if word.isalpha()
    }
    # "unhealthy" does not mean "healthy"
    return {word: matches[0] for word, matches in near.items() if matches and not word.endswith(matches[0])}


@lru_cache(maxsize=1)
def _vocabulary() -> list[str]:
    told = (phrase for phrase, meanings in phrases().items() if not NO_ANSWER & set(meanings))
    return sorted({word for phrase in told for word in phrase if len(word) > 4})


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
    _add_parts(table)
    _add_sizes(table)
    denial = understood["denial"]
    for kind, texts, value in (
        ("denial", denial["words"], True),
        ("denial", denial["except"], False),  # whose opposite is not meant
        ("disease", denial["disease"], True),
        ("relation", understood["relation"]["words"], True),
    ):
        for text in texts:
            _add(table, text, kind, value)
    for row in understood["refused"]:
        for text in row["words"]:
            _add(table, text, "refused", row["say"])
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
    """Regions with and without a side, in the singular and the plural."""
    synonyms = wordings()["understood"]["regions"]
    for name, sides in region_names().items():
        last = name.split()[-1]
        ending = last[:-1] + "ies" if last.endswith("y") else last + "s"
        plural = name.removesuffix(last) + IRREGULAR.get(last, ending)
        for text in (name, plural, *synonyms.get(name, ())):
            _add(table, text, "region", (name,))
            if {"left", "right"} <= sides:
                _add_sides(table, text, (name,))


def _add_parts(table: Table) -> None:
    """Parts and groups of regions, all of which have sides; a part is where the level of its name is."""
    for row in wordings()["understood"]["parts"]:
        names = tuple(row["regions"])
        for text in row["words"]:
            _add(table, text, "region", names)
            _add(table, text, "part", len(names) == 1)
            if all({"left", "right"} <= region_names()[name] for name in names):
                _add_sides(table, text, names)


def _add_sides(table: Table, text: str, names: Phrase) -> None:
    """A phrase for regions with a side in front; "around" is the level named after it without the side."""
    around = table[split_words(text)].get("level", {})
    sides = {"left": ("left",), "right": ("right",)}
    for prefix in (*sides, *wordings()["understood"]["side"]["both"]):
        sided = tuple(
            with_side(name, side) for name in names for side in sides.get(prefix, ("left", "right"))
        )
        _add(table, f"{prefix} {text}", "region", sided)
        _add(table, f"{prefix} {text}", "around", around)
        if "part" in table[split_words(text)]:
            _add(table, f"{prefix} {text}", "part", table[split_words(text)]["part"])


def _add_sizes(table: Table) -> None:
    """What is said of sizes, and every size with every name of a structure in every pattern."""
    understood = wordings()["understood"]
    for rows in (wordings()["size"], understood["sizes"]):
        for size, by_structure in rows.items():
            for structure, texts in by_structure.items():
                for text in texts:
                    _add(table, text, "size", (structure, size))
    sizes = understood["size"]
    denied = tuple(f"not {word}" for size in ("small", "enlarged") for word in sizes[size])
    for pattern in understood["structure"]["patterns"]:
        for structure, names in understood["structure"]["names"].items():
            for size, words in (*sizes.items(), ("normal", denied)):
                for name in names:
                    for word in words:
                        _add(table, pattern.format(size=word, name=name), "size", (structure, size))
