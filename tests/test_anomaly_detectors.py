from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from atlas.facts import Facts
from brainclip.anomaly.covariates import apart, covariates, joined
from brainclip.anomaly.local import (
    CohortZ,
    Intensity,
    PatchGaussian,
    PatchMemory,
    Reconstruction,
    to_pixels,
    top_mean,
)
from brainclip.anomaly.normative import NORMATIVE, ConditionalGaussian, Mahalanobis, NearestNeighbours
from brainclip.errors import BrainclipError


def healthy(n: int, *, seed: int = 0, width: int = 5) -> np.ndarray:
    """X of people whose features follow position, age and sex, with correlated noise."""
    generator = np.random.default_rng(seed)
    known = np.column_stack(
        [generator.uniform(-40, 60, n), generator.uniform(20, 80, n), generator.integers(0, 2, n)]
    )
    place, age, sex = (known / (30, 20, 1)).T
    mean = np.column_stack([np.sin(place + k) + 0.3 * age * (k == 1) + sex * (k == 2) for k in range(width)])
    mix = np.random.default_rng(9).normal(size=(width, width)) / 6
    return joined(known.astype(np.float32), (mean + generator.normal(size=(n, width)) @ mix))


def slices(n: int, *, seed: int = 0, side: int = 16) -> np.ndarray:
    """X of slices: a disc whose grey follows the position, with noise."""
    generator = np.random.default_rng(seed)
    known = np.column_stack([generator.choice([-6.0, 0.0, 6.0], n), np.full(n, 50), np.zeros(n)])
    grid = np.indices((side, side)) - side / 2 + 0.5
    disc = np.hypot(*grid) < side / 2 - 1
    grey = 0.5 + known[:, :1, None] / 60 + 0.03 * generator.normal(size=(n, side, side))
    return joined(known.astype(np.float32), np.where(disc, grey, 0))


def with_spot(X: np.ndarray, side: int = 16) -> np.ndarray:
    spotted = X.copy()
    spotted[:, 3:].reshape(-1, side, side)[:, 5:8, 9:12] = 0.95
    return spotted


@pytest.mark.parametrize("name", NORMATIVE)
def test_normative_models_tell_shifted_embeddings_and_are_scikit_learn_detectors(name: str) -> None:
    detector = NORMATIVE[name]()
    assert clone(detector).get_params() == detector.get_params()
    fitted = clone(detector).fit(healthy(600))
    check_is_fitted(fitted)
    assert fitted.n_features_in_ == 8
    other, shifted = healthy(300, seed=1), healthy(300, seed=1)
    shifted[:, 3:] += 1.5 * np.random.default_rng(2).choice([-1, 1], (300, 5))
    assert (fitted.score_samples(other)[:, None] > fitted.score_samples(shifted)).mean() > 0.9
    assert 0.02 < (fitted.predict(other) == -1).mean() < 0.15
    assert np.array_equal(fitted.predict(other), np.where(fitted.decision_function(other) >= 0, 1, -1))
    assert (fitted.predict(shifted) == -1).mean() > 0.6
    with pytest.raises(BrainclipError, match="was fitted on 8"):
        fitted.score_samples(healthy(5, width=6))


def test_conditional_gaussian_gives_the_log_density_of_a_known_one() -> None:
    generator = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 0.5]])
    known = np.column_stack(
        [generator.uniform(-30, 30, 20000), np.full(20000, np.nan), np.full(20000, np.nan)]
    )
    mean = np.column_stack([known[:, 0] / 10, np.zeros(20000), np.ones(20000)])
    values = mean + generator.multivariate_normal(np.zeros(3), covariance, 20000)
    fitted = ConditionalGaussian(knots=4).fit(joined(known, values))
    true = stats.multivariate_normal(np.zeros(3), covariance).logpdf(values[:200] - mean[:200])
    found = fitted.score_samples(joined(known[:200], values[:200]))
    # the spline rounds the straight mean a little, which far out counts more
    assert np.abs(found - true).mean() < 0.1 and np.corrcoef(found, true)[0, 1] > 0.995


def test_age_counts_for_the_conditional_gaussian_and_an_unknown_one_is_the_mean() -> None:
    fitted = ConditionalGaussian().fit(healthy(2000))
    asked = healthy(200, seed=3)
    wrong, unknown, mean = asked.copy(), asked.copy(), asked.copy()
    wrong[:, 1] = 100 - asked[:, 1]
    unknown[:, 1], mean[:, 1] = np.nan, fitted.centre_[1]
    assert fitted.score_samples(asked).mean() > fitted.score_samples(wrong).mean() + 0.5
    assert np.allclose(fitted.score_samples(unknown), fitted.score_samples(mean), atol=1e-4)


