"""Where in the brain a picture lies, when its prompt leaves that open: the nearest of captions on a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from atlas.facts import Facts

Place = tuple[str, float]  # plane, position in mm
STEP_MM = 4
AXES = {"axial": "z", "coronal": "y", "sagittal": "x"}


def grid(positions: Mapping[str, Sequence[float]]) -> tuple[list[Place], list[str]]:
    """Places between the first and last position of each plane, and a caption of each."""
    places = [
        (plane, float(at))
        for plane, (low, high) in positions.items()
        for at in np.arange(np.ceil(low / STEP_MM) * STEP_MM, high + 1, STEP_MM)
    ]
    return places, [f"{plane} slice, {AXES[plane]} = {at:.0f} mm" for plane, at in places]


def nearest(asked: Facts, places: Sequence[Place], scores: Sequence[float]) -> Place:
    """The place with the highest score that agrees with the plane and level asked for."""
    from atlas.facts import level_at

    best, best_score = ("axial", 0.0), -np.inf
    for (plane, position), score in zip(places, scores, strict=True):
        level = not asked.level or asked.level == level_at(plane, position)
        if (not asked.plane or plane == asked.plane) and level and score > best_score:
            best, best_score = (plane, position), score
    return best
