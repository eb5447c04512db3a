"""Captions from facts: which facts are stated, in which words, and what exactly was stated."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from atlas.errors import PromptError
from atlas.facts import (
    AXIS,
    VISIBLE_MM2,
    Facts,
    age_band,
    describe,
    level_at,
    level_named,
    levels,
    region_names,
    without_side,
    wordings,
)
from atlas.truth import facet_table, mention_table, truth, truth_matrix, truth_of_tables

__all__ = [
    "Caption",
    "Facts",
    "all_words",
    "caption",
    "describe",
    "facet_table",
    "keywords",
    "level_at",
    "mention_table",
    "restate",
    "truth",
    "truth_matrix",
    "truth_of_tables",
    "wording_names",
]

SLOTS = (
    "plane",
    "modality",
    "image",
    "level",
    "position",
    "person",
    "regions",
    "seen",
    "ventricles",
    "scanner",
)  # of a wording's parts


@dataclass(frozen=True)
class Caption:
    """A text and what it states: any of plane, modality, level, position_mm, age, age_band, sex, health,
    handedness, field_strength, ventricles, and regions (a list of names)."""

    text: str
    mentioned: dict[str, Any]


def wording_names() -> tuple[str, ...]:
    """The names of the wordings that caption() takes."""
    return tuple(wording["name"] for wording in wordings()["wording"])


def caption(facts: Facts, *, seed: int, wording: str | None = None) -> Caption:
    """A caption that states some of the facts, the same for the same facts, seed and wording.

    How often a fact is stated and the words for it are in tables/wordings.toml. A fact that is not known is
    never stated. Raises PromptError for an unknown wording or facts without a plane.
    """
    if facts.plane is None:
        raise PromptError("these facts have no plane, so nothing can be said of the slice; give the plane")
    rng = random.Random(seed)
    form = _form(wording, rng)
    stated = _stated(facts, rng)
    return Caption(_said(stated, form, rng), stated)


def restate(mentioned: Mapping[str, Any], *, seed: int) -> Caption:
    """A caption that states all of `mentioned`, such as a prompt's: free words in the training's wordings.

    Raises PromptError without a plane.
    """
    if mentioned.get("plane") is None:
        raise PromptError("no plane is mentioned, so nothing can be said of the slice; give the plane")
    rng = random.Random(seed)
    return Caption(_said(mentioned, _form(None, rng), rng), dict(mentioned))


def _form(wording: str | None, rng: random.Random) -> dict[str, Any]:
    """The wording of that name, or any; PromptError for an unknown name."""
    chosen = [row for row in wordings()["wording"] if wording in (None, row["name"])]
    if not chosen:
        raise PromptError(f"unknown wording {wording!r}; known wordings: {', '.join(wording_names())}")
    return dict(rng.choice(chosen))


def _said(stated: Mapping[str, Any], form: Mapping[str, Any], rng: random.Random) -> str:
    """What is stated, in one wording, with synonyms drawn."""
    table, style, plane = wordings(), form["style"], stated["plane"]
    said = dict.fromkeys(SLOTS, "")
    said["plane"] = rng.choice(table["plane"][plane])
    said["image"] = rng.choice(table["image"][style])
    if "modality" in stated:
        said["modality"] = rng.choice(table["modality"][stated["modality"]])
    if "level" in stated:
        level = level_named(plane, stated["level"])
        # "plane" in the contrast-first wordings would give "midsagittal plane": fine
        if level.views and rng.random() < table["chance"]["view"]:
            said["plane"] = rng.choice(level.views)
        else:
            said["level"] = rng.choice(table["level"][style]).format(name=rng.choice(level.said))
    if "position_mm" in stated:
        said["position"] = _position(plane, stated["position_mm"], style, rng)
    said["person"] = _person(stated, style, rng)
    if "regions" in stated:
        article = "" if style == "telegraphic" else "the "
        said["regions"] = _listed([article + name for name in stated["regions"]])
        said["seen"] = f"{rng.choice(table['regions']['said'])} {said['regions']}"
    if "ventricles" in stated:
        said["ventricles"] = rng.choice(table["ventricles"][stated["ventricles"]])
    if "field_strength" in stated:
        tesla = f"{stated['field_strength']:g}"
        said["scanner"] = rng.choice(table["field_strength"]["said"]).format(tesla=tesla)
    return _joined(form["parts"], said)


def _stated(facts: Facts, rng: random.Random) -> dict[str, Any]:
    """The part of the facts that a caption states, drawn at random."""
    chance, known = wordings()["chance"], facts.known
    stated: dict[str, Any] = {"plane": facts.plane}

    def drawn(name: str) -> bool:
        return rng.random() < chance[name]

    bare = drawn("bare")
    if facts.modality is not None and (drawn("modality") or bare):
        stated["modality"] = facts.modality
    if bare:
        return stated
    if drawn("place"):
        by_level = facts.level is not None and (facts.position_mm is None or drawn("level"))
        if by_level:
            stated["level"] = facts.level
        if facts.position_mm is not None and (not by_level or drawn("position_too")):
            stated["position_mm"] = round(facts.position_mm)
    if known.get("age") is not None and drawn("age"):
        _state_age(float(known["age"]), stated, rng)
    for name in ("sex", "health", "handedness", "field_strength", "ventricles"):
        value = known.get(name)
        # a value there are no words for is not stated
        if value is not None and drawn(name) and (name == "field_strength" or value in wordings()[name]):
            stated[name] = value
    if drawn("regions"):
        table = wordings()["regions"]
        vocabulary = region_names()
        seen = [
            name
            for name, area in sorted(facts.regions.items())
            if area >= max(VISIBLE_MM2, table["area_mm2"])
            and without_side(name) not in table["dull"]
            and without_side(name) in vocabulary
        ]
        if seen:
            picked = rng.sample(seen, min(len(seen), rng.choice((1, 1, 2, 2, 3))))
            # one in three without the side; a name is not said twice
            stated["regions"] = list(
                dict.fromkeys(without_side(name) if rng.random() < 1 / 3 else name for name in picked)
            )
    return stated


def _state_age(age: float, stated: dict[str, Any], rng: random.Random) -> None:
    """State an age exactly, by its decade, or by a word for it; exactly where there is no such word."""
    table = wordings()
    exactly = rng.random() < table["chance"]["age_exact"]
    names = table["decades"] if rng.random() < table["chance"]["age_decade"] else table["bands"]
    fitting = [name for name in names if age_band(name)[0] <= age < age_band(name)[1]]
    if exactly or not fitting:
        stated["age"] = round(age)
    else:
        stated["age_band"] = rng.choice(fitting)


def _position(plane: str, position_mm: float, style: str, rng: random.Random) -> str:
    """A position in words: "z = 12 mm", "MNI y -20", "8 mm below the AC"."""
    table, axis = wordings()["position"], AXIS[plane]
    form = rng.choice(table[style])
    if "{words}" in form and position_mm != 0:
        positive, negative = table["words"][axis]
        return str((positive if position_mm > 0 else negative).format(mm=abs(int(position_mm))))
    if "{words}" in form:
        form = table["plain"][0]
    return str(form.format(axis=axis, mm=int(position_mm)))


def _person(stated: Mapping[str, Any], style: str, rng: random.Random) -> str:
    """The person in words: "healthy 70-year-old woman", "M 34 y"; empty if nothing is stated of her."""
    if not {"sex", "health", "age", "age_band", "handedness"} & set(stated):
        return ""
    table, sex = wordings(), stated.get("sex")
    short = style == "telegraphic"
    band = stated.get("age_band")
    kind = "exact" if "age" in stated else "plain"
    if band is not None:
        kind = "decade" if band in table["decades"] else "band"
    said = {
        "health": rng.choice(table["health"][stated["health"]]) if "health" in stated else "",
        "age": stated.get("age", ""),
        "pronoun": table["pronoun"][sex or "unknown"],
        "noun": rng.choice(table["sex"][sex] if sex else table["person"]["nobody"]),
        "sex": rng.choice(table["sex_short"][sex]) if sex else "",
        "decade": rng.choice(table["decades"][band]) if kind == "decade" else "",
        "band": rng.choice(table["band_words"][band]) if kind == "band" else "",
    }
    if "handedness" in stated:
        said["health"] += " " + rng.choice(table["handedness"][stated["handedness"]])
    return str(rng.choice(table["short" if short else "person"][kind]).format(**said)).strip()


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _joined(parts: list[str], said: dict[str, str]) -> str:
    """The parts of a wording that have something to say, with tidy spaces, commas and articles."""
    text = ""
    for part in parts:
        slots = re.findall(r"\{(\w+)\}", part)
        if not slots or any(said[slot] for slot in slots):
            text += part.format(**said)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r" ([,.])", r"\1", text)
    text = re.sub(r",(?=[,.])", "", text).rstrip(" ,").lstrip(" ,.")
    return re.sub(r"\ba (?=[aeio]|un|8|11\b|11-|18\b|18-)", "an ", text)


def _all_texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _all_texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _all_texts(value)


@lru_cache(maxsize=1)
def all_words() -> frozenset[str]:
    """Every lower-case word that some caption can contain; numbers are not listed."""
    apart = ("understood", "chance", "bands", "regions")
    table = {name: rows for name, rows in wordings().items() if name not in apart}
    texts = [re.sub(r"\{\w+\}", " ", text) for text in _all_texts(table)]
    texts = [text for text in texts if text not in set(wording_names()) | {"telegraphic", "radiologist"}]
    texts += ["left", "right", "and", "an", "x", "y", "z", *wordings()["regions"]["said"], *region_names()]
    texts += [word for rows in levels().values() for level in rows for word in (*level.said, *level.views)]
    words = (word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower()))
    return frozenset(word for word in words if not word.isdigit())


def keywords(facts: Facts) -> tuple[str, ...]:
    """The facts of a slice as keywords in canonical words: plane, contrast, level, position, person, regions.

    The regions are the five with the largest visible area that a caption may name.
    """
    known, dull = facts.known, wordings()["regions"]["dull"]
    words = [word for word in (facts.plane, facts.modality, facts.level) if word]
    if facts.plane is not None and facts.position_mm is not None:
        words.append(f"{AXIS[facts.plane]} {round(facts.position_mm)} mm")
    words += [str(known[name]) for name in ("health", "sex") if known.get(name)]
    if known.get("age") is not None:
        words.append(f"{round(known['age'])} years")
    if known.get("ventricles"):
        words.append(f"{known['ventricles']} ventricles")
    named = [name for name in facts.regions if without_side(name) not in dull]
    return tuple(words + sorted(named, key=lambda name: (-facts.regions[name], name))[:5])
