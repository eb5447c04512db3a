"""Grey levels: histograms within the brain, and how much brighter one tissue is than another."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage, stats
from scipy.spatial.distance import jensenshannon
from skimage.filters import threshold_multiotsu
from torch import Tensor

from brainclip.evaluate.figures import Figure, bootstrap, proportion, rounded, two_sample

LEVELS = 256
FAINT = 5 / 255  # grey; generated backgrounds go up to it
EDGE = 2  # pixels of rim, which in PD would be the darkest class instead of white matter
LEAST_PIXELS = 300  # of brain, below which a slice is not parted into tissues
DRAWS = 200
TISSUES = {  # of each contrast from dark to bright
    "T1": ("fluid", "grey", "white"),
    "T2": ("white", "grey", "fluid"),
    "PD": ("white", "grey", "fluid"),
    "FLAIR": ("fluid", "white", "grey"),
}
DISTANCES = ("wasserstein", "jensen_shannon", "kolmogorov_smirnov")


def brain(image: np.ndarray) -> np.ndarray:
    """(H, W) bool: the largest piece of a slice (H, W) in [0, 1] that is not faint, its holes filled.

    Fluid at the edge that a contrast shows black is left out, in real and generated slices alike.
    """
    pieces, count = ndimage.label(image > FAINT)
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return np.asarray(ndimage.binary_fill_holes(largest))


def histograms(images: Tensor) -> np.ndarray:
    """(N, 256) shares of the grey levels within the brain of slices (N, 1, H, W) in [0, 1]."""
    rows = []
    for image in images[:, 0].numpy():
        inside = (image[brain(image)] * 255).round().astype(int)
        rows.append(np.bincount(inside, minlength=LEVELS) / max(1, len(inside)))
    return np.stack(rows)


def histogram_distance(name: str, first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two histograms (256,) over grey levels 0 to 1.

    wasserstein: mean grey by which pixels would have to change; jensen_shannon: root of the divergence in
    bits, 0 to 1; kolmogorov_smirnov: the largest difference of the cumulative shares.
    """
    first, second = first / first.sum(), second / second.sum()
    if name == "wasserstein":
        grey = np.linspace(0, 1, LEVELS)
        return float(stats.wasserstein_distance(grey, grey, first, second))
    if name == "jensen_shannon":
        return float(jensenshannon(first, second, base=2))
    return float(np.abs(np.cumsum(first) - np.cumsum(second)).max())


def grey_levels(
    real: np.ndarray, made: np.ndarray, subjects: np.ndarray, made_subjects: np.ndarray | None = None
) -> dict[str, Figure]:
    """The distances of the mean histograms (N, 256) of real slices and (M, 256) of pictures, each slice with
    the same weight; intervals as in `two_sample`."""
    return {
        name: two_sample(
            lambda first, second, name=name: histogram_distance(  # type: ignore[misc]
                name, real[first].mean(0), made[second].mean(0)
            ),
            subjects,
            len(made),
            made_subjects,
            least=0.0,
            draws=DRAWS,
        )
        for name in DISTANCES
    }


def tissue_ratios(images: Tensor, modality: str) -> dict[str, np.ndarray]:
    """grey_to_white and fluid_to_white: (N,) ratios of mean grey in slices (N, 1, H, W) of one contrast.

    Tissues are three classes of grey in each slice, parted where Otsu's criterion puts the two thresholds
    (which is k-means in one dimension), two pixels of rim left out. They are named by their order in the
    contrast, so mixed pixels go to the class between, and a slice without fluid has a poor ratio of it, in
    real and generated slices alike. nan for a slice with less than 300 such pixels or fewer than three greys.
    """
    rows = []
    for image in images[:, 0].numpy():
        inside = image[ndimage.binary_erosion(brain(image), iterations=EDGE)]
        if TISSUES[modality][0] != "fluid":
            inside = inside[inside > FAINT]  # a gap between the hemispheres is no tissue
        if len(inside) < LEAST_PIXELS or len(np.unique(inside)) < 3:
            rows.append([np.nan, np.nan])
            continue
        classes = np.digitize(inside, threshold_multiotsu(inside, classes=3))
        means = dict(zip(TISSUES[modality], (inside[classes == k].mean() for k in range(3)), strict=True))
        rows.append([means["grey"] / means["white"], means["fluid"] / means["white"]])
    table = np.array(rows).reshape(-1, 2)
    return {"grey_to_white": table[:, 0], "fluid_to_white": table[:, 1]}


def compare_ratios(real: np.ndarray, made: np.ndarray, subjects: np.ndarray) -> dict[str, Any]:
    """Medians of ratios (N,) of real slices and (M,) of pictures, and the share of pictures in the range that
    95 % of the real slices have ("range")."""
    known, shown = np.isfinite(real), made[np.isfinite(made)]
    real, subjects = real[known], np.asarray(subjects)[known]
    low, high = np.percentile(real, (2.5, 97.5)) if len(real) else (np.nan, np.nan)
    return {
        "real": bootstrap(lambda rows: float(np.median(real[rows])), len(real), subjects, draws=DRAWS),
        "made": bootstrap(lambda rows: float(np.median(shown[rows])), len(shown), draws=DRAWS),
        "range": [rounded(low), rounded(high)] if len(real) else None,
        "inside": proportion((shown >= low) & (shown <= high)),
    }
