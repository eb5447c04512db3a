"""Figures: a number with its n and its interval. Slices of one subject are not independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

Figure = dict[str, Any]  # value, low, high (95 % interval), n, and subjects where slices were grouped

DRAWS = 1000  # bootstrap samples
SEED = 7


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval (1927) of a proportion of `hits` in `n` trials; (0, 1) for none."""
    if n == 0:
        return 0.0, 1.0
    z, share = 1.959964, hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # at the ends exactly: there the sums are off by 1e-17, and the interval would not contain the share
    return float(middle - half) if hits else 0.0, float(middle + half) if hits < n else 1.0


def proportion(hits: np.ndarray, subjects: np.ndarray | None = None) -> Figure:
    """Share of true in hits (N,) bool. Without subjects the trials are independent: Wilson interval.

    subjects: (N,) name of each trial's subject: bootstrap over subjects. Where every trial agrees a bootstrap
    has no spread; then Wilson with one trial a subject.
    """
    hits = np.asarray(hits, dtype=float)
    if subjects is None:
        low, high = wilson(float(hits.sum()), len(hits))
        return _figure(hits.mean() if len(hits) else None, low, high, len(hits))
    figure = average(hits, subjects)
    if len(hits) and hits.min() == hits.max():
        figure["low"], figure["high"] = wilson(float(hits[0]) * figure["subjects"], figure["subjects"])
    return figure


def average(values: np.ndarray, subjects: np.ndarray | None = None) -> Figure:
    """Mean of values (N,) with a 95 % bootstrap interval, over subjects where they are given."""
    return bootstrap(lambda rows: float(values[rows].mean()), len(values), subjects)


def spearman(first: np.ndarray, second: np.ndarray, subjects: np.ndarray | None = None) -> Figure:
    """Spearman's rank correlation of (N,) arrays, with a 95 % bootstrap interval, over subjects if given."""
    return bootstrap(lambda rows: rank_correlation(first[rows], second[rows]), len(first), subjects)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of the ranks, ties at their mean rank; nan where one side is constant."""
    a, b = stats.rankdata(first), stats.rankdata(second)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    subjects: np.ndarray | None = None,
    *,
    sets: np.ndarray | None = None,
    centred: bool = False,
    draws: int = DRAWS,
) -> Figure:
    """A statistic of row indices and its 95 % percentile interval over draws of rows, or of subjects.

    sets: (n,) which of several sets each row belongs to; each set is drawn anew by itself. centred: the draws
    are shifted so that their median is the value. A draw repeats rows, which makes any two sets look farther
    apart and one set less diverse; the spread of the draws still says how sure the value is.
    """
    if n == 0:
        return _figure(None, None, None, 0)
    rows = np.arange(n)
    set_of = np.zeros(n) if sets is None else sets
    parts = [_groups(rows[set_of == name], subjects) for name in np.unique(set_of)]
    generator = np.random.default_rng(SEED)
    drawn: list[float] = []
    for _ in range(draws if min(map(len, parts)) > 1 else 0):  # one subject alone says nothing of the spread
        chosen = [groups[i] for groups in parts for i in generator.integers(len(groups), size=len(groups))]
        drawn.append(statistic(np.concatenate(chosen)))
    value, kept = statistic(rows), np.asarray(drawn)[np.isfinite(drawn)]
    if centred and len(kept):
        kept = kept + value - np.median(kept)
    low, high = np.percentile(kept, (2.5, 97.5)) if len(kept) else (None, None)
    figure = _figure(value, low, high, n)
    if subjects is not None:
        figure["subjects"] = sum(map(len, parts))
    return figure


def two_sample(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    subjects: np.ndarray,
    made: int,
    made_subjects: np.ndarray | None = None,
    *,
    least: float = -np.inf,
    draws: int = DRAWS,
) -> Figure:
    """A statistic of rows of real slices and of rows of `made` pictures, with a centred interval.

    Each set is drawn by itself, over subjects where it has them; pictures are independent otherwise. n counts
    the pictures, subjects those of the real slices. least: the smallest value that there can be.
    """
    real = len(subjects)
    people = [f"real {name}" for name in subjects]
    people += [f"made {name}" for name in (range(made) if made_subjects is None else made_subjects)]
    sets = np.arange(real + made) >= real

    def of_rows(rows: np.ndarray) -> float:
        return statistic(rows[rows < real], rows[rows >= real] - real)

    figure = bootstrap(of_rows, real + made, np.array(people), sets=sets, centred=True, draws=draws)
    low = None if figure["low"] is None else max(least, figure["low"])
    return figure | {"low": low, "n": made, "subjects": len(np.unique(subjects))}


def shown(figure: dict[str, Any] | None) -> str:
    """A figure as "0.97 (0.95 to 0.99, n 200)"."""
    if not figure or figure.get("value") is None:
        return "-"
    n = f"n {figure['n']}" + (f" of {figure['subjects']} subjects" if "subjects" in figure else "")
    between = "" if figure["low"] is None else f"{figure['low']:.3g} to {figure['high']:.3g}, "
    chance = f"; chance {figure['chance']:.3g}" if "chance" in figure else ""
    return f"{figure['value']:.3g} ({between}{n}{chance})"


def _groups(rows: np.ndarray, subjects: np.ndarray | None) -> list[np.ndarray]:
    """The rows of each subject; without subjects each row by itself."""
    if subjects is None:
        return [rows[i : i + 1] for i in range(len(rows))]
    names = np.asarray(subjects)[rows]
    order = np.argsort(names, kind="stable")
    return np.split(rows[order], np.unique(names[order], return_index=True)[1][1:])


def rounded(value: float) -> float:
    """4 decimals; 4 digits of what is below 0.1, and 0 below 1e-9, where sums are not exact."""
    return round(float(value), 4) if abs(value) >= 0.1 else float(f"{round(float(value), 9):.4g}")


def _figure(value: float | None, low: float | None, high: float | None, n: int) -> Figure:
    """Plain JSON types, 4 decimals, of small numbers 4 digits; a value that is not finite is None."""
    numbers = [None if x is None or not np.isfinite(x) else rounded(x) for x in (value, low, high)]
    return {"value": numbers[0], "low": numbers[1], "high": numbers[2], "n": int(n)}
