"""From scores to p-values, by held-out healthy people; and whether these p-values are what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats
from sklearn.base import BaseEstimator

from brainclip.errors import BrainclipError
from brainclip.evaluate.figures import rounded

FEWEST = 8  # scores a p-value is taken from, at least
SHARE = 0.25  # of a person's slices, the most abnormal ones, whose mean is the person's score


class Calibrator(BaseEstimator):
    """Scores (higher: less normal) of held-out healthy slices, by which others are told.

    location_, scale_: median and 1.4826 times the median absolute deviation; healthy_: the scores, sorted.
    """

    def fit(self, scores: np.ndarray, y: Any = None) -> Calibrator:
        """Remember scores (N,) of healthy slices. BrainclipError for fewer than FEWEST."""
        scores = np.asarray(scores, dtype=float)
        if len(scores) < FEWEST:
            raise BrainclipError(f"{len(scores)} healthy slices; a calibration needs {FEWEST} at least")
        self.healthy_ = np.sort(scores)
        self.location_ = float(np.median(scores))
        self.scale_ = max(1e-9, float(1.4826 * np.median(np.abs(scores - self.location_))))
        return self

    def transform(self, scores: np.ndarray) -> np.ndarray:
        """(N,) scores in deviations from the healthy median: comparable between planes and contrasts."""
        return (np.asarray(scores, dtype=float) - self.location_) / self.scale_

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """(N,) in (0, 1]: (1 + healthy scores as high or higher) / (1 + healthy scores).

        Uniform or larger for a healthy slice that is exchangeable with those fitted on (Vovk et al. 2005);
        slices of one person are not independent, so those of one person vary together.
        """
        below = np.searchsorted(self.healthy_, np.asarray(scores, dtype=float), side="left")
        return (1 + len(self.healthy_) - below) / (1 + len(self.healthy_))


def of_people(scores: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) score of each person, the mean of the highest SHARE of its slices', and the names in order."""
    names = np.unique(people)
    found = []
    for name in names:
        own = np.sort(scores[people == name])
        found.append(own[-max(1, round(SHARE * len(own))) :].mean())
    return np.array(found), names


def uniformity(p: np.ndarray, people: np.ndarray | None = None, *, draws: int = 500) -> dict[str, Any]:
    """How far p-values (N,) are from uniform: Kolmogorov and Smirnov's distance, and its p-value.

    people: (N,) whose slice each is. The p-value then comes from whole people: each person's p-values are
    shifted together around the circle from 0 to 1 by a random amount, which keeps their dependence and makes
    them uniform, and the distances of these draws are compared with that found.
    """
    found = stats.kstest(p, "uniform")
    result: dict[str, Any] = {"ks": rounded(float(found.statistic)), "n": len(p), "mean": rounded(p.mean())}
    if people is None:
        return result | {"p": rounded(float(found.pvalue))}
    generator, names = np.random.default_rng(5), np.unique(people, return_inverse=True)[1]
    drawn = [
        stats.kstest((p + generator.random(names.max() + 1)[names]) % 1, "uniform").statistic
        for _ in range(draws)
    ]
    above = int((np.array(drawn) >= found.statistic).sum())
    return result | {"p": rounded((1 + above) / (1 + draws)), "subjects": int(names.max() + 1)}