def test_nearest_neighbours_are_those_of_the_same_place() -> None:
    X = joined(np.array([[0, 50, 0], [1, 50, 0], [40, 50, 0]], np.float32), np.array([[0.0], [4.0], [1.0]]))
    fitted = NearestNeighbours(k=1).fit(X)
    assert fitted.score_samples(np.array([[0.5, 50, 0, 1.0]])).tolist() == [-1.0]  # not the one at 40 mm
    assert fitted.score_samples(np.array([[90.0, 50, 0, 1.0]])).tolist() == [0.0]  # beyond the end: the last


def test_mahalanobis_takes_the_mean_of_its_bin() -> None:
    X = healthy(3000)
    fitted = Mahalanobis(bin_mm=20.0).fit(X)
    at = np.concatenate([[0.0, 50.0, 0.0], fitted.means_[list(fitted.bins_).index(0.0)]])
    assert fitted.score_samples(at[None])[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "detector",
    [
        Intensity(),
        CohortZ(),
        Reconstruction(lambda shown, known: np.minimum(shown, 0.6), edges=0.0, smooth=0.5),
        PatchGaussian(16, bin_mm=3.0),
        PatchMemory(16),
    ],
    ids=lambda one: type(one).__name__,
)
def test_maps_are_highest_at_a_planted_spot(detector: object) -> None:
    fitted = clone(detector).fit(slices(90))
    other = slices(20, seed=5)
    spotted = with_spot(other)
    maps = fitted.maps(spotted)
    assert maps.shape == (20, 16, 16) and maps.dtype == np.float32
    highest = np.array([np.unravel_index(one.argmax(), one.shape) for one in maps])
    assert ((highest >= (5, 9)) & (highest <= (7, 11))).all()
    assert (fitted.score_samples(spotted) < fitted.score_samples(other)).all()
    assert np.allclose(fitted.score_samples(spotted), -top_mean(maps))
    assert (fitted.predict(spotted) == -1).all()


def test_where_few_healthy_people_have_brain_nothing_is_called_abnormal() -> None:
    rim = np.zeros((16, 16), dtype=bool)
    rim[0] = True
    known, pixels = apart(slices(90))
    pixels = np.where(rim.ravel(), 0.0, pixels)
    pixels[:9, :16] = 0.5  # one in ten has brain there
    wider = pixels[20:40].copy()
    wider[:, :16] = 0.5  # by a mask that is a row wider
    X = joined(known[20:40], wider)
    fitted = CohortZ().fit(joined(known, pixels))
    assert not fitted.maps(X)[:, 0].any()
    assert CohortZ(share=0.0).fit(joined(known, pixels)).maps(X)[:, 0].min() > 1


def test_patch_memory_leaves_out_the_slice_itself_when_it_is_fitted() -> None:
    X = slices(60)
    fitted = PatchMemory(16).fit(X)
    assert np.allclose(fitted.maps(X[:5]), 0, atol=1e-3)  # half precision
    assert fitted.offset_ < -0.01


def test_maps_come_to_the_pixels_and_end_at_the_brain() -> None:
    shown = np.full((1, 16, 16), 0.5, np.float32)
    shown[:, :, 12:] = 0
    rising = np.tile(np.arange(4, dtype=np.float32), (1, 4, 1))
    found = to_pixels(rising, shown)
    assert found[0, 3, 5] == pytest.approx((5.5 / 4) - 0.5) and found[0, 3, 12] == 0


def test_covariates_of_facts_and_what_cannot_be_used() -> None:
    rows = [Facts("axial", 4.0, "T1", known={"age": 30, "sex": "male"}), Facts("axial", 5.0, "T1")]
    known = covariates(rows)
    assert known[0].tolist() == [4, 30, 1] and np.isnan(known[1, 1:]).all()
    with pytest.raises(BrainclipError, match="without its position"):
        covariates([Facts("axial", None, "T1")])
    with pytest.raises(BrainclipError, match="not finite"):
        apart(np.full((2, 5), np.nan))
    with pytest.raises(BrainclipError, match="expected"):
        apart(np.zeros((2, 3)))
    with pytest.raises(BrainclipError, match="no square slice"):
        CohortZ().fit(np.zeros((4, 14)))
