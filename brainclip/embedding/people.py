"""People: the embeddings of a person's slices in one row, and an age read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from atlas.slices import PLANES
from brainclip.embedding.rows import Cohort
from brainclip.errors import BrainclipError

POOLINGS = ("levels", "planes", "mean")
PENALTIES = tuple(float(10.0**power) for power in np.arange(-1, 5.5, 0.5))
Cell = tuple[str, str, str]  # plane, contrast, level


@dataclass(frozen=True)
class People:
    """Visits of people, a row each. features: (P, F). subject, session, contrast, sex: (P,) texts. age: (P,)
    years, nan where not known. slices: (P,) how many were pooled."""

    features: np.ndarray
    subject: np.ndarray
    session: np.ndarray
    contrast: np.ndarray
    sex: np.ndarray
    age: np.ndarray
    slices: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


class PeoplePooling(BaseEstimator):
    """The slices of each visit and contrast of a person in one row, aware of where they were cut.

    pooling: "mean": the mean embedding, of unit length (F = D), which also says which levels there were.
    "levels": from each embedding the training people's mean at its plane, contrast and level is taken off;
    then the mean over the slices of a level, over the levels of a plane, over the planes (F = D). So a
    missing level shifts nothing, and a level cut more often does not count more. "planes": the same, but the
    planes beside each other (F = 3 D), 0 for one without slices.
    fit learns the means (means_) from a Cohort; transform takes one and gives People.
    """

    def __init__(self, pooling: str = "levels"):
        self.pooling = pooling

    def fit(self, cohort: Cohort, y: object = None) -> PeoplePooling:
        """Learn the mean of each plane, contrast and level. BrainclipError for an unknown pooling."""
        if self.pooling not in POOLINGS:
            raise BrainclipError(f"pooling {self.pooling!r}; possible: {', '.join(POOLINGS)}")
        if not len(cohort):
            raise BrainclipError("a cohort without slices has no means to learn")
        cells = _cells(cohort)
        self.means_ = {cell: cohort.embeddings[rows].mean(0) for cell, rows in _grouped(cells).items()}
        return self

    def transform(self, cohort: Cohort) -> People:
        """The people of a cohort, sorted by subject, session and contrast.

        Slices at a plane, contrast and level that fit has not seen are left out; People.slices counts the
        others. BrainclipError for somebody of whom none is left.
        """
        check_is_fitted(self, "means_")
        columns = cohort.columns
        cells = _cells(cohort)
        visits = list(zip(columns["subject"], columns["session"], columns["contrast"], strict=True))
        groups = _grouped(visits)
        names = sorted(groups)
        first = [groups[name][0] for name in names]
        kept = [groups[name][[cells[row] in self.means_ for row in groups[name]]] for name in names]
        lost = next((name for name, rows in zip(names, kept, strict=True) if not len(rows)), None)
        if lost is not None:
            raise BrainclipError(
                f"{' '.join(lost)}: no slice at a plane, contrast and level that was there when the means "
                "were learned"
            )
        subject, session, contrast = (np.array([name[k] for name in names], dtype=object) for k in range(3))
        return People(
            np.stack([self._pooled(cohort.take(rows), [cells[row] for row in rows]) for rows in kept]),
            subject,
            session,
            contrast,
            columns["sex"][first],
            columns["age"][first].astype(float),
            np.array([len(rows) for rows in kept]),
        )

    def _pooled(self, part: Cohort, cells: Sequence[Cell]) -> np.ndarray:
        """(F,) of one visit's slices, and the cells they lie in."""
        embeddings, planes = part.embeddings, part.columns["plane"]
        if self.pooling == "mean":
            mean = embeddings.mean(0)
            return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9))
        levels = part.columns["level"]
        centred = embeddings - np.stack([self.means_[cell] for cell in cells])
        of_planes = {}
        for plane in np.unique(planes.astype(str)):
            here = planes == plane
            of_planes[plane] = np.mean(
                [centred[here & (levels == level)].mean(0) for level in sorted(set(levels[here]))], axis=0
            )
        if self.pooling == "levels":
            return np.asarray(np.mean(list(of_planes.values()), axis=0))
        nothing = np.zeros(embeddings.shape[1])
        return np.concatenate([of_planes.get(plane, nothing) for plane in PLANES])


def age_model(penalty: float) -> Pipeline:
    """Standardised ridge regression from People.features to years."""
    return make_pipeline(StandardScaler(), Ridge(alpha=penalty))


def fit_age(
    train: People, validation: People, penalties: Sequence[float] = PENALTIES
) -> tuple[Pipeline, float, float]:
    """(model, penalty, mean error in years on validation), the penalty with the least error there.

    People whose age is not known are left out. BrainclipError where nobody's is.
    """
    known, held = np.isfinite(train.age), np.isfinite(validation.age)
    if known.sum() < 2 or not held.any():
        raise BrainclipError("brain age needs people of known age, for training and for validation")
    tried = []
    for penalty in penalties:
        model = age_model(penalty).fit(train.features[known], train.age[known])
        error = np.abs(model.predict(validation.features[held]) - validation.age[held]).mean()
        tried.append((float(error), penalty))
    error, penalty = min(tried)
    return age_model(penalty).fit(train.features[known], train.age[known]), penalty, error


def _cells(cohort: Cohort) -> list[Cell]:
    columns = cohort.columns
    return list(zip(columns["plane"], columns["contrast"], columns["level"], strict=True))


def _grouped(names: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], np.ndarray]:
    """Name -> the rows that have it."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name, []).append(row)
    return {name: np.array(rows) for name, rows in groups.items()}
