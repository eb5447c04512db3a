"""Wanted: what slices should show, or do, in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.facts import Facts
from brainclip.evaluate.prompts import Asked


@dataclass(frozen=True)
class Wanted:
    """What N slices should show, or do: plane, modality (N,) words; position_mm (N,); age (N,) nan where not
    stated; female (N,) 1, 0 or nan; subject (N,) names, or None for prompts, which are independent."""

    plane: np.ndarray
    modality: np.ndarray
    position_mm: np.ndarray
    age: np.ndarray
    female: np.ndarray
    subject: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Wanted:
        """The part at `rows`."""
        kept: dict[str, Any] = {key: None if v is None else v[rows] for key, v in vars(self).items()}
        return Wanted(**kept)


def wanted_of(rows: Sequence[Asked] | Sequence[Facts], subjects: Sequence[str] | None = None) -> Wanted:
    """Wanted from prompts, or from the facts of slices and their subjects."""
    ages, sexes = [], []
    for row in rows:
        known = row.known if isinstance(row, Facts) else {"age": row.age, "sex": row.sex}
        ages.append(np.nan if known.get("age") is None else known["age"])
        sexes.append({"female": 1.0, "male": 0.0}.get(str(known.get("sex")), np.nan))
    return Wanted(
        plane=np.array([row.plane for row in rows]),
        modality=np.array([row.modality for row in rows]),
        position_mm=np.array([row.position_mm for row in rows], dtype=float),
        age=np.array(ages, dtype=float),
        female=np.array(sexes),
        subject=None if subjects is None else np.array(subjects),
    )
