"""The evaluation's prompts: fixed, seeded, in wordings of their own that no training caption has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from atlas.facts import AXIS, Level, levels
from atlas.slices import MODALITIES, PLANES

SEED = 20
AGES = (20, 85)
WIDEST_MM = 25.0  # levels wider than this are the open ends, whose centre is not a place in the brain
RANGE_MM = {
    "axial": (-36, 62),
    "coronal": (-84, 54),
    "sagittal": (-56, 56),
}  # brain enough to see on every slice
VENTRICLES_MM = (10.0, 25.0)  # axial positions at which the lateral ventricles show the age
AGE_SHARE = 0.25  # of the prompts: axial, at the ventricles, with an exact age

# {who} carries age and sex, {where} the level or coordinate. Synonyms of plane and contrast are picked apart.
WORDINGS = (
    "{plane} view of {who}, {modality} contrast, {where}",
    "show me the brain of {who} {where}: {modality}, {plane}",
    "{modality} MRI cut in the {plane} plane {where}; we scanned {who}",
    "please draw one {plane} {modality} picture {where} for {who}",
    "how does the brain of {who} look {where} on {plane} {modality}?",
    "{who}; {modality} sequence; {plane} orientation; {where}",
    "I need {plane} anatomy {where}, {modality}, from {who}",
    "{plane} cross-section {where} in {who} ({modality})",
)
PLANE_WORDS = {"axial": ("axial", "transverse", "axial"), "coronal": ("coronal",), "sagittal": ("sagittal",)}
MODALITY_WORDS = {
    "T1": ("T1", "T1-weighted"),
    "T2": ("T2", "T2-weighted"),
    "PD": ("PD", "proton density"),
    "FLAIR": ("FLAIR", "T2-FLAIR"),
}
LEVEL_WORDS = (
    "around the level of the {name}",
    "level with the {name}",
    "at the height of the {name}",
    "passing through the {name} level",
)
COORDINATE_WORDS = (
    "near {axis} = {mm} mm",
    "at the MNI coordinate {axis} = {mm} mm",
    "placed at {axis} {mm} mm",
)
SEX_WORDS = {
    "female": ("woman", "female subject"),
    "male": ("man", "male subject"),
    None: ("adult", "volunteer"),
}
WHO_WORDS = {
    "exact": ("a {sex} who is {age} years old", "a {age}-year-old {sex}", "a healthy {age}-year-old {sex}"),
    "band": ("a {band} {sex}", "a healthy {band} {sex}"),
    "none": ("a {sex}", "a healthy {sex}"),
}
BANDS = ("young", "middle-aged", "elderly")


@dataclass(frozen=True)
class Asked:
    """A prompt and what it asks for. position_mm: as named in mm, or the centre of the named level.
    age: in years, exact ages only. sex: "female", "male" or None."""

    text: str
    plane: str
    modality: str
    position_mm: float
    level: str | None
    age: int | None
    sex: str | None

    @property
    def at_ventricles(self) -> bool:
        """Whether the prompt is for an axial slice through the lateral ventricles, where age is judged."""
        return self.plane == "axial" and VENTRICLES_MM[0] <= self.position_mm <= VENTRICLES_MM[1]


def prompts(n: int, *, modalities: Sequence[str] = MODALITIES, seed: int = SEED) -> list[Asked]:
    """n prompts over plane x contrast x level (named or in mm) x age x sex; the same for the same arguments.

    A quarter are axial slices at the ventricles with exact ages spread evenly from 20 to 85. Plane and
    contrast are balanced in the rest, contrast in the quarter.
    """
    rng = random.Random(seed)
    aged = round(AGE_SHARE * n)
    asked = []
    for k in range(aged):
        age = round(AGES[0] + (AGES[1] - AGES[0]) * (k + 0.5) / aged)
        modality = modalities[k % len(modalities)]
        asked.append(_asked(rng, "axial", modality, at_ventricles=True, age=age))
    kinds = [(plane, modality) for plane in PLANES for modality in modalities]
    for k in range(n - aged):
        asked.append(_asked(rng, *kinds[k % len(kinds)], at_ventricles=False, age=None))
    return asked


def _asked(rng: random.Random, plane: str, modality: str, *, at_ventricles: bool, age: int | None) -> Asked:
    """One prompt; an age of None is drawn, and left out of half of the prompts."""
    low, high = VENTRICLES_MM if at_ventricles else RANGE_MM[plane]
    level: Level | None = None
    if rng.random() < 0.6:
        level = rng.choice([row for row in levels()[plane] if low <= _centre(row) <= high and _narrow(row)])
        place, where = _centre(level), rng.choice(LEVEL_WORDS).format(name=level.name)
    else:
        place = float(rng.randint(round(low), round(high)))
        where = rng.choice(COORDINATE_WORDS).format(axis=AXIS[plane], mm=round(place))
    sex = rng.choice(("female", "male", None))
    kind = "exact" if age is not None else rng.choice(("exact", "exact", "band", "none", "none"))
    if kind == "exact" and age is None:
        age = rng.randint(*AGES)
    who = rng.choice(WHO_WORDS[kind]).format(sex=rng.choice(SEX_WORDS[sex]), age=age, band=rng.choice(BANDS))
    words = {"plane": rng.choice(PLANE_WORDS[plane]), "modality": rng.choice(MODALITY_WORDS[modality])}
    text = rng.choice(WORDINGS).format(**words, who=_article(who), where=where)
    return Asked(text, plane, modality, place, level.name if level else None, age, sex)


def _centre(level: Level) -> float:
    return (level.from_mm + level.to_mm) / 2


def _narrow(level: Level) -> bool:
    return level.to_mm - level.from_mm <= WIDEST_MM


def _article(text: str) -> str:
    """The text with "a" as "an" where it is said so."""
    starts = ("a adult", "a elderly", "a 8")
    return "an" + text[1:] if text.startswith(starts) else text
