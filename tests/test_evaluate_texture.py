from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.feature import graycomatrix, graycoprops

from brainclip.errors import BrainclipError
from brainclip.evaluate.grey import brain
from brainclip.evaluate.radiomics import radiomic_texture
from brainclip.evaluate.texture import (
    FEATURES,
    HARALICK,
    LEVELS,
    RUNS,
    cliffs_delta,
    compare_texture,
    haralick,
    patterns,
    quantised,
    run_features,
    run_lengths,
    slope,
    texture,
)

# Galloway's example (1975) with levels from 1, and its runs by hand
EXAMPLE = np.array([[1, 2, 3, 4], [1, 3, 4, 4], [3, 2, 2, 2], [4, 1, 4, 1]], dtype=np.uint8)
HAND = {
    0: [[4, 0, 0, 0], [1, 0, 1, 0], [3, 0, 0, 0], [3, 1, 0, 0]],
    90: [[2, 1, 0, 0], [4, 0, 0, 0], [3, 0, 0, 0], [3, 1, 0, 0]],
    45: [[4, 0, 0, 0], [4, 0, 0, 0], [0, 0, 1, 0], [3, 1, 0, 0]],
    135: [[4, 0, 0, 0], [4, 0, 0, 0], [3, 0, 0, 0], [5, 0, 0, 0]],
}


@pytest.mark.parametrize("angle", sorted(HAND))
def test_run_lengths_are_those_counted_by_hand(angle: int) -> None:
    found = run_lengths(EXAMPLE, angle)
    assert found[:4].tolist() == HAND[angle]
    assert found[4:].sum() == 0


def test_runs_end_at_the_edge_of_the_brain_and_of_the_picture() -> None:
    image = np.array([[0, 5, 5], [5, 0, 5], [5, 5, 5], [5, 5, 0], [0, 0, 0]], dtype=np.uint8)
    assert {k + 1: n for k, n in enumerate(run_lengths(image, 0)[4]) if n} == {1: 2, 2: 2, 3: 1}
    assert {k + 1: n for k, n in enumerate(run_lengths(image, 90)[4]) if n} == {1: 1, 2: 1, 3: 2}
    whole = np.full((3, 5), 2, dtype=np.uint8)
    for angle in (45, 135):
        diagonals = run_lengths(whole, angle)[1]
        assert diagonals.tolist() == [2, 2, 3, 0, 0]


def test_run_features_of_the_example() -> None:
    found = dict(zip(RUNS, run_features(EXAMPLE), strict=True))
    table = sum(np.array(counts) for counts in HAND.values())
    runs, length, level = table.sum(), np.arange(1, 5), np.arange(1, 5)[:, None]
    assert runs == 13 + 14 + 13 + 16
    assert found["short_runs"] == pytest.approx((table / length**2).sum() / runs)
    assert found["long_runs"] == pytest.approx((table * length**2).sum() / runs)
    assert found["grey_unevenness"] == pytest.approx((table.sum(1) ** 2).sum() / runs**2)
    assert found["run_unevenness"] == pytest.approx((table.sum(0) ** 2).sum() / runs**2)
    assert found["run_share"] == pytest.approx(runs / 64)
    assert found["low_grey_runs"] == pytest.approx((table / level**2).sum() / runs)
    assert found["high_grey_runs"] == pytest.approx((table * level**2).sum() / runs)


def test_haralick_is_scikit_images_where_all_is_brain_and_leaves_out_the_background() -> None:
    levels = np.random.default_rng(0).integers(1, LEVELS + 1, (20, 24)).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    theirs = graycomatrix(levels - 1, [1, 3], angles, levels=LEVELS, symmetric=True)
    wanted = [graycoprops(theirs, name)[k].mean() for k in (0, 1) for name in HARALICK]
    assert haralick(levels) == pytest.approx(wanted)
    wide = np.zeros((40, 44), np.uint8)
    wide[7:27, 9:33] = levels
    assert haralick(wide) == pytest.approx(wanted)


def test_levels_are_thirty_two_and_the_background_is_none_of_them() -> None:
    image = np.array([[0.0, 0.5, 1.0, 0.99]])
    assert quantised(image, np.array([[False, True, True, True]])).tolist() == [[0, 17, 32, 32]]


def test_patterns_of_a_plane_and_of_points() -> None:
    flat = np.full((12, 14), 0.5)
    inside = np.ones(flat.shape, bool)
    assert patterns(flat, inside)[8] == 1.0  # no neighbour is darker
    points = flat.copy()
    points[1::2, 1::2] = 0.9
    found = patterns(points, inside)
    assert sum(found) == pytest.approx(1)
    assert found[0] == pytest.approx(30 / 120)  # the bright points, of which 30 lie inside the edge


