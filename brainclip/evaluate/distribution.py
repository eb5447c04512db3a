"""Distribution: how far pictures are from real slices by their features, and real ones from each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from brainclip.errors import BrainclipError
from brainclip.evaluate.figures import Figure, average, bootstrap, proportion, rounded, two_sample

SEED = 31
DRAWS = 100  # of the bootstrap of a distance, which in 256 dimensions takes 30 ms
SUBSETS = 100  # of KID (Binkowski et al. 2018)
SUBSET_SIZE = 256  # or half of the smaller set
NEIGHBOURS_MANIFOLD = 3  # of precision and recall, as Kynkaanniemi et al. 2019
NEIGHBOURS_DENSITY = 5  # of density and coverage, as Naeem et al. 2020
SIZES = 15  # of the extrapolation, as Chong and Forsyth 2020, from a fifth of the pictures on
# Two samples of one Gaussian in 48 dimensions, distances as shares of the variance: with 5 pictures for each
# the line meets 0 within 0.002, with 3 at 0.03, with 1 at 0.41; the FIDs are 0.11, 0.19 and 0.56
EXTRAPOLATED = 5  # pictures a dimension that FID-infinity needs
ENOUGH = 20  # pictures a dimension, below which a warning says that the FID is biased; 0.03 there
LEAST = 8  # pictures


def distribution(
    real: np.ndarray,
    made: np.ndarray,
    subjects: np.ndarray,
    *,
    made_subjects: np.ndarray | None = None,
) -> dict[str, Any]:
    """Every figure of features (M, D) of made pictures against features (N, D) of real slices.

    subjects: (N,) of the real slices; made_subjects: (M,) where the second set is real as well, which gives
    the floor: what two sets of other people have between them. Intervals: 95 %, over subjects and, where no
    subjects are given, over pictures; those of distances are centred, see `bootstrap`. n counts the made
    pictures. fid_infinity has the interval of its line alone. "warnings": sentences on what is too small.
    BrainclipError below 8 pictures on either side.
    """
    real, made = np.asarray(real, dtype=np.float64), np.asarray(made, dtype=np.float64)
    if min(len(real), len(made)) < LEAST:
        raise BrainclipError(
            f"{len(made)} pictures against {len(real)} real slices; a distribution needs {LEAST} of each"
        )

    def distance(statistic: Callable[[np.ndarray, np.ndarray], float], least: float = -np.inf) -> Figure:
        return two_sample(statistic, subjects, len(made), made_subjects, least=least, draws=DRAWS)

    figures = {
        "fid": distance(lambda first, second: frechet(real[first], made[second]), 0.0),
        "fid_infinity": fid_infinity(real, made),
        "kid": _kid(real, made, distance),
        **_manifolds(real, made, subjects, made_subjects),
        "vendi": _vendi(made, made_subjects),
        "vendi_real": _vendi(*_as_many(real, np.asarray(subjects), len(made))),
    }
    sizes = {"real": len(real), "made": len(made), "dimensions": made.shape[1]}
    return {"n": sizes, **figures, "warnings": small_sample_warnings(len(real), len(made), made.shape[1])}


def small_sample_warnings(real: int, made: int, dimensions: int) -> list[str]:
    """Sentences on what so few pictures cannot say; none when there are enough."""
    least = min(real, made)
    if least >= ENOUGH * dimensions:
        return []
    sentence = (
        f"{least} pictures for {dimensions} dimensions: the FID is too large, compare it at equal n only"
    )
    if least < EXTRAPOLATED * dimensions:
        sentence += f"; FID-infinity needs {EXTRAPOLATED * dimensions}"
    return [f"{sentence}; the KID has no such bias"]


def frechet(real: np.ndarray, made: np.ndarray) -> float:
    """Frechet distance of the Gaussians with the means and covariances of two feature sets (N, D), (M, D).

    Heusel et al. 2017. The trace of the root of the product of covariances comes from a symmetric matrix of
    min(M, D) rows, which is exact for fewer pictures than dimensions, and 20 times faster than the general
    eigenvalues of torch-fidelity, so that it can be drawn again.
    """
    root = made - made.mean(0)
    if len(made) > made.shape[1]:
        values, vectors = np.linalg.eigh(root.T @ root)
        root = np.sqrt(values.clip(0))[:, None] * vectors.T
    root = root / np.sqrt(len(made) - 1)  # root' root is the covariance
    spread = np.cov(real, rowvar=False)
    shared = np.sqrt(np.linalg.eigvalsh(root @ spread @ root.T).clip(0)).sum()
    apart = real.mean(0) - made.mean(0)
    return float(apart @ apart + np.trace(spread) + (root**2).sum() - 2 * shared)


def fid_infinity(real: np.ndarray, made: np.ndarray) -> Figure:
    """The FID of infinitely many pictures: where a line through FIDs against 1/n meets 0.

    Chong and Forsyth 2020, with both sets cut to n, as here both are small. FIDs of n from a fifth of the
    smaller set to all of it, drawn without repeats. Interval: 1.96 standard errors of the line. slope: what
    the FID gains from few pictures, times n. The value is None below 5 pictures a dimension.
    """
    generator, most = np.random.default_rng(SEED), min(len(real), len(made))
    if most < EXTRAPOLATED * real.shape[1]:
        return {"value": None, "low": None, "high": None, "n": most}
    sizes = np.linspace(max(LEAST, most // 5), most, SIZES).round().astype(int)
    found = []
    for size in sizes:
        parts = (x[generator.choice(len(x), size, replace=False)] for x in (real, made))
        found.append(frechet(*parts))
    line = stats.linregress(1 / sizes, found)
    half = 1.96 * line.intercept_stderr
    low, value, high = (rounded(line.intercept + x) for x in (-half, 0.0, half))
    return {"value": value, "low": low, "high": high, "n": most, "slope": rounded(line.slope)}


def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) polynomial kernel (x.y / D + 1)^3 of features (N, D), (M, D), Binkowski et al. 2018, eq. 4."""
    return (first @ second.T / first.shape[1] + 1) ** 3


