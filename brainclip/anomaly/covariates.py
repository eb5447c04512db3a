"""What a detector is told of a slice besides its features: the first columns of its X."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlas.facts import Facts
from brainclip.errors import BrainclipError

COVARIATES = ("position_mm", "age", "sex")  # age in years; sex: 0 female, 1 male; NaN: not known
SEXES = {"female": 0.0, "male": 1.0}


def covariates(facts: Sequence[Facts]) -> np.ndarray:
    """(N, 3) float32 of slices, in the order of COVARIATES. BrainclipError where a position is not known."""
    rows = []
    for one in facts:
        if one.position_mm is None:
            raise BrainclipError("a slice without its position cannot be compared with healthy ones")
        age, sex = one.known.get("age"), one.known.get("sex")
        rows.append([one.position_mm, np.nan if age is None else float(age), SEXES.get(str(sex), np.nan)])
    return np.array(rows, dtype=np.float32).reshape(-1, len(COVARIATES))


def joined(known: np.ndarray, features: np.ndarray) -> np.ndarray:
    """X (N, 3 + F) float32 of covariates (N, 3) and features (N, ...)."""
    return np.concatenate([known, features.reshape(len(features), -1)], 1).astype(np.float32)


def apart(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariates (N, 3) and features (N, F) of X. BrainclipError for another shape or an unknown position."""
    X = np.asarray(X)
    if X.ndim != 2 or X.shape[1] <= len(COVARIATES):
        raise BrainclipError(f"X of shape {X.shape}: expected (N, 3 + F), {', '.join(COVARIATES)} first")
    known, features = X[:, : len(COVARIATES)], X[:, len(COVARIATES) :]
    if not np.isfinite(known[:, 0]).all() or not np.isfinite(features).all():
        raise BrainclipError("X has positions or features that are not finite")
    return known, features
