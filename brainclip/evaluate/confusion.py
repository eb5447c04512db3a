"""Confusion: what was asked against what the judge says, for pictures and for real slices by their facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas.facts import level_at, levels, without_side
from atlas.slices import MODALITIES, PLANES
from brainclip.evaluate.facets import band_of
from brainclip.evaluate.figures import proportion
from brainclip.evaluate.judge import Verdicts, judged_position
from brainclip.evaluate.prompts import BANDS
from brainclip.evaluate.wanted import Wanted

SEXES = ("female", "male")
ADULT = (18, 119)  # years of the bands; the judge may guess beyond


def confusions(verdicts: Verdicts, wanted: Wanted) -> dict[str, dict[str, Any]]:
    """Facet -> `confusion` of N slices: plane, contrast, level in each plane, age band, sex.

    Levels where the plane was judged right, sagittal ones without their side, which one slice does not show.
    Age bands at all places and in all planes. Slices of which a facet is not known are left out of it.
    """
    right = verdicts.plane == wanted.plane
    found = {
        "plane": confusion(wanted.plane, verdicts.plane, PLANES, wanted.subject),
        "contrast": confusion(wanted.modality, verdicts.modality, MODALITIES, wanted.subject),
    }
    for plane in PLANES:
        rows = np.flatnonzero(right & (wanted.plane == plane))
        asked = [_level(plane, judged_position(plane, mm)) for mm in wanted.position_mm[rows]]
        seen = [_level(plane, mm) for mm in verdicts.position_mm[rows]]
        people = None if wanted.subject is None else wanted.subject[rows]
        found[f"{plane} level"] = confusion(np.array(asked), np.array(seen), level_names(plane), people)
    judged_age = verdicts.age.clip(*ADULT)
    bands = [np.array([band_of(age) for age in ages]) for ages in (wanted.age, judged_age)]
    found["age band"] = confusion(bands[0], bands[1], BANDS, wanted.subject)
    sexes = [np.array([_sex(chance) for chance in said]) for said in (wanted.female, verdicts.female)]
    found["sex"] = confusion(sexes[0], sexes[1], SEXES, wanted.subject)
    return found


def confusion(
    wanted: np.ndarray, judged: np.ndarray, labels: Sequence[str], subjects: np.ndarray | None = None
) -> dict[str, Any]:
    """labels, counts (wanted by row, judged by column) and the share "right" of words (N,); a word that is no
    label, such as "" for what is not known, leaves its slice out."""
    known = np.isin(wanted, labels) & np.isin(judged, labels)
    wanted, judged = wanted[known], judged[known]
    place = {label: k for k, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, ([place[w] for w in wanted], [place[w] for w in judged]), 1)
    people = None if subjects is None else subjects[known]
    return {"labels": list(labels), "counts": counts.tolist(), "right": proportion(wanted == judged, people)}


def level_names(plane: str) -> list[str]:
    """The levels of a plane in their order, sagittal ones from the midline outwards without their side."""
    rows = levels()[plane]
    if plane == "sagittal":
        rows = tuple(row for row in rows if row.to_mm > 0)
    return list(dict.fromkeys(without_side(row.name) for row in rows))


def _level(plane: str, position_mm: float) -> str:
    return without_side(level_at(plane, max(0.0, position_mm) if plane == "sagittal" else position_mm))


def _sex(chance: float) -> str:
    """The sex with this chance of being female; "" where it is not known."""
    return "" if np.isnan(chance) else SEXES[int(chance <= 0.5)]
