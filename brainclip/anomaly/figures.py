"""What a detector is worth: figures over cases, with intervals over people.

Scores and maps are higher where less normal, and comparable between planes and contrasts (see Calibrator).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from brainclip.anomaly.cases import Cases
from brainclip.anomaly.local import BRAIN
from brainclip.evaluate.figures import Figure, bootstrap, rounded

BINS = 400  # of the maps' values, of equal count
DRAWS = 300
SENSITIVITY = 0.8


def auroc(scores: np.ndarray, cases: Cases) -> Figure:
    """AUROC of slices with against slices without lesions."""
    sick = cases.column("kind") != ""
    return _bootstrap(lambda rows: _auroc(sick[rows], scores[rows]), cases.column("subject"))


def slice_figures(scores: np.ndarray, cases: Cases) -> dict[str, Any]:
    """AUROC and AUPRC of slices with against slices without lesions, and what a sensitivity of SENSITIVITY
    costs: the share of healthy slices called abnormal, and how many of them a healthy person has.

    cases: rows with kind "" are healthy. The prevalence is what an AUPRC by chance is.
    """
    sick, people = cases.column("kind") != "", cases.column("subject")
    found: dict[str, Any] = {
        "auroc": auroc(scores, cases),
        "auprc": _bootstrap(lambda rows: _auprc(sick[rows], scores[rows]), people),
        "prevalence": rounded(float(sick.mean())),
    }

    def alarms(rows: np.ndarray) -> float:
        lesioned, healthy = scores[rows][sick[rows]], scores[rows][~sick[rows]]
        if not len(lesioned) or not len(healthy):
            return float("nan")
        return float((healthy >= np.quantile(lesioned, 1 - SENSITIVITY, method="lower")).mean())

    found["false_alarms"] = _bootstrap(alarms, people)
    healthy_people = max(1, len(np.unique(people[~sick])))
    found["slices_per_person"] = rounded(float((~sick).sum() / healthy_people))
    return found


def auroc_difference(scores: np.ndarray, others: np.ndarray, cases: Cases) -> Figure:
    """AUROC of slices by `scores` less that by `others`, both of the same people in every draw."""
    sick = cases.column("kind") != ""
    return _bootstrap(
        lambda rows: _auroc(sick[rows], scores[rows]) - _auroc(sick[rows], others[rows]),
        cases.column("subject"),
    )


def auprc_difference(maps: np.ndarray, others: np.ndarray, cases: Cases, *, bins: int = BINS) -> Figure:
    """AUPRC of pixels by `maps` less that by `others`, both of the same people in every draw."""
    first, second = histograms(maps, cases, bins)[:2], histograms(others, cases, bins)[:2]
    return _bootstrap(
        lambda rows: _pixel_auprc(*first, rows) - _pixel_auprc(*second, rows), cases.column("subject")
    )


def pixel_figures(
    maps: np.ndarray, cases: Cases, thresholds: np.ndarray | float | None = None, *, bins: int = BINS
) -> dict[str, Any]:
    """AUPRC and best Dice of the brain's pixels of all cases together, in the lesions or not.

    The best Dice is over all thresholds, the same for all slices: what a threshold chosen without these cases
    reaches is lower. `dice_at`: at the threshold `thresholds` (a number), where one is given.
    """
    people = cases.column("subject")
    positive, negative, edges = histograms(maps, cases, bins)

    def dice(rows: np.ndarray) -> float:
        hits, false, total = _curve(positive, negative, rows)
        return float((2 * hits / np.maximum(1, hits + false + total)).max())

    total = positive.sum() + negative.sum()
    found: dict[str, Any] = {
        "auprc": _bootstrap(lambda rows: _pixel_auprc(positive, negative, rows), people),
        "dice": _bootstrap(dice, people),
        "prevalence": rounded(float(positive.sum() / max(1, total))),
    }
    hits, false, all_of_them = _curve(positive, negative, np.arange(len(people)))
    best = int((2 * hits / np.maximum(1, hits + false + all_of_them)).argmax())
    found["threshold"] = float(edges[::-1][best + 1])
    if thresholds is not None:
        first = int(np.searchsorted(edges[1:-1], float(thresholds), side="right"))

        def dice_at(rows: np.ndarray) -> float:
            inside = positive[rows][:, first:].sum()
            called = inside + negative[rows][:, first:].sum()
            return float(2 * inside / max(1, called + positive[rows].sum()))

        found["dice_at"] = _bootstrap(dice_at, people)
    return found


def histograms(maps: np.ndarray, cases: Cases, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, bins) counts of the brain's pixels inside and outside lesions by the map's value, and the edges."""
    brain = (cases.images > BRAIN) | cases.masks
    values = maps[brain].astype(np.float64)
    step = max(1, len(values) // 400_000)
    edges = np.quantile(values[::step], np.linspace(0, 1, bins + 1))
    edges = np.maximum.accumulate(edges + np.arange(bins + 1) * 1e-12 * (1 + abs(edges[-1])))
    positive, negative = (np.zeros((len(maps), bins)) for _ in range(2))
    for row in range(len(maps)):
        number = np.searchsorted(edges[1:-1], maps[row][brain[row]].astype(np.float64), side="right")
        inside = cases.masks[row][brain[row]]
        positive[row] = np.bincount(number[inside], minlength=bins)
        negative[row] = np.bincount(number[~inside], minlength=bins)
    return positive, negative, edges


def _curve(
    positive: np.ndarray, negative: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Hits and false ones of the pixels above each threshold, from the highest down; and all to be found."""
    hits = positive[rows].sum(0)[::-1].cumsum()
    return hits, negative[rows].sum(0)[::-1].cumsum(), float(positive[rows].sum())


def _pixel_auprc(positive: np.ndarray, negative: np.ndarray, rows: np.ndarray) -> float:
    hits, false, total = _curve(positive, negative, rows)
    if total == 0:
        return float("nan")
    precision = hits / np.maximum(1, hits + false)
    return float((np.diff(hits, prepend=0) * precision).sum() / total)


def _bootstrap(statistic: Any, people: np.ndarray) -> Figure:
    return bootstrap(statistic, len(people), people, draws=DRAWS)


def _auroc(sick: np.ndarray, scores: np.ndarray) -> float:
    n = int(sick.sum())
    if not 0 < n < len(sick):
        return float("nan")
    ranks = rankdata(scores)[sick].sum()  # Mann and Whitney 1947; much quicker than a curve
    return float((ranks - n * (n + 1) / 2) / (n * (len(sick) - n)))


def _auprc(sick: np.ndarray, scores: np.ndarray) -> float:
    return float(average_precision_score(sick, scores)) if sick.any() else float("nan")
