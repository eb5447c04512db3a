"""Figures of a task: accuracy of each arm over seeds and people, paired comparisons, and the gap closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from brainclip.evaluate.downstream.recipe import ArmRecipe
from brainclip.evaluate.figures import Figure, average, bootstrap, rounded

CLEAR = 0.02  # a gap whose interval comes nearer to 0 has no share that could be closed


def of_arm(predicted: np.ndarray, labels: np.ndarray, subjects: np.ndarray) -> dict[str, Any]:
    """accuracy: mean over seeds, interval over people; seeds: one accuracy each; recall: mean over labels
    (macro), likewise. predicted: (seeds, N); labels, subjects: (N,)."""
    right = predicted == labels
    return {
        "accuracy": average(right.mean(0), subjects),
        "seeds": [rounded(value) for value in right.mean(1)],
        "recall": bootstrap(lambda rows: macro(right[:, rows].mean(0), labels[rows]), len(labels), subjects),
    }


def macro(right: np.ndarray, labels: np.ndarray) -> float:
    """The mean over labels of the share of right answers (N,) among the slices of that label."""
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def difference(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, subjects: np.ndarray
) -> dict[str, Any]:
    """Accuracy of the first arm minus that of the second, on the same slices and seeds.

    difference: mean over seeds, interval over people. p_people: Wilcoxon's signed ranks of each person's mean
    difference; p_seeds: Student's paired t over the seeds, which with three has little power; p_people is 1
    where no person differs, p_seeds None where the differences of all seeds are equal. better, worse: people.
    """
    apart = (first == labels).astype(float) - (second == labels)  # (seeds, N)
    people = np.array([apart[:, subjects == name].mean() for name in np.unique(subjects)])
    by_seed = apart.mean(1)
    same = np.ptp(by_seed) < 1e-12
    return {
        "difference": average(apart.mean(0), subjects),
        "seeds": [rounded(value) for value in by_seed],
        "p_people": float(stats.wilcoxon(people).pvalue) if people.any() else 1.0,
        "p_seeds": None if same else float(stats.ttest_1samp(by_seed, 0.0).pvalue),
        "better": int((people > 0).sum()),
        "worse": int((people < 0).sum()),
    }


def gap_closed(
    arm: np.ndarray, lower: np.ndarray, upper: np.ndarray, labels: np.ndarray, subjects: np.ndarray
) -> dict[str, Figure]:
    """gap: accuracy of `upper` minus `lower`; closed: (arm - lower) / (upper - lower), both over people.

    closed is None where the gap's interval reaches below 2 points: a share of hardly anything is noise.
    """
    means = [(predicted == labels).mean(0) for predicted in (arm, lower, upper)]
    gap = average(means[2] - means[1], subjects)
    if gap["low"] is None or gap["low"] < CLEAR:
        return {"gap": gap, "closed": gap | {"value": None, "low": None, "high": None}}

    def share(rows: np.ndarray) -> float:
        mine, low, high = (float(values[rows].mean()) for values in means)
        return (mine - low) / (high - low) if high != low else float("nan")

    return {"gap": gap, "closed": bootstrap(share, len(labels), subjects)}


def compared(
    predicted: Mapping[str, np.ndarray],
    arms: Mapping[str, ArmRecipe],
    labels: np.ndarray,
    subjects: np.ndarray,
) -> dict[str, Any]:
    """arms: name -> of_arm; comparisons: "a - b" -> difference and q (p_people after Benjamini and Hochberg
    over the task's comparisons); gaps: name -> gap_closed. predicted: arm -> (seeds, N)."""
    pairs = [(name, other) for name in predicted for other in arms[name].against if other in predicted]
    found = {
        f"{first} - {second}": difference(predicted[first], predicted[second], labels, subjects)
        for first, second in pairs
    }
    for row, q in zip(found.values(), _discovery([row["p_people"] for row in found.values()]), strict=True):
        row["q_people"] = q
    gaps = {
        name: gap_closed(
            predicted[name], predicted[arms[name].gap[0]], predicted[arms[name].gap[1]], labels, subjects
        )
        for name in predicted
        if arms[name].gap and set(arms[name].gap) <= set(predicted)
    }
    return {
        "arms": {name: of_arm(rows, labels, subjects) for name, rows in predicted.items()},
        "comparisons": found,
        "gaps": gaps,
    }


def _discovery(values: Sequence[float]) -> list[float]:
    return [float(q) for q in stats.false_discovery_control(values)] if values else []
