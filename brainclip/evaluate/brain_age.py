"""Brain age from embeddings of whole people: a worked example, its error on people never used before."""

from __future__ import annotations

from typing import Any

import numpy as np

from brainclip.embedding.people import POOLINGS, People, PeoplePooling, fit_age
from brainclip.embedding.rows import Cohort
from brainclip.errors import BrainclipError
from brainclip.evaluate.figures import average, bootstrap


def brain_age(cohort: Cohort, contrast: str) -> dict[str, Any]:
    """The error in years on the test people of a cohort in one contrast, beside that of the mean age.

    The means of the levels and the regression are learned on the training people; pooling and penalty are
    those with the least error on the validation people; the test people are looked at once. figures: mean
    absolute error, its difference to the mean age's, Pearson's r, bias and slope; people: each with true and
    read age.
    """
    parts = {
        split: cohort.take(
            (cohort.columns["split"] == split)
            & (cohort.columns["contrast"] == contrast)
            & np.isfinite(cohort.columns["age"])
        )
        for split in ("train", "validation", "test")
    }
    if not all(len(part) for part in parts.values()):
        raise BrainclipError(f"brain age needs {contrast} slices of known age in every split")
    tried = {}
    for pooling in POOLINGS:
        pooler = PeoplePooling(pooling).fit(parts["train"])
        people = {split: pooler.transform(part) for split, part in parts.items()}
        tried[pooling] = (*fit_age(people["train"], people["validation"]), people)
    pooling = min(tried, key=lambda name: tried[name][2])
    model, penalty, _, people = tried[pooling]
    return {
        "contrast": contrast,
        "people": {split: len(part) for split, part in people.items()},
        "pooling": pooling,
        "penalty": penalty,
        "validation_error": {name: round(found[2], 2) for name, found in tried.items()},
        "test": age_figures(people["test"], model.predict(people["test"].features), people["train"]),
        "read": {
            str(name): [round(float(true), 1), round(float(said), 1)]
            for name, true, said in zip(
                people["test"].subject,
                people["test"].age,
                model.predict(people["test"].features),
                strict=True,
            )
        },
    }


def age_figures(people: People, said: np.ndarray, train: People) -> dict[str, Any]:
    """Figures of the years `said` (P,) of people, beside the training people's mean age for everybody."""
    true, names = people.age, people.subject
    plain = np.abs(true - float(np.nanmean(train.age)))
    error = np.abs(said - true)

    def correlation(rows: np.ndarray) -> float:
        return float(np.corrcoef(true[rows], said[rows])[0, 1]) if np.ptp(true[rows]) > 0 else np.nan

    return {
        "error": average(error, names),
        "error_of_the_mean_age": average(plain, names),
        "difference": average(error - plain, names),
        "r": bootstrap(correlation, len(true), names),
        "bias": average(said - true, names),
        "slope": round(float(np.polyfit(true, said, 1)[0]), 3),
    }
