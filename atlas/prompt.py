"""A prompt read into facts: what was asked for, and the words that were not understood."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from atlas.denial import read_denial
from atlas.errors import PromptError
from atlas.facts import AXIS, VISIBLE_MM2, Facts, age_band
from atlas.phrases import WORD, known_phrases, longest_phrase, suggestions
from atlas.quantities import Quantities, read_quantities
from atlas.sides import sides_in_front

PLANE_OF_AXIS = {axis: plane for plane, axis in AXIS.items()}
WRITTEN = {  # patterns that are replaced before anything is read
    r"[‐-―−]": "-",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    r"\bw/o\b": "without",
    r"\bw/": "with ",
    r"\b([lr]t?)\.(?=\s*[a-z])": r"\1 ",  # "lt. thalamus"
    r"\b(t[12]|pd)[\s-]+\*": r"\1*",
}


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
    each other the first counts and the other is reported as unknown. PromptError for an empty prompt, and for
    what would else be read as something it is not: an absence, a contrast that cannot be shown, "over 70".
    """
    if not text.strip():
        raise PromptError(
            'the prompt is empty; say for example "axial T1 slice at the level of the thalamus"'
        )
    reading = text.lower()
    for written, meant in WRITTEN.items():
        reading = re.sub(written, meant, reading)
    found = read_quantities(reading)
    stated, unused = found.stated, found.unused
    tokens = [(match.group(), match.start()) for match in re.finditer(rf"{WORD}|[,.;:()\x00]", found.text)]
    tokens = sides_in_front(tokens)
    words = [word for word, _ in tokens]
    plane = _plane_of(words) or PLANE_OF_AXIS.get(found.axis)
    if plane is not None:
        stated["plane"] = plane
    if found.place is not None:
        _state_position(stated, found)
    at = 0
    while at < len(words):
        length, meanings = longest_phrase(words, at, stated.get("plane"))
        said = " ".join(words[at : at + max(length, 1)])
        if "refused" in meanings:
            raise PromptError(f"{said!r}: {meanings['refused']}")
        if "denial" in meanings:
            denied = read_denial(words, at, at + length, stated.get("plane"), opposite=meanings["denial"])
            unused += [(tokens[place][1], word) for place, word in denied.unknown]
            for meaning in denied.meanings:
                if not _state(stated, meaning, in_place=False):
                    unused.append((tokens[at][1], " ".join(words[at : denied.end])))
            at = denied.end
            continue
        if "relation" in meanings:
            _refuse_beside(words, at, at + length, stated.get("plane"))
        in_place = _says_place(words, at, at + length)
        if said[0].isalnum() and (not length or not _state(stated, meanings, in_place=in_place)):
            unused.append((tokens[at][1], said))
        at += max(length, 1)
    unknown = tuple(dict.fromkeys(word for _, word in sorted(unused)))
    return Prompt(text, _facts(stated), unknown, suggestions(unknown), stated)


def _state_position(stated: dict[str, Any], found: Quantities) -> None:
    """Add the coordinate, or name it as unused where it lies along another axis than the plane's."""
    if "plane" not in stated:
        raise PromptError(
            f"'{found.position_mm:+g} mm' is along no axis; say for example 'z = {found.position_mm:g} mm'"
        )
    if found.axis in ("", AXIS[stated["plane"]]):
        stated["position_mm"] = found.position_mm
    else:
        said = f"{found.axis} = {found.position_mm:g} in a {stated['plane']} slice"
        found.unused.append((found.place or 0, said))


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


def _refuse_beside(words: list[str], start: int, at: int, plane: str | None) -> None:
    """PromptError if words[start:at], such as "above", are followed by a structure."""
    while at < len(words):
        length, meanings = longest_phrase(words, at, plane)
        if not length or set(meanings) - {"stop"}:
            break
        at += length
    else:
        return
    if {"region", "level", "view"} & set(meanings):
        said = " ".join(words[start : at + length])
        raise PromptError(
            f"a place {said!r} cannot be read; name the level itself, or say a place in millimetres, for "
            "example 'z = 20 mm' or '12 mm above the AC'"
        )


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
    if {"relation", "disease"} & set(meanings):
        return False
    if "age_band" in meanings:
        return _state_band(stated, meanings["age_band"])
    if "level" in meanings and (in_place or "region" not in meanings or "part" in meanings):
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
        if (in_place or meanings.get("part")) and "level" not in stated and stated.get("plane") in around:
            stated["level"] = around[stated["plane"]]
        return True
    return all(stated.setdefault(kind, value) == value for kind, value in meanings.items() if kind != "stop")


def _state_band(stated: dict[str, Any], band: str) -> bool:
    """Add a band of ages, the narrower of two; False if the age or the other band is not within it."""
    low, high = age_band(band)
    if "age" in stated:
        return low <= int(stated["age"]) < high
    first_low, first_high = age_band(stated.get("age_band", band))
    if first_low <= low and high <= first_high:
        stated["age_band"] = band
        return True
    return low <= first_low and first_high <= high
