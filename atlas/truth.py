"""Is a caption true of a slice? For one pair, and for all pairs of a batch in one expression."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from atlas.facts import VISIBLE_MM2, Facts, age_band, without_side
from atlas.structures import structures, summed

POSITION_TOLERANCE_MM = 2.0
AGE_TOLERANCE_YEARS = 3.0
CATEGORIES = ("plane", "modality", "level", "sex", "health", "handedness", "field_strength")


@lru_cache(maxsize=4096)
def _code(value: object) -> int:
    """A number for a word that is the same in every process; 0 is kept for "not stated"."""
    value = float(value) if isinstance(value, int | float) else value  # 3 tesla are 3.0 tesla
    return zlib.crc32(str(value).encode()) or 1


@dataclass(frozen=True)
class FacetTable:
    """Slices as arrays: codes (M, C) int64 of the categories and of the sizes of visible structures, -1
    unknown; position and age (M,) float, nan unknown; areas (M, R) float32 in mm2 with the names of the R
    columns, sides apart and together."""

    codes: np.ndarray
    position: np.ndarray
    age: np.ndarray
    areas: np.ndarray
    columns: dict[str, int]

    def take(self, rows: Sequence[int] | np.ndarray) -> FacetTable:
        """The table of some of the slices."""
        return FacetTable(
            self.codes[rows], self.position[rows], self.age[rows], self.areas[rows], self.columns
        )


@dataclass(frozen=True)
class MentionTable:
    """Captions as arrays: codes (N, C) int64, 0 not stated; position (N,), ages from and below (N, 2) float,
    nan not stated; regions: the names stated by each caption."""

    codes: np.ndarray
    position: np.ndarray
    ages: np.ndarray
    regions: list[tuple[str, ...]]

    def take(self, rows: Sequence[int] | np.ndarray) -> MentionTable:
        """The table of some of the captions."""
        return MentionTable(
            self.codes[rows], self.position[rows], self.ages[rows], [self.regions[int(row)] for row in rows]
        )


def facet_table(facts: Sequence[Facts]) -> FacetTable:
    """The facts of M slices as arrays, to be made once for a whole data set."""
    codes = np.full((len(facts), len(CATEGORIES) + len(structures())), -1, np.int64)
    size_column = {name: column for column, name in enumerate(structures(), len(CATEGORIES))}
    position = np.full(len(facts), np.nan)
    age = np.full(len(facts), np.nan)
    columns: dict[str, int] = {}
    entries: list[tuple[int, int, float]] = []
    for row, slice_ in enumerate(facts):
        known = slice_.known
        values = (slice_.plane, slice_.modality, slice_.level, *(known.get(name) for name in CATEGORIES[3:]))
        codes[row, : len(CATEGORIES)] = [-1 if value is None else _code(value) for value in values]
        if slice_.sizes:
            for name, area in summed(slice_.regions).items():
                if name in slice_.sizes and area >= VISIBLE_MM2:
                    codes[row, size_column[name]] = _code(slice_.sizes[name])
        if slice_.position_mm is not None:
            position[row] = slice_.position_mm
        if known.get("age") is not None:
            age[row] = known["age"]
        for name, area in slice_.regions.items():
            entries.append((row, columns.setdefault(name, len(columns)), area))
            bare = without_side(name)
            if bare != name:
                entries.append((row, columns.setdefault(bare, len(columns)), area))
    areas = np.zeros((len(facts), len(columns)), np.float32)
    if entries:
        rows, cols, values_mm2 = (np.array(column) for column in zip(*entries, strict=True))
        np.add.at(areas, (rows.astype(np.int64), cols.astype(np.int64)), values_mm2.astype(np.float32))
    return FacetTable(codes, position, age, areas, columns)


def mention_table(mentioned: Sequence[Mapping[str, Any]]) -> MentionTable:
    """What N captions state, as arrays."""
    codes = np.zeros((len(mentioned), len(CATEGORIES) + len(structures())), np.int64)
    size_column = {name: column for column, name in enumerate(structures(), len(CATEGORIES))}
    position = np.full(len(mentioned), np.nan)
    ages = np.full((len(mentioned), 2), np.nan)
    for row, mention in enumerate(mentioned):
        for column, name in enumerate(CATEGORIES):
            if mention.get(name) is not None:
                codes[row, column] = _code(mention[name])
        for name, size in mention.get("sizes", {}).items():
            codes[row, size_column[name]] = _code(size)
        if mention.get("position_mm") is not None:
            position[row] = mention["position_mm"]
        low, high = -np.inf, np.inf
        if mention.get("age_band") is not None:
            low, high = age_band(mention["age_band"])
        if mention.get("age") is not None:
            low = max(low, mention["age"] - AGE_TOLERANCE_YEARS)
            # the upper end of an exact age is included, that of a band is not
            high = min(high, float(np.nextafter(mention["age"] + AGE_TOLERANCE_YEARS, np.inf)))
        if np.isfinite(low):
            ages[row] = low, high
    return MentionTable(codes, position, ages, [tuple(mention.get("regions", ())) for mention in mentioned])


def truth_of_tables(mentions: MentionTable, facets: FacetTable) -> np.ndarray:
    """(N, M) bool: is caption n true of slice m? A stated fact that is not known of the slice is not true."""
    true = np.ones((len(mentions.codes), len(facets.codes)), dtype=bool)
    for stated, known in zip(mentions.codes.T, facets.codes.T, strict=True):  # (N,), (M,) of a category
        if stated.any():
            true &= (stated[:, None] == known[None]) | (stated == 0)[:, None]
    with np.errstate(invalid="ignore"):
        far = ~(np.abs(mentions.position[:, None] - facets.position[None]) <= POSITION_TOLERANCE_MM)
        low, high = mentions.ages[:, :1], mentions.ages[:, 1:]
        other_age = ~((facets.age[None] >= low) & (facets.age[None] < high))
    true &= ~(far & np.isfinite(mentions.position)[:, None])
    true &= ~(other_age & np.isfinite(low))
    names = sorted({name for regions in mentions.regions for name in regions})
    if names:
        place = {name: column for column, name in enumerate(names)}
        stated_regions = np.zeros((len(mentions.regions), len(names)), np.float32)
        for row, regions in enumerate(mentions.regions):
            for name in regions:
                stated_regions[row, place[name]] = 1.0
        hidden = np.ones((len(names), len(facets.position)), np.float32)
        for name, row in place.items():
            if name in facets.columns:
                hidden[row] = facets.areas[:, facets.columns[name]] < VISIBLE_MM2
        true &= stated_regions @ hidden == 0  # (N, K) x (K, M): how many stated regions are hidden
    return true


def truth_matrix(mentioned: Sequence[Mapping[str, Any]], facts: Sequence[Facts]) -> np.ndarray:
    """(N, M) bool: is the caption that states mentioned[n] true of the slice facts[m]?

    Words must be equal, positions within 2 mm, ages within 3 years or in the band, regions at least 20 mm2,
    and so the structures whose size is stated; a region named without side may be on either side.
    """
    return truth_of_tables(mention_table(mentioned), facet_table(facts))


def truth(mentioned: Mapping[str, Any], facts: Facts) -> bool:
    """Is the caption that states this true of the slice with these facts? See truth_matrix."""
    return bool(truth_matrix([mentioned], [facts])[0, 0])
