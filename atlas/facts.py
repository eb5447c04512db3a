"""What is known of a slice, and the named levels of the brain along the three axes."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from atlas.atlas import Atlas
    from atlas.slices import Slice

TABLES = Path(__file__).parent / "tables"
VISIBLE_MM2 = 20.0  # a region with less area than this in a slice does not count as visible
AXIS = {"sagittal": "x", "coronal": "y", "axial": "z"}


@dataclass(frozen=True)
class Facts:
    """What is known of one slice, or what a prompt asks for; None and missing keys mean not known.

    plane: "axial", "coronal" or "sagittal". position_mm: MNI z, y or x. modality: "T1", "T2", "PD", "FLAIR".
    level: a name of tables/levels.tsv. regions: name with side -> visible area in mm2.
    volumes: name with side, or structure of tables/structures.tsv -> native mm3. percentiles: structure -> 0
    to 100 among people of this age and sex (atlas.cohort). sizes: structure -> "small", "normal", "enlarged".
    known: age (years), sex ("female", "male"), handedness, site (never said), field_strength (tesla), health
    ("healthy").
    """

    plane: str | None = None
    position_mm: float | None = None
    modality: str | None = None
    level: str | None = None
    regions: dict[str, float] = field(default_factory=dict)
    volumes: dict[str, float] = field(default_factory=dict)
    percentiles: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary of these facts that json can write."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Facts:
        """The facts that to_dict wrote; unknown keys are a TypeError."""
        return cls(**record)


@dataclass(frozen=True)
class Level:
    """One named interval of positions: from_mm <= position < to_mm.

    said: nouns for captions, the name first. views: words that say plane and level at once ("midsagittal").
    understood: further words for it in a prompt.
    """

    plane: str
    from_mm: float
    to_mm: float
    name: str
    said: tuple[str, ...]
    views: tuple[str, ...]
    understood: tuple[str, ...]


@lru_cache(maxsize=1)
def levels() -> dict[str, tuple[Level, ...]]:
    """The levels of every plane in order of position, from tables/levels.tsv; together they leave no gap."""

    def words(cell: str) -> tuple[str, ...]:
        return tuple(word for word in cell.split(";") if word)

    table: dict[str, list[Level]] = {}
    with (TABLES / "levels.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            level = Level(
                plane=row["plane"],
                from_mm=float(row["from_mm"]),
                to_mm=float(row["to_mm"]),
                name=row["name"],
                said=(row["name"], *words(row["said"])),
                views=words(row["views"] or ""),
                understood=words(row["understood"] or ""),
            )
            table.setdefault(level.plane, []).append(level)
    return {plane: tuple(rows) for plane, rows in table.items()}


def level_at(plane: str, position_mm: float) -> str:
    """The name of the level at a position (MNI mm); beyond the last level the nearest one."""
    rows = levels()[plane]
    for level in rows:
        if position_mm < level.to_mm:
            return level.name
    return rows[-1].name


def level_named(plane: str, name: str) -> Level:
    """The level of a plane with this name; KeyError if the plane has none such."""
    for level in levels()[plane]:
        if level.name == name:
            return level
    raise KeyError(f"{plane} has no level {name!r}")


@lru_cache(maxsize=1)
def wordings() -> dict[str, Any]:
    """The tables of tables/wordings.toml."""
    return tomllib.loads((TABLES / "wordings.toml").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def atlas_rows() -> tuple[dict[str, str], ...]:
    """The rows (id, name, side, parent) of all atlas tables, which are those with these columns."""
    rows: list[dict[str, str]] = []
    for path in sorted(TABLES.glob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if {"id", "name", "side", "parent"} <= set(reader.fieldnames or ()):
                rows += reader
    return tuple(rows)


@lru_cache(maxsize=1)
def region_names() -> dict[str, frozenset[str]]:
    """Region name without side -> the sides it has ("left", "right", ""), from the atlas tables."""
    names: dict[str, set[str]] = {}
    for row in atlas_rows():
        names.setdefault(row["name"], set()).add(row["side"] or "")
    return {name: frozenset(sides) for name, sides in names.items()}


def with_side(name: str, side: str) -> str:
    """A region's name with its side: "left hippocampus"; without a side the name itself."""
    return f"{side} {name}" if side else name


def without_side(name: str) -> str:
    """A region's name without its side: "left hippocampus" -> "hippocampus"."""
    side, _, rest = name.partition(" ")
    return rest if side in ("left", "right") else name


def mirrored(facts: Facts) -> Facts:
    """The facts of the same slice of a brain whose sides have changed places.

    Regions and volumes change sides; so does the position, and with it the level, in sagittal planes. What
    hand a person with such a brain would use is not known.
    """

    def swapped(amounts: Mapping[str, float]) -> dict[str, float]:
        other = {"left": "right", "right": "left"}
        named = {}
        for name, amount in amounts.items():
            side, _, rest = name.partition(" ")
            named[f"{other[side]} {rest}" if side in other else name] = amount
        return dict(sorted(named.items()))

    position_mm, level = facts.position_mm, facts.level
    if facts.plane == "sagittal" and position_mm is not None:
        position_mm = 0.0 - position_mm  # not -0.0
        level = level_at("sagittal", position_mm) if level is not None else None
    elif facts.plane == "sagittal" and level is not None:
        side, _, rest = level.partition(" ")
        level = {"left": f"right {rest}", "right": f"left {rest}"}.get(side, level)
    return replace(
        facts,
        position_mm=position_mm,
        level=level,
        regions=swapped(facts.regions),
        volumes=swapped(facts.volumes),
        known={name: value for name, value in facts.known.items() if name != "handedness"},
    )


def age_band(name: str) -> tuple[float, float]:
    """The ages of a band in years, from and below: "70s", "young", "middle-aged", "elderly"."""
    bands = wordings()["bands"]
    if name in bands:
        return float(bands[name][0]), float(bands[name][1])
    start = float(name.removesuffix("s"))
    return start, start + 10.0


def describe(
    slice_: Slice,
    atlas: Atlas,
    *,
    modality: str,
    known: Mapping[str, Any],
    volumes: Mapping[str, float],
    spacing_mm: float,
    source: str,
) -> Facts:
    """The facts of a slice: its place in words, and the area in mm2 of every region visible in it.

    Regions below 20 mm2 are left out. Parts of a region with the same name and side are added up.
    """
    counts = np.bincount(slice_.labels.ravel().astype(np.int64), minlength=1)
    areas: dict[str, float] = {}
    for region in atlas.regions:
        if region.id < len(counts) and counts[region.id]:
            name = with_side(region.name, region.side)
            areas[name] = areas.get(name, 0.0) + float(counts[region.id]) * spacing_mm**2
    visible = {name: round(area, 1) for name, area in sorted(areas.items()) if area >= VISIBLE_MM2}
    return Facts(
        plane=slice_.plane,
        position_mm=round(float(slice_.position_mm), 3),
        modality=modality,
        level=level_at(slice_.plane, slice_.position_mm),
        regions=visible,
        volumes=dict(volumes),
        known=dict(known),
        source=source,
    )
