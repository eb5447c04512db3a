"""Which of a slice's facts a caption states, drawn at random; how often is in tables/wordings.toml."""

from __future__ import annotations

import math
import random
from typing import Any

from atlas.facts import VISIBLE_MM2, Facts, age_band, region_names, without_side, wordings
from atlas.structures import summed

MOST_NAMES = 3  # of regions and structures in one caption
FURTHER = (("handedness",), ("field_strength",), ("level", "position_mm"))  # a second one costs a name
OLDEST_YEARS, STRONGEST_TESLA = 120.0, 20.0  # a number beyond is a mistake of a table and is not stated


def state(facts: Facts, rng: random.Random) -> dict[str, Any]:
    """What a caption says of a slice: a part of the facts, in the form of Caption.mentioned.

    Nothing is stated that is not known or that there are no words for: free text, such as a site, never is.
    """
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
    age = number(known.get("age"), OLDEST_YEARS)
    if age is not None and drawn("age"):
        _state_age(age, stated, rng)
    for name in ("sex", "health", "handedness"):
        value = known.get(name)
        if value is not None and drawn(name) and value in wordings()[name]:
            stated[name] = value
    tesla = number(known.get("field_strength"), STRONGEST_TESLA)
    if tesla and drawn("field_strength"):
        stated["field_strength"] = tesla
    if facts.sizes and drawn("sizes"):
        _state_sizes(facts, stated, rng)
    if drawn("regions"):
        _state_regions(facts, stated, rng)
    return stated


def number(value: Any, most: float) -> float | None:
    """A number from 0 to `most`; None for anything else."""
    if isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= most:
        return float(value)
    return None


def shown_sizes(facts: Facts) -> dict[str, str]:
    """The sizes a caption may state: of structures large enough in the slice, and with words for them."""
    weights, least_mm2 = wordings()["size_weight"], max(VISIBLE_MM2, wordings()["regions"]["area_mm2"])
    areas = summed(facts.regions)
    return {
        name: size
        for name, size in facts.sizes.items()
        if name in weights and areas.get(name, 0.0) >= least_mm2 and size in wordings()["size"]
    }


def _state_sizes(facts: Facts, stated: dict[str, Any], rng: random.Random) -> None:
    """State the size of one structure that is visible, at times of two."""
    sizes, weights = shown_sizes(facts), wordings()["size_weight"]
    names = sorted(sizes)
    wanted = 2 if rng.random() < wordings()["chance"]["size_second"] else 1
    picked: dict[str, str] = {}
    while names and len(picked) < wanted:
        name = rng.choices(names, [weights[name] for name in names])[0]
        names.remove(name)
        picked[name] = sizes[name]
    if picked:
        stated["sizes"] = picked


def _state_regions(facts: Facts, stated: dict[str, Any], rng: random.Random) -> None:
    """State one to three regions that are visible, a third of them without their side.

    Fewer where sizes, or two of hand, scanner and both kinds of place, are stated: more would not fit into
    the 77 tokens of a usual CLIP.
    """
    table, vocabulary = wordings()["regions"], region_names()
    seen = [
        name
        for name, area in sorted(facts.regions.items())
        if area >= max(VISIBLE_MM2, table["area_mm2"])
        and without_side(name) not in table["dull"]
        and without_side(name) in vocabulary
    ]
    further = sum({*names} <= set(stated) for names in FURTHER)
    most = MOST_NAMES - len(stated.get("sizes", ())) - max(0, further - 1)
    if seen and most > 0:
        picked = rng.sample(seen, min(len(seen), rng.choice((1, 1, 2, 2, 3)), most))
        named = [without_side(name) if rng.random() < 1 / 3 else name for name in picked]
        # nothing is said twice: "thalamus", and not "thalamus and left thalamus"
        stated["regions"] = [
            name
            for name in dict.fromkeys(named)
            if without_side(name) == name or without_side(name) not in named
        ]


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
