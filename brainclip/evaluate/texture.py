"""Texture: co-occurrence, runs, local patterns and spectrum of slices, and which of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage, stats
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from torch import Tensor

from brainclip.evaluate.figures import Figure, rounded, two_sample
from brainclip.evaluate.grey import brain

LEVELS = 32  # grey levels of co-occurrence and runs, evenly from 0 to 1
DISTANCES = (1, 3)  # pixels
ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
HARALICK = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
RUNS = (
    "short_runs",
    "long_runs",
    "grey_unevenness",
    "run_unevenness",
    "run_share",
    "low_grey_runs",
    "high_grey_runs",
)
PATTERNS = 10  # uniform local binary patterns of 8 neighbours at 1 pixel
BAND = (0.1, 0.4)  # cycles a pixel, in which the slope of the spectrum is taken
FEATURES = (
    *(f"glcm_{name}_{distance}" for distance in DISTANCES for name in HARALICK),
    *(f"glrlm_{name}" for name in RUNS),
    *(f"lbp_{k}" for k in range(PATTERNS)),
    "spectrum_slope",
)
DRAWS = 200
LEVEL = 0.05  # false discovery rate
MEDIUM = 0.33  # of Cliff's delta, as Romano et al. 2006


def texture(images: Tensor) -> np.ndarray:
    """(N, 30) FEATURES of slices (N, 1, H, W) in [0, 1]; those but the slope within the brain alone."""
    rows = []
    for image in images[:, 0].numpy():
        inside = brain(image)
        levels = quantised(image, inside)
        rows.append([*haralick(levels), *run_features(levels), *patterns(image, inside), slope(image)])
    return np.array(rows).reshape(-1, len(FEATURES))


def quantised(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(H, W) uint8: grey levels 1 to 32 inside, 0 outside."""
    return np.where(inside, 1 + (image * LEVELS).astype(int).clip(0, LEVELS - 1), 0).astype(np.uint8)


def haralick(levels: np.ndarray) -> list[float]:
    """Haralick's features (1973) of pairs of pixels that are both inside, at each distance, mean of four
    angles; 0 for a slice without brain."""
    table = graycomatrix(levels, DISTANCES, ANGLES, levels=LEVELS + 1, symmetric=True)
    pairs = table[1:, 1:].astype(float)  # level 0 is outside
    values = {name: graycoprops(pairs, name).mean(axis=1) for name in HARALICK}
    return [float(values[name][k]) for k in range(len(DISTANCES)) for name in HARALICK]


def run_lengths(levels: np.ndarray, angle: int) -> np.ndarray:
    """(32, L) how many runs there are of each grey level 1 to 32 (row 0 to 31) and length 1 to L.

    levels (H, W), 0 outside, where no run goes. angle: 0 along rows, 90 columns, 45 and 135 diagonals.
    """
    height, width = levels.shape
    if angle == 90:
        levels = levels.T
    elif angle in (45, 135):
        turned = levels if angle == 45 else levels[:, ::-1]
        wide = np.zeros((height, height + width), levels.dtype)
        wide[:, :width] = turned
        # one column less a row: pixel (i, j) comes to column i + j, so that a column is a diagonal
        levels = wide.ravel()[:-height].reshape(height, height + width - 1).T
    line = np.pad(levels, ((0, 0), (0, 1))).ravel()  # a 0 between lines
    starts = np.flatnonzero(np.diff(line, prepend=line[:1] + 1))
    lengths = np.diff(starts, append=len(line))
    grey = line[starts]
    table = np.zeros((LEVELS, max(height, width)))
    np.add.at(table, (grey[grey > 0] - 1, lengths[grey > 0] - 1), 1)
    return table


