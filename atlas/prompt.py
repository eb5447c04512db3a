"""A prompt read into facts: what was asked for, and the words that were not understood."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from atlas.errors import PromptError
from atlas.facts import AXIS, VISIBLE_MM2, Facts, wordings
from atlas.phrases import known_phrases, suggestions

PLANE_OF_AXIS = {axis: plane for plane, axis in AXIS.items()}
TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Prompt:
    """What a prompt asks for. facts: the same form as a slice's (source "prompt"; an asked region has an area
    of 20 mm2; known may hold age_band). mentioned: the same as a caption's. unknown: words that were not
    understood or not used, in order. suggestions: unknown word -> the known word it resembles."""

    text: str
    facts: Facts
    unknown: tuple[str, ...] = ()
    suggestions: dict[str, str] = field(default_factory=dict)
    mentioned: dict[str, Any] = field(default_factory=dict)


def read_prompt(text: str) -> Prompt:
    """What a prompt asks for, in any wording of tables/wordings.toml or their synonyms; case does not matter.

    A plane that is not named is taken from the coordinate ("z = 12") or the level. Of two that contradict
    each other the first counts and the other is reported as unknown. PromptError for an empty prompt.
    """
    if not text.strip():
        raise PromptError(
            'the prompt is empty; say for example "axial T1 slice at the level of the thalamus"'
        )
    reading = re.sub(r"[‐-―−]", "-", text.lower()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    stated: dict[str, Any] = {}
    unused: list[tuple[int, str]] = []
    reading, coordinate = _read_numbers(reading, stated, unused)
    tokens = [
        (match.group(), match.start())
        for match in re.finditer(r"[a-z0-9]+(?:'[a-z]+)?|[,.;:()\x00]", reading)
    ]
    words = [word for word, _ in tokens]
    plane = _plane_of(words) or (PLANE_OF_AXIS[coordinate[0]] if coordinate else None)
    if coordinate and plane != PLANE_OF_AXIS[coordinate[0]]:
        unused.append((coordinate[2], f"{coordinate[0]} = {coordinate[1]:g} in a {plane} slice"))
        coordinate = None
    if plane is not None:
        stated["plane"] = plane
    if coordinate:
        stated["position_mm"] = coordinate[1]
    at = 0
    while at < len(words):
        length, meanings = _longest(words, at, stated.get("plane"))
        if length == 0:
            if words[at][0].isalnum():
                unused.append((tokens[at][1], words[at]))
            at += 1
            continue
        in_place = _says_place(words, at, at + length)
        if not _state(stated, meanings, in_place=in_place):
            unused.append((tokens[at][1], " ".join(words[at : at + length])))
        at += length
    unknown = tuple(dict.fromkeys(word for _, word in sorted(unused)))
    return Prompt(text, _facts(stated), unknown, suggestions(unknown), stated)


def _facts(stated: dict[str, Any]) -> Facts:
    apart = ("plane", "position_mm", "modality", "level", "regions", "sizes")
    return Facts(
        plane=stated.get("plane"),
        position_mm=stated.get("position_mm"),
        modality=stated.get("modality"),
        level=stated.get("level"),
        regions=dict.fromkeys(stated.get("regions", ()), VISIBLE_MM2),
        sizes=dict(stated.get("sizes", {})),
        known={name: value for name, value in stated.items() if name not in apart},
        source="prompt",
    )


def _read_numbers(
    reading: str, stated: dict[str, Any], unused: list[tuple[int, str]]
) -> tuple[str, tuple[str, float, int] | None]:
    """The text with ages, field strength and coordinates blanked, and the coordinate (axis, mm, place)."""
    coordinates: list[tuple[str, float, int]] = []

    def state(name: str, value: object, match: re.Match[str]) -> str:
        if stated.setdefault(name, value) != value:
            unused.append((match.start(), match.group().strip()))
        return "\x00" * len(match.group())

    def age(match: re.Match[str]) -> str:
        years = int(next(group for group in match.groups() if group and group.isdigit()))
        if years > 120:
            return match.group()
        sex = match.groupdict().get("sex")
        if sex:
            state("sex", {"f": "female", "m": "male"}[sex], match)
        return state("age", years, match)

    def coordinate(axis: str, position_mm: float, match: re.Match[str]) -> str:
        if coordinates and coordinates[0][:2] != (axis, position_mm):
            unused.append((match.start(), match.group().strip()))
        coordinates.append((axis, position_mm, match.start()))
        return "\x00" * len(match.group())

    def from_landmark(match: re.Match[str]) -> str:
        distance, direction = float(match.group(1)), match.group(2)
        axis = "z" if direction in ("above", "below", "superior to", "inferior to") else "y"
        negative = direction in ("below", "inferior to", "behind", "posterior to")
        return coordinate(axis, -distance if negative else distance, match)

    def from_midline(match: re.Match[str]) -> str:
        distance = float(match.group(1))
        return coordinate("x", -distance if match.group(2) == "left" else distance, match)

    tens, units = "|".join(TENS), "|".join(UNITS)
    reading = re.sub(
        rf"\b({tens})(?:[\s-]({units}))?(?=[\s-]years?\b)",
        lambda match: str(TENS[match.group(1)] + (UNITS.index(match.group(2)) + 1 if match.group(2) else 0)),
        reading,
    )
    number, before = r"(\d+(?:\.\d+)?)", r"(?<![\w.=-])"
    reading = re.sub(
        rf"(?:\baged?\s+(?:of\s+)?)?{before}(\d{{1,3}})[\s-]*"
        r"(?:y\.\s?o\.?(?!\w)|(?:years?[\s-]*old|years?|yrs?|yo|y/o|y)\b)",
        age,
        reading,
    )
    reading = re.sub(
        r"\b(?:aged?|age of|age[:=])\s*(?:of|=|:)?\s*(\d{1,3})\b(?!\s*(?:mm|t\b|tesla)|\.\d)", age, reading
    )
    reading = re.sub(rf"{before}(\d{{2,3}})\s?/?\s?(?P<sex>[fm])\b", age, reading)
    nouns = (*wordings()["sex"].values(), wordings()["person"]["nobody"])
    people = "|".join(word for words in nouns for word in words)
    reading = re.sub(  # "woman, 30"
        rf"\b({people})(,? (?:1[01]\d|\d{{2}}))\b(?!\s*mm|[.\d])",
        lambda match: match[1] + state("age", int(match[2].strip(", ")), match)[len(match[1]) :],
        reading,
    )
    reading = re.sub(
        rf"{before}{number}[\s-]?(?:tesla|t)\b",
        lambda match: state("field_strength", float(match[1]), match),
        reading,
    )
    landmark = r"above|below|superior to|inferior to|in front of|behind|anterior to|posterior to"
    commissure = r"(?:the )?(?:ac-pc (?:line|plane)|ac\b|anterior commissure)"
    reading = re.sub(
        rf"(?:\b[yz]\s*[=:]?\s*)?{before}{number}\s*mm ({landmark}) {commissure}", from_landmark, reading
    )
    midline = r"(?:the )?(?:midline|midsagittal plane|mid-sagittal plane)"
    reading = re.sub(
        rf"{before}{number}\s*mm (?:to the )?(left|right) (?:of|from) {midline}", from_midline, reading
    )
    reading = re.sub(
        rf"\b([xyz])\s*(?:=|:|at|is|of)?\s*([+-]?)\s?{number}(?:\s*mm\b)?",
        lambda match: coordinate(match[1], float(match[3]) * (-1.0 if match[2] == "-" else 1.0), match),
        reading,
    )
    return reading, coordinates[0] if coordinates else None


def _plane_of(words: list[str]) -> str | None:
    """The first plane that is named outright, by a plane word or a view such as "midsagittal"."""
    at = 0
    while at < len(words):
        length, meanings = next(known_phrases(words, at), (1, {}))
        if "plane" in meanings:
            return str(meanings["plane"])
        if "view" in meanings:
            return "sagittal"
        at += length
    return None


def _longest(words: list[str], at: int, plane: str | None) -> tuple[int, dict[str, Any]]:
    """The longest known phrase that starts at a word and what it can mean in this plane; length 0 if none."""
    for length, meanings in known_phrases(words, at):
        if "level" in meanings and plane is not None and plane not in meanings["level"]:
            meanings = {kind: value for kind, value in meanings.items() if kind != "level"}
        if meanings:
            return length, meanings
    return 0, {}


def _says_place(words: list[str], start: int, end: int) -> bool:
    """Is the phrase words[start:end] said as a place: "level of the ...", "through the ...", "... level"?"""
    before = start - 1
    while before >= 0 and words[before] in ("the", "a", "of", "both", "bilateral"):
        before -= 1
    return (before >= 0 and words[before] in ("level", "at", "through", "thru")) or (
        end < len(words) and words[end] in ("level", "levels")
    )


def _state(stated: dict[str, Any], meanings: dict[str, Any], *, in_place: bool) -> bool:
    """Add what a phrase means; False if it contradicts what was stated before."""
    if "view" in meanings:
        plane, level = meanings["view"]
        return stated.setdefault("plane", plane) == plane and stated.setdefault("level", level) == level
    if "level" in meanings and (in_place or "region" not in meanings):
        by_plane = meanings["level"]
        plane = stated.get("plane") or next(iter(by_plane))
        if plane in by_plane and stated.get("level") in (None, by_plane[plane]):
            stated["plane"], stated["level"] = plane, by_plane[plane]
            return True
        if "region" not in meanings:
            return False
    if "size" in meanings:
        structure, size = meanings["size"]
        return bool(stated.setdefault("sizes", {}).setdefault(structure, size) == size)
    if "region" in meanings:
        names = stated.setdefault("regions", [])
        names.extend(name for name in meanings["region"] if name not in names)
        around = meanings.get("around", {})  # the level of "hippocampus" for an axial "left hippocampus"
        if in_place and "level" not in stated and stated.get("plane") in around:
            stated["level"] = around[stated["plane"]]
        return True
    return all(stated.setdefault(kind, value) == value for kind, value in meanings.items() if kind != "stop")