@pytest.mark.parametrize("exponent", [0.0, -2.0, -3.5])
def test_slope_of_noise_with_a_known_spectrum(exponent: float) -> None:
    generator = np.random.default_rng(1)
    white = np.fft.fft2(generator.normal(size=(96, 96)))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
    radius[0, 0] = 1
    image = np.fft.ifft2(white * radius ** (exponent / 2)).real
    assert slope(image) == pytest.approx(exponent, abs=0.1)
    assert slope(np.zeros((96, 96))) == 0.0


def test_cliffs_delta_of_known_orders() -> None:
    people = np.array(["a", "a", "b", "b"])
    real = np.array([1.0, 2, 3, 4])
    assert cliffs_delta(real, real + 9, people)["value"] == 1.0
    assert cliffs_delta(real, real - 9, people)["value"] == -1.0
    assert cliffs_delta(real, real, people)["value"] == 0.0
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=40), generator.normal(size=30) + 0.5
    u = stats.mannwhitneyu(second, first).statistic
    found = cliffs_delta(first, second, np.arange(40) // 4)
    assert found["value"] == pytest.approx(2 * u / 1200 - 1, abs=1e-4)
    assert found["low"] < found["value"] < found["high"]


def test_blurred_slices_differ_and_slices_of_other_people_do_not() -> None:
    generator = np.random.default_rng(4)
    images = np.zeros((36, 1, 40, 44), np.float32)
    images[:, :, 6:34, 6:38] = generator.uniform(0.2, 0.9, (36, 1, 28, 32))
    blurred = torch.nn.functional.avg_pool2d(torch.from_numpy(images[:12]), 3, stride=1, padding=1)
    people = np.repeat([f"p{k}" for k in range(6)], 4)
    real, made = texture(torch.from_numpy(images[12:])), texture(blurred)
    assert real.shape == (24, len(FEATURES)) and np.isfinite(real).all()
    found, floor = compare_texture(real, made, people), compare_texture(real[:12], real[12:], people[:12])
    assert found["different"] > 20 and floor["different"] == 0 and found["of"] == 30
    assert found["features"]["glcm_contrast_1"]["value"] == -1.0
    assert found["features"]["spectrum_slope"]["value"] == -1.0
    p = [row["p"] for row in found["features"].values()]
    q = [row["q"] for row in found["features"].values()]
    assert q == pytest.approx(stats.false_discovery_control(p), rel=1e-2)  # 4 digits are kept


def test_slice_without_brain_has_features_all_the_same() -> None:
    assert np.isfinite(texture(torch.zeros(1, 1, 16, 18))).all()


def test_radiomics_without_its_package_are_refused_in_a_sentence() -> None:
    if importlib.util.find_spec("radiomics") is not None:
        pytest.skip("pyradiomics is installed")
    with pytest.raises(BrainclipError, match=r"needs pyradiomics, which is not installed"):
        radiomic_texture(torch.zeros(1, 1, 8, 8))


def test_runs_and_co_occurrence_are_those_of_pyradiomics() -> None:
    pytest.importorskip("radiomics", reason="pyradiomics is an extra")
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 44)), 1)
    image[0, 0], image[39, 43] = 0.0, 1.0
    image = np.pad((image - image.min()) / np.ptp(image) * 0.9 + 0.1, 6)
    slices = torch.from_numpy(image[None, None].astype(np.float32))
    rows, names = radiomic_texture(torch.cat([slices, torch.zeros_like(slices)]))
    theirs = dict(zip(names, rows[0], strict=True))
    levels = quantised(image.astype(np.float32), brain(image))
    tables = [run_lengths(levels, angle) for angle in (0, 45, 90, 135)]
    length = np.arange(1, tables[0].shape[1] + 1)
    short = np.mean([table.sum(0) @ (1 / length**2) / table.sum() for table in tables])
    uneven = np.mean([(table.sum(1) ** 2).sum() / table.sum() ** 2 for table in tables])
    assert theirs["glrlm_ShortRunEmphasis"] == pytest.approx(short)
    assert theirs["glrlm_GrayLevelNonUniformityNormalized"] == pytest.approx(uneven)
    ours = dict(zip(HARALICK, haralick(levels), strict=False))
    assert theirs["glcm_Contrast"] == pytest.approx(ours["contrast"])
    assert theirs["glcm_Correlation"] == pytest.approx(ours["correlation"])
    assert theirs["glcm_JointEntropy"] == pytest.approx(ours["entropy"] / np.log(2))
    assert np.isfinite(rows).all() and not rows[1].any()
