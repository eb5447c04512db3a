"""Facets: which pairs of slices have the same plane, contrast, place and age, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlas.facts import age_band
from atlas.slices import MODALITIES, PLANES
from brainclip.evaluate.figures import rounded
from brainclip.evaluate.prompts import BANDS, RANGE_MM
from brainclip.evaluate.wanted import Wanted

FACETS = ("plane", "contrast", "place", "age")
TABLES = ("place", "contrast", "age")  # plane and place are one table
EQUAL_MM, OTHER_MM = 6.0, 20.0  # nearer is the same place, farther another one
EQUAL_YEARS, OTHER_YEARS = 10.0, 25.0
THIRDS = {  # of the positions that prompts ask for, in the sagittal plane of the distance from the midline
    "axial": ("low", "middle", "high"),
    "coronal": ("back", "middle", "front"),
    "sagittal": ("at the midline", "halfway", "at the side"),
}
FEWEST = 5  # pairs for a mean


def agreement(first: Wanted, second: Wanted) -> dict[str, np.ndarray]:
    """Facet -> (N, M): 1 the same, -1 another, 0 neither. An age that is not known is the same as any; places
    of two planes are neither."""
    plane = np.where(first.plane[:, None] == second.plane, 1, -1)
    contrast = np.where(first.modality[:, None] == second.modality, 1, -1)
    apart = np.abs(first.position_mm[:, None] - second.position_mm)
    place = (apart <= EQUAL_MM).astype(int) - (apart > OTHER_MM)
    years = np.abs(first.age[:, None] - second.age)
    age = (~(years > EQUAL_YEARS)).astype(int) - (years > OTHER_YEARS)
    return {"plane": plane, "contrast": contrast, "place": np.where(plane > 0, place, 0), "age": age}


def alike(first: Wanted, second: Wanted) -> np.ndarray:
    """(N, M) bool: which pairs have equal facts."""
    return np.all([table == 1 for table in agreement(first, second).values()], axis=0)


def differing(facet: str, first: Wanted, second: Wanted) -> np.ndarray:
    """(N, M) bool: which pairs differ in one facet alone; in another plane, whatever the place."""
    tables = agreement(first, second)
    others = [name for name in FACETS if name != facet and (facet, name) != ("plane", "place")]
    return np.all([tables[facet] == -1, *(tables[name] == 1 for name in others)], axis=0)


def values_of(facet: str, wanted: Wanted) -> np.ndarray:
    """(N,) names: of TABLES' facets the value of each slice, "" where it is not known."""
    if facet == "contrast":
        return wanted.modality
    if facet == "age":
        return np.array([band_of(age) for age in wanted.age])
    return np.array([_third(str(p), mm) for p, mm in zip(wanted.plane, wanted.position_mm, strict=True)])


def names_of(facet: str) -> Sequence[str]:
    """All values of a facet in their order."""
    if facet == "contrast":
        return MODALITIES
    return BANDS if facet == "age" else [f"{plane}, {third}" for plane in PLANES for third in THIRDS[plane]]


def facet_table(facet: str, cosines: np.ndarray, rows: Wanted, columns: Wanted) -> list[list[float | None]]:
    """Mean cosine (N, M) of slices with each value of a facet (row) to those with each value (column), the
    other facets equal as far as they can be; None for fewer than 5 pairs. A person is not compared with
    herself."""
    tables = agreement(rows, columns)
    free = {"place": ("plane", "place")}.get(facet, (facet,))
    kept = np.all([tables[name] == 1 for name in FACETS if name not in free], axis=0)
    if rows.subject is not None and columns.subject is not None:
        kept &= rows.subject[:, None] != columns.subject
    here, there = values_of(facet, rows), values_of(facet, columns)
    result: list[list[float | None]] = []
    for name in names_of(facet):
        parts = [cosines[kept & (here == name)[:, None] & (there == other)] for other in names_of(facet)]
        result.append([rounded(part.mean()) if len(part) >= FEWEST else None for part in parts])
    return result


def band_of(age: float) -> str:
    """The age band of an age in years: "young", "middle-aged", "elderly"; "" for an age that is not known."""
    return next((name for name in BANDS if age_band(name)[0] <= age < age_band(name)[1]), "")


def _third(plane: str, position_mm: float) -> str:
    low, high = RANGE_MM[plane]
    if plane == "sagittal":
        low, position_mm = 0, abs(position_mm)
    third = int(np.clip(3 * (position_mm - low) / (high - low), 0, 2))
    return f"{plane}, {THIRDS[plane][third]}"
