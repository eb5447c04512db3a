from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import binary_erosion

from brainclip.evaluate.grey import (
    DISTANCES,
    brain,
    compare_ratios,
    grey_levels,
    histogram_distance,
    histograms,
    tissue_ratios,
)


def head(grey: dict[str, float], *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """(48, 56): a disk of white matter in grey matter, with fluid in the middle."""
    rows, columns = np.mgrid[:48, :56]
    radius = np.hypot(rows - 24, columns - 28)
    image = np.zeros((48, 56), np.float32)
    for tissue, edge in (("grey", 20), ("white", 15), ("fluid", 7)):
        image[radius < edge] = grey[tissue]
    image[radius < 20] += noise * np.random.default_rng(seed).normal(size=int((radius < 20).sum()))
    return image.clip(0, 1)


def test_brain_is_the_largest_piece_with_its_dark_middle() -> None:
    image = head({"grey": 0.5, "white": 0.8, "fluid": 0.0})
    image[0:2, 0:2] = 1.0  # a speck apart
    image[44:46] = 3 / 255  # a faint line
    inside = brain(image)
    rows, columns = np.mgrid[:48, :56]
    assert np.array_equal(inside, np.hypot(rows - 24, columns - 28) < 20)
    assert not brain(np.zeros((9, 7))).any()


def test_histogram_counts_the_brain_alone() -> None:
    (shares,) = histograms(torch.from_numpy(head({"grey": 0.4, "white": 0.8, "fluid": 0.2}))[None, None])
    assert shares.sum() == pytest.approx(1) and shares[0] == 0
    assert np.flatnonzero(shares).tolist() == [51, 102, 204]


def test_histogram_distances_are_scipys_of_the_pixels() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(20, 200, 500), generator.integers(60, 256, 700)
    counts = [np.bincount(pixels, minlength=256) for pixels in (first, second)]
    assert histogram_distance("wasserstein", *counts) == pytest.approx(
        stats.wasserstein_distance(first / 255, second / 255)
    )
    assert histogram_distance("kolmogorov_smirnov", *counts) == pytest.approx(
        stats.ks_2samp(first, second).statistic
    )
    one, other = np.eye(256)[10], np.eye(256)[40]
    assert histogram_distance("jensen_shannon", one, other) == pytest.approx(1)
    half = (one + other) / 2
    # 3/4 log2(4/3) + 1/4 ... of (1, 0) and (1/2, 1/2), by hand
    divergence = 0.5 * np.log2(4 / 3) + 0.25 * np.log2(2 / 3) + 0.25 * np.log2(2)
    assert histogram_distance("jensen_shannon", one, half) == pytest.approx(np.sqrt(divergence))
    assert histogram_distance("wasserstein", one, other) == pytest.approx(30 / 255)


def test_brighter_pictures_are_told_from_the_floor() -> None:
    tissue = {"grey": 0.5, "white": 0.7, "fluid": 0.2}
    slices = torch.from_numpy(np.stack([head(tissue, noise=0.05, seed=k) for k in range(24)]))[:, None]
    people = np.repeat([f"p{k}" for k in range(6)], 4)
    real, made = histograms(slices), histograms(slices[:12] + 0.1 * (slices[:12] > 0))
    found = grey_levels(real, made, people)
    floor = grey_levels(real[:12], real[12:], people[:12], people[12:])
    assert found["wasserstein"]["value"] == pytest.approx(0.1, abs=0.01)
    assert all(found[name]["low"] > 3 * floor[name]["high"] for name in DISTANCES)
    assert found["wasserstein"]["n"] == 12 and found["wasserstein"]["subjects"] == 6


@pytest.mark.parametrize(
    ("modality", "grey"),
    [
        ("T1", {"fluid": 0.2, "grey": 0.6, "white": 0.8}),
        ("T2", {"white": 0.3, "grey": 0.45, "fluid": 0.9}),
        ("FLAIR", {"fluid": 0.1, "white": 0.5, "grey": 0.7}),
    ],
)
def test_tissue_ratios_are_those_of_the_tissues(modality: str, grey: dict[str, float]) -> None:
    images = torch.from_numpy(np.stack([head(grey, noise=0.01), np.zeros((48, 56), np.float32)]))[:, None]
    found = tissue_ratios(images, modality)
    assert found["grey_to_white"][0] == pytest.approx(grey["grey"] / grey["white"], abs=0.01)
    assert found["fluid_to_white"][0] == pytest.approx(grey["fluid"] / grey["white"], abs=0.01)
    assert np.isnan(found["grey_to_white"][1])


def test_faint_rim_and_gap_are_no_tissue() -> None:
    image = head({"white": 0.6, "grey": 0.75, "fluid": 0.9}, noise=0.01)
    rim = brain(image) & ~binary_erosion(brain(image), iterations=2)
    image[rim] = 0.05
    image[20:28, 24:32] = 0.0  # and a gap
    ratio = tissue_ratios(torch.from_numpy(image)[None, None], "PD")["grey_to_white"]
    assert ratio[0] == pytest.approx(0.75 / 0.6, abs=0.02)


def test_share_inside_the_real_range() -> None:
    real = np.append(np.linspace(0.6, 0.8, 41), np.nan)
    made = np.array([0.5, 0.7, 0.7, np.nan, 0.95])
    found = compare_ratios(real, made, np.arange(42) // 6)
    assert found["range"] == [0.605, 0.795]
    assert found["inside"]["value"] == 0.5 and found["inside"]["n"] == 4
    assert found["real"]["value"] == 0.7 and found["real"]["subjects"] == 7
    assert found["made"]["value"] == 0.7
