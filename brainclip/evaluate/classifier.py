"""Classifier test: can a network's features tell pictures from real slices of people it has not seen?"""

from __future__ import annotations

import numpy as np
from scipy import stats

from brainclip.evaluate.figures import Figure, two_sample

FOLDS = 5
SEED = 34
DRAWS = 200
STRENGTH = 0.01  # inverse of the penalty on weights of standardised features
FEWEST = 10  # people, or pictures, of each set


def classifier_test(
    real: np.ndarray, made: np.ndarray, subjects: np.ndarray, made_subjects: np.ndarray | None = None
) -> dict[str, Figure]:
    """accuracy and auc of a logistic regression that tells features (M, D) of pictures from real ones (N, D).

    0.5 where they are alike (Lopez-Paz and Oquab 2017). Five folds by person, a picture each its own, so that
    what one person's slices have in common does not count. Both sets weigh the same; accuracy is the mean of
    both sets' shares right. Intervals of the scores out of fold, over people, see `two_sample`; that the
    classifier would be another one is not in them. None for fewer than 10 people or pictures.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = [f"real {name}" for name in subjects]
    names += [f"made {name}" for name in (range(len(made)) if made_subjects is None else made_subjects)]
    groups, is_made = np.array(names), np.arange(len(real) + len(made)) >= len(real)
    if min(len(np.unique(groups[is_made])), len(np.unique(groups[~is_made]))) < FEWEST:
        nothing: Figure = {"value": None, "low": None, "high": None, "n": len(made)}
        return {"accuracy": nothing, "auc": nothing}
    both = np.concatenate([real, made])
    scores = np.zeros(len(both))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    for known, asked in folds.split(both, is_made, groups):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
        )
        scores[asked] = model.fit(both[known], is_made[known]).decision_function(both[asked])

    def accuracy(first: np.ndarray, second: np.ndarray) -> float:
        right = (scores[first] < 0).mean(), (scores[len(real) + second] > 0).mean()
        return float(np.mean(right))

    def auc(first: np.ndarray, second: np.ndarray) -> float:
        return area(scores[first], scores[len(real) + second])

    return {
        name: two_sample(statistic, subjects, len(made), made_subjects, draws=DRAWS)
        for name, statistic in (("accuracy", accuracy), ("auc", auc))
    }


def area(low: np.ndarray, high: np.ndarray) -> float:
    """Area under the ROC curve: the chance that one of `high` (M,) is above one of `low` (N,), ties half."""
    ranks = stats.rankdata(np.concatenate([low, high]))[len(low) :]
    return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high)))
