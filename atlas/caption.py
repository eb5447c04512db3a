"""Captions from facts: which facts are stated, in which words, and what exactly was stated."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from atlas.errors import PromptError
from atlas.facts import (
    AXIS,
    Facts,
    describe,
    level_at,
    level_named,
    region_names,
    without_side,
    wordings,
)
from atlas.statement import OLDEST_YEARS, number, shown_sizes, state
from atlas.truth import facet_table, mention_table, truth, truth_matrix, truth_of_tables

__all__ = [
    "Caption",
    "Facts",
    "caption",
    "captions",
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
    "visible",
    "sizes",
    "scanner",
)  # of a wording's parts


@dataclass(frozen=True)
class Caption:
    """A text and what it states: any of plane, modality, level, position_mm, age, age_band, sex, health,
    handedness, field_strength, regions (a list of names), and sizes (structure -> "small", "normal",
    "enlarged")."""

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
    stated = state(facts, rng)
    return Caption(_said(stated, form, rng), stated)


def captions(facts: Facts, *, seed: int, n: int) -> list[Caption]:
    """n captions of one slice in different wordings, the styles by turns; the same for the same seed.

    Two texts are equal only where little is known, so that no other was found in ten tries.
    """
    rng = random.Random(seed)
    styles: dict[str, list[str]] = {}
    for row in rng.sample(wordings()["wording"], len(wordings()["wording"])):
        styles.setdefault(row["style"], []).append(row["name"])
    made: list[Caption] = []
    for k in range(n):
        names = list(styles.values())[k % len(styles)]
        for _ in range(10):
            one = caption(facts, seed=rng.getrandbits(32), wording=names[k // len(styles) % len(names)])
            if one.text not in [other.text for other in made]:
                break
        made.append(one)
    return made


def restate(mentioned: Mapping[str, Any], *, seed: int) -> Caption:
    """A caption that states all of `mentioned`, such as a prompt's: free words in the training's wordings.

    A place in millimetres is named as well: CLIP reads digits worse than names. Raises PromptError without a
    plane.
    """
    if mentioned.get("plane") is None:
        raise PromptError("no plane is mentioned, so nothing can be said of the slice; give the plane")
    stated = dict(mentioned)
    if stated.get("position_mm") is not None and stated.get("level") is None:
        stated["level"] = level_at(stated["plane"], stated["position_mm"])
    rng = random.Random(seed)
    return Caption(_said(stated, _form(None, rng), rng), stated)


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
        be = "is" if len(stated["regions"]) == 1 else "are"
        said["visible"] = rng.choice(table["regions"]["sentence"]).format(regions=said["regions"], be=be)
    if "sizes" in stated:
        said["sizes"] = _sizes(stated, style, rng)
    if "field_strength" in stated:
        tesla = f"{stated['field_strength']:g}"
        said["scanner"] = rng.choice(table["field_strength"]["said"]).format(tesla=tesla)
    return _joined(form["parts"], said)


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


def _sizes(stated: Mapping[str, Any], style: str, rng: random.Random) -> str:
    """Sizes in words: "enlarged lateral ventricles and small hippocampi for her age"."""
    table = wordings()
    text = _listed([rng.choice(table["size"][size][name]) for name, size in stated["sizes"].items()])
    if rng.random() >= table["chance"]["size_for_age"]:
        return text
    sex = stated.get("sex")
    form = rng.choice(table["size_for_age"][style]["her" if sex else "nobody"])
    return f"{text} {form.format(pronoun=table['pronoun'][sex or 'unknown'])}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


@lru_cache(maxsize=256)
def _slots(part: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{(\w+)\}", part))


def _joined(parts: list[str], said: dict[str, str]) -> str:
    """The parts of a wording that have something to say, with tidy spaces, commas, articles and capitals."""
    text = ""
    for part in parts:
        slots = _slots(part)
        if not slots or any(said[slot] for slot in slots):
            text += part.format(**said)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r" ([,.;:])", r"\1", text)
    text = re.sub(r"[,;](?=[,.;:])", "", text).rstrip(" ,;:").lstrip(" ,.;:")
    text = re.sub(r"\ba (?=[aeio]|un|8|11\b|11-|18\b|18-)", "an ", text)
    if parts[-1] == ".":
        text = re.sub(r"(?:^|\. )[a-z]", lambda match: match.group().upper(), text)
    return text


def keywords(facts: Facts) -> tuple[str, ...]:
    """The facts of a slice as keywords in canonical words: plane, contrast, level, position, person, sizes,
    regions.

    The regions are the five with the largest visible area that a caption may name.
    """
    known, dull = facts.known, wordings()["regions"]["dull"]
    words = [word for word in (facts.plane, facts.modality, facts.level) if word]
    if facts.plane is not None and facts.position_mm is not None:
        words.append(f"{AXIS[facts.plane]} {round(facts.position_mm)} mm")
    words += [known[name] for name in ("health", "sex") if known.get(name) in wordings()[name]]
    age = number(known.get("age"), OLDEST_YEARS)
    if age is not None:
        words.append(f"{round(age)} years")
    words += [f"{size} {structure}" for structure, size in shown_sizes(facts).items()]
    vocabulary = region_names()
    named = [
        name for name in facts.regions if without_side(name) in vocabulary and without_side(name) not in dull
    ]
    return tuple(words + sorted(named, key=lambda name: (-facts.regions[name], name))[:5])
