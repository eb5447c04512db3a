"""Distribution: how far pictures are from real slices by their features, and real ones from each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from brainclip.errors import BrainclipError
from brainclip.evaluate.figures import Figure, average, bootstrap, proportion, rounded

SEED = 31
DRAWS = 100  # of the bootstrap of a distance, which in 256 dimensions takes 30 ms
SUBSETS = 100  # of KID (Binkowski et al. 2018)
SUBSET_SIZE = 256  # or half of the smaller set
NEIGHBOURS_MANIFOLD = 3  # of precision and recall, as Kynkaanniemi et al. 2019
NEIGHBOURS_DENSITY = 5  # of density and coverage, as Naeem et al. 2020
SIZES = 15  # of the extrapolation, as Chong and Forsyth 2020, from a fifth of the pictures on
EXTRAPOLATED = (
    5  # pictures a dimension: of equal Gaussians in 48 dimensions the line then meets 0 within 0.2 %
)
# of the variance, at 3 a dimension within 3 %, at 1 it misses by 41 %; the plain FID by 11, 19 and 56 %
ENOUGH = 20  # pictures a dimension, below which a warning says that the FID is biased: there by 3 %
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
    people = np.concatenate([[f"real {name}" for name in subjects], _names(made_subjects, len(made))])
    figures = {
        "fid": _fid(real, made, people),
        "fid_infinity": fid_infinity(real, made),
        "kid": _kid(real, made, people),
        **_manifolds(real, made, subjects, made_subjects),
        "vendi": _vendi(made, made_subjects),
        "vendi_real": _vendi(*_as_many(real, np.asarray(subjects), len(made))),
    }
    sizes = {"real": len(real), "made": len(made), "dimensions": made.shape[1]}
    return {"n": sizes, **figures, "warnings": small_sample_warnings(len(real), len(made), made.shape[1])}


def _names(subjects: np.ndarray | None, n: int) -> np.ndarray:
    """(n,) names of the made pictures' groups: each its own where there are no subjects."""
    return np.array([f"made {name}" for name in (range(n) if subjects is None else subjects)])


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


def _fid(real: np.ndarray, made: np.ndarray, people: np.ndarray) -> Figure:
    both, count = np.concatenate([real, made]), len(real)

    def statistic(rows: np.ndarray) -> float:
        return frechet(both[rows[rows < count]], both[rows[rows >= count]])

    return _two_sample(statistic, real, made, people)


def _two_sample(
    statistic: Callable[[np.ndarray], float], real: np.ndarray, made: np.ndarray, people: np.ndarray
) -> Figure:
    """The Figure of a statistic of rows of both sets, each of which is drawn anew by itself."""
    sets = np.arange(len(people)) >= len(real)
    figure = bootstrap(statistic, len(people), people, sets=sets, centred=True, draws=DRAWS)
    return figure | {"n": len(made), "subjects": len(np.unique(people[~sets]))}


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


def squared_mmd(table: np.ndarray, rows: np.ndarray, count: int) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) of the rows below `count` and of
    those from there on, from the kernel of all; a row that is drawn twice is not compared with itself."""
    drawn = np.bincount(rows, minlength=len(table)).astype(float)
    first, second = drawn.copy(), drawn.copy()
    first[count:], second[:count] = 0, 0
    diagonal = np.diagonal(table)

    def within(weights: np.ndarray) -> float:
        pairs = weights.sum() ** 2 - (weights**2).sum()
        return float(weights @ table @ weights - (weights**2) @ diagonal) / pairs

    between = float(first @ table @ second) / (first.sum() * second.sum())
    return within(first) + within(second) - 2 * between


def kid(real: np.ndarray, made: np.ndarray, *, subsets: int = SUBSETS) -> tuple[float, float]:
    """Kernel inception distance: mean and standard deviation over subsets; unbiased, so it can be negative.

    Subsets of 256, or of half of the smaller set; torch-fidelity's.
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


def _kid(real: np.ndarray, made: np.ndarray, people: np.ndarray) -> Figure:
    """Mean over subsets, with the interval of the unbiased estimate from all rows; `spread` over subsets."""
    both, count = np.concatenate([real, made]), len(real)
    table = kernel(both, both)
    figure = _two_sample(lambda rows: squared_mmd(table, rows, count), real, made, people)
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
