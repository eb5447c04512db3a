"""Ageing: how much of the brain the ventricles take by age, in pictures beside the slices of real people."""

from __future__ import annotations

import numpy as np

from brainclip.evaluate.figures import Figure, average, bootstrap, spearman

DECADE = 10.0


def slope(ages: np.ndarray, shares: np.ndarray) -> float:
    """Percentage points of the brain a decade: the least-squares line of shares (N,) in percent on ages (N,)
    in years; nan where all have one age."""
    spread = ages - ages.mean()
    scale = float(spread @ spread)
    return DECADE * float(spread @ shares) / scale if scale > 0 else float("nan")


def age_effect(ages: np.ndarray, shares: np.ndarray, subjects: np.ndarray) -> dict[str, Figure]:
    """mean share, slope a decade and Spearman's correlation, with intervals over people."""
    return {
        "mean": average(shares, subjects),
        "slope": bootstrap(lambda rows: slope(ages[rows], shares[rows]), len(ages), subjects),
        "order": spearman(ages, shares, subjects),
    }


def slope_difference(ages: np.ndarray, made: np.ndarray, real: np.ndarray, subjects: np.ndarray) -> Figure:
    """The slope of pictures less that of the slices they were asked for by, (N,) each, drawn together."""
    return bootstrap(
        lambda rows: slope(ages[rows], made[rows]) - slope(ages[rows], real[rows]), len(ages), subjects
    )