def run_features(levels: np.ndarray) -> list[float]:
    """RUNS of all four directions together (Galloway 1975, Chu et al. 1990), unevenness as a share.

    short_runs, long_runs: means of 1 / length^2 and of length^2; grey_unevenness, run_unevenness: sums of
    squared shares of levels and of lengths; run_share: runs by pixels; low_grey_runs, high_grey_runs: means
    of 1 / level^2 and of level^2. 0 for a slice without brain.
    """
    table = sum(run_lengths(levels, angle) for angle in (0, 45, 90, 135))
    runs, pixels = float(np.sum(table)), 4 * int((levels > 0).sum())
    if runs == 0:
        return [0.0] * len(RUNS)
    shares = np.asarray(table) / runs
    by_grey, by_length = shares.sum(1), shares.sum(0)
    grey, length = np.arange(1, len(by_grey) + 1), np.arange(1, len(by_length) + 1)
    values = (
        by_length @ (1 / length**2),
        by_length @ length**2,
        by_grey @ by_grey,
        by_length @ by_length,
        runs / pixels,
        by_grey @ (1 / grey**2),
        by_grey @ grey**2,
    )
    return [float(value) for value in values]


def patterns(image: np.ndarray, inside: np.ndarray) -> list[float]:
    """Shares of the uniform local binary patterns (Ojala et al. 2002) of pixels whose neighbours are inside:
    k bright neighbours in a row for k = 0 to 8, then all others."""
    codes = local_binary_pattern((image * 255).round().astype(np.uint8), 8, 1, method="uniform")
    kept = codes[ndimage.binary_erosion(inside, np.ones((3, 3)))].astype(int)
    counts = np.bincount(kept, minlength=PATTERNS) / max(1, len(kept))
    return [float(share) for share in counts]


def slope(image: np.ndarray) -> float:
    """Exponent of the power spectrum in BAND: towards 0 with noise, steeper with blur.

    A line through the logarithms of the mean power at each whole radius.
    """
    power = np.abs(np.fft.fft2(image - image.mean())) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(len(image)), np.fft.fftfreq(image.shape[1]), indexing="ij"))
    rings = (radius * len(image)).round().astype(int).ravel()
    mean = np.bincount(rings, power.ravel()) / np.bincount(rings)
    low, high = (round(edge * len(image)) for edge in BAND)
    kept = np.arange(low, high + 1)
    if not (mean[kept] > 0).all():
        return 0.0
    return float(stats.linregress(np.log(kept), np.log(mean[kept])).slope)


def cliffs_delta(
    real: np.ndarray, made: np.ndarray, subjects: np.ndarray, made_subjects: np.ndarray | None = None
) -> Figure:
    """Cliff's delta (1993) of values (N,) and (M,): the chance that a picture has more than a real slice,
    less the chance that it has less; 1 all more, 0 alike, -1 all less."""
    sign = np.sign(made[:, None] - real[None])

    def statistic(first: np.ndarray, second: np.ndarray) -> float:
        counts = [np.bincount(rows, minlength=n) for rows, n in ((second, len(made)), (first, len(real)))]
        return float(counts[0] @ sign @ counts[1]) / (len(first) * len(second))

    return two_sample(statistic, subjects, len(made), made_subjects, draws=DRAWS)


def compare_texture(
    real: np.ndarray,
    made: np.ndarray,
    subjects: np.ndarray,
    made_subjects: np.ndarray | None = None,
    *,
    names: Sequence[str] = FEATURES,
) -> dict[str, Any]:
    """Cliff's delta of each of F named features of real slices (N, F) and pictures (M, F), with p and q.

    p: of Mann and Whitney's test, which takes slices as independent and so is too small for slices of few
    subjects; the interval of delta is over subjects. q: p after Benjamini and Hochberg over the features.
    different: how many have q < 0.05 and a delta of 0.33 and more either way; `of` how many; mean_size: mean
    absolute delta.
    """
    p = [float(stats.mannwhitneyu(made[:, k], real[:, k]).pvalue) for k in range(len(names))]
    q = stats.false_discovery_control(p)
    features = {
        name: cliffs_delta(real[:, k], made[:, k], subjects, made_subjects)
        | {"p": rounded(p[k]), "q": rounded(q[k])}
        for k, name in enumerate(names)
    }
    sizes = np.array([abs(row["value"]) for row in features.values()])
    return {
        "different": int(((q < LEVEL) & (sizes >= MEDIUM)).sum()),
        "of": len(names),
        "mean_size": rounded(sizes.mean()),
        "features": features,
    }
