"""Confusion: what was asked against what the judge says, beside its mistakes on held-out slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import shades
from brainclip.evaluate.sections.words import listed, said, told_apart

CENTRES = (
    "A prompt that names a level asks for its centre, where an error of some mm is none yet; held-out slices "
    "lie anywhere in their level, so that more of them are taken for the next one."
)


def section(report: dict[str, Any]) -> Section:
    """A table of each facet for the generated pictures and for every folder of held-out slices."""
    made, held_out = report["adherence"]["confusion"], report["judge"]["confusion"]
    rows = [
        [facet, part["right"], *(of_folder[facet]["right"] for of_folder in held_out.values())]
        for facet, part in made.items()
    ]
    worse, unsure = [], []
    for facet, part in made.items():
        judge = [of_folder[facet]["right"] for of_folder in held_out.values()]
        if all(told_apart(part["right"], right) < 0 for right in judge):
            worse.append(f"{facet}, right in {said(part['right'], percent=True)}")
        known = [right["value"] for right in judge if right["value"] is not None]
        if known and max(known) < 0.7:
            unsure.append(facet)
    conclusion = (
        f"Missed clearly more often in pictures than in held-out slices: {listed(worse)}."
        if worse
        else "No facet is missed clearly more often in pictures than in held-out slices."
    )
    if unsure:
        conclusion += f" Of {listed(unsure)} the judge itself is right in less than 70 % of held-out slices."
    heads = ["share right, by the judge", "generated", *(f"held-out: {name}" for name in held_out)]
    blocks: list[Table | Picture | str] = [Table(heads, rows), CENTRES, *_pictures(made, held_out)]
    return Section("confusion", "What is taken for what", conclusion, blocks)


def _pictures(made: dict[str, Any], held_out: dict[str, Any]) -> list[Picture]:
    """For each facet the shares of each wanted value, for pictures and for each folder."""
    pictures = []
    for facet, part in made.items():
        sets = {"generated": part} | {f"held-out: {name}": found[facet] for name, found in held_out.items()}
        svg = shades(counted(sets), part["labels"], part["labels"], axes_names=("wanted", "judged"))
        caption = f"{facet}: of the slices that should show what the row says, the share that is judged so"
        path = f"plots/confusion_{facet.replace(' ', '_')}.svg"
        pictures.append(Picture(path, caption, svg, folded=facet.endswith(" level")))
    return pictures


def counted(sets: dict[str, Any]) -> dict[str, np.ndarray]:
    """Name and n of each of some confusions -> its `shares`."""
    return {
        f"{name}, n {one['right']['n']}": shares(np.array(one["counts"], dtype=float))
        for name, one in sets.items()
    }


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts (K, K) as shares of their row; nan where a row is empty."""
    sums = counts.sum(1, keepdims=True)
    return np.where(sums > 0, counts / np.maximum(sums, 1), np.nan)
