"""Structures whose size is known of a person: volumes from those of the regions, and words for sizes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache

from atlas.facts import TABLES, atlas_rows

# percentiles, from and to: "small", "normal" and "enlarged" for the age; what lies between has no word
SIZES = {"small": (0.0, 20.0), "normal": (35.0, 65.0), "enlarged": (80.0, 100.0)}


@lru_cache(maxsize=1)
def structures() -> dict[str, frozenset[str]]:
    """Structure -> the regions, without side, that it is made of; from tables/structures.tsv.

    The table names regions, and parents all of whose regions belong to the structure. A region belongs to one
    structure at most. "brain" is the whole.
    """
    table = {}
    with (TABLES / "structures.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            parents = set(filter(None, (row["parents"] or "").split(";")))
            named = set(filter(None, row["regions"].split(";")))
            children = {region["name"] for region in atlas_rows() if region["parent"] in parents}
            table[row["name"]] = frozenset(named | children)
    return table


@lru_cache(maxsize=1)
def _structure_of() -> dict[str, str]:
    """Region, with or without side -> the structure it belongs to."""
    found: dict[str, str] = {}
    for structure, regions in structures().items():
        for region in regions:
            found |= dict.fromkeys((region, f"left {region}", f"right {region}"), structure)
    return found


def summed(amounts: Mapping[str, float]) -> dict[str, float]:
    """What regions have together, by structure: native mm3 from volumes, visible mm2 from areas.

    A structure none of whose regions is there is left out.
    """
    belongs, sums = _structure_of(), dict[str, float]()
    for region, amount in amounts.items():
        structure = belongs.get(region)
        if structure is not None:
            sums[structure] = sums.get(structure, 0.0) + amount
    return sums


def size_of(percentile: float) -> str | None:
    """The word for a percentile, by SIZES; None between them."""
    for word, (low, high) in SIZES.items():
        if low <= percentile <= high:
            return word
    return None


def sizes_of(percentiles: Mapping[str, float]) -> dict[str, str]:
    """Structure -> word for its size, of those whose percentile has one."""
    words = {name: size_of(percentile) for name, percentile in percentiles.items()}
    return {name: word for name, word in words.items() if word is not None}