def squared_mmd(table: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of rows (Gretton et al. 2012, eq. 3).

    table: kernel of all rows with all; a row that is drawn twice is not compared with itself.
    """
    counts = [np.bincount(rows, minlength=len(table)).astype(float) for rows in (first, second)]
    within = 0.0
    for drawn in counts:
        alone = float((drawn**2) @ np.diagonal(table))
        within += (float(drawn @ table @ drawn) - alone) / (drawn.sum() ** 2 - (drawn**2).sum())
    return within - 2 * float(counts[0] @ table @ counts[1]) / (len(first) * len(second))


def kid(real: np.ndarray, made: np.ndarray, *, subsets: int = SUBSETS) -> tuple[float, float]:
    """Kernel inception distance: mean and standard deviation over subsets; unbiased, so it can be negative.

    Subsets of 256, or of half of the smaller set; torch-fidelity's. Where one set was chosen to match the
    other slice by slice, no difference is below 0, not at 0: compare with the floor, matched alike.
    """
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    size = min(SUBSET_SIZE, min(len(real), len(made)) // 2)
    found = kid_features_to_metric(
        torch.from_numpy(made),
        torch.from_numpy(real),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=SEED,
        verbose=False,
    )
    return float(found[KEY_METRIC_KID_MEAN]), float(found[KEY_METRIC_KID_STD])


def _kid(
    real: np.ndarray,
    made: np.ndarray,
    distance: Callable[[Callable[[np.ndarray, np.ndarray], float]], Figure],
) -> Figure:
    """Mean over subsets, with the interval of the unbiased estimate from all rows; `spread` over subsets."""
    both = np.concatenate([real, made])
    table = kernel(both, both)
    figure = distance(lambda first, second: squared_mmd(table, first, second + len(real)))
    value, spread = kid(real, made)
    shift = value - figure["value"]
    ends = {key: None if figure[key] is None else rounded(figure[key] + shift) for key in ("low", "high")}
    return figure | {"value": rounded(value), **ends, "spread": rounded(spread)}


def manifolds(real: np.ndarray, made: np.ndarray) -> dict[str, np.ndarray]:
    """What each row has to say of four figures, which are the means of these arrays.

    precision (M,): is the picture inside the ball of a real slice, which reaches to its third nearest other
    real one? recall (N,): is the slice inside a picture's? (Kynkaanniemi et al. 2019.) density (M,): in how
    many balls of real slices to the fifth, over 5; coverage (N,): is any picture in the slice's own? (Naeem
    et al. 2020.) By row, so that subjects can be drawn; torch-fidelity gives the first two as means.
    """
    within_real, within_made, between = cdist(real, real), cdist(made, made), cdist(real, made)
    wide, narrow = NEIGHBOURS_DENSITY, NEIGHBOURS_MANIFOLD
    reach = np.partition(within_real, (narrow, wide), axis=1)  # the nearest of all is the row itself
    reach_made = np.partition(within_made, narrow, axis=1)[:, narrow]
    dense = between <= reach[:, wide, None]
    return {
        "precision": (between <= reach[:, narrow, None]).any(0),
        "recall": (between <= reach_made[None]).any(1),
        "density": dense.sum(0) / wide,
        "coverage": dense.any(1),
    }


def _manifolds(
    real: np.ndarray, made: np.ndarray, subjects: np.ndarray, made_subjects: np.ndarray | None
) -> dict[str, Figure]:
    """The means of `manifolds`; intervals over the rows of each, the manifold of the other set unchanged."""
    rows = manifolds(real, made)
    return {
        "precision": proportion(rows["precision"], made_subjects),
        "recall": proportion(rows["recall"], subjects),
        "density": average(rows["density"], made_subjects),
        "coverage": proportion(rows["coverage"], subjects),
    }


def vendi(features: np.ndarray) -> float:
    """Vendi score: how many different pictures there are in effect, from 1 to N (Friedman and Dieng 2023).

    features (N, D): the exponential of the entropy of the eigenvalues of their cosines, over N.
    """
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    square = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit  # the same values but for zeros
    shares = np.linalg.eigvalsh(square / len(unit))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _vendi(features: np.ndarray, subjects: np.ndarray | None) -> Figure:
    return bootstrap(lambda rows: vendi(features[rows]), len(features), subjects, centred=True, draws=DRAWS)


def _as_many(features: np.ndarray, subjects: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """At most n of the rows, drawn without repeats: a Vendi score grows with n."""
    rows = np.sort(np.random.default_rng(SEED).permutation(len(features))[:n])
    return features[rows], subjects[rows]
