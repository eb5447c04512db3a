"""Distances of feature sets against closed forms, torch-fidelity, and sets whose answer is plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brainclip.errors import BrainclipError
from brainclip.evaluate.distribution import (
    NEIGHBOURS_DENSITY,
    distribution,
    fid_infinity,
    frechet,
    kernel,
    kid,
    manifolds,
    small_sample_warnings,
    squared_mmd,
    vendi,
)


def normal(n: int, dimensions: int, seed: int, *, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).normal(size=(n, dimensions))


def people(n: int, each: int) -> np.ndarray:
    return np.array([f"p{k // each}" for k in range(n)])


def test_fid_of_gaussians_is_the_closed_form() -> None:
    # |0 - 2|^2 in 4 dimensions, and 4 (1 - 3)^2 from the deviations; a sample of 20,000 is 1 % off
    first, second = normal(20_000, 4, 0), normal(20_000, 4, 1, shift=2.0, scale=3.0)
    assert frechet(first, second) == pytest.approx(4 * 4 + 4 * (1 - 3) ** 2, rel=0.02)


def test_fid_is_exact_for_sets_of_one_covariance() -> None:
    features = normal(50, 6, 2)
    assert frechet(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet(features, features + 3.0) == pytest.approx(6 * 9, rel=1e-9)
    # the covariance of the triple is nine times as large: sum of (3 - 1)^2 times the variances
    assert frechet(features - features.mean(0), 3 * (features - features.mean(0))) == pytest.approx(
        4 * features.var(0, ddof=1).sum(), rel=1e-9
    )


@pytest.mark.parametrize(("real", "made", "dimensions"), [(40, 90, 6), (90, 40, 6), (90, 7, 12), (9, 8, 12)])
def test_fid_is_that_of_torch_fidelity_with_many_pictures_and_with_few(
    real: int, made: int, dimensions: int
) -> None:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    first, second = normal(real, dimensions, 3), normal(made, dimensions, 4, shift=0.5, scale=1.5)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(x)) for x in (first, second)), False
    )[KEY_METRIC_FID]
    # theirs takes roots of eigenvalues that should be 0 and are 1e-15
    assert frechet(first, second) == pytest.approx(theirs, rel=1e-5)


def test_fid_infinity_takes_off_what_few_pictures_add() -> None:
    # true distance: 8 dimensions, shift 0.5: 2.0
    found, plain = [], []
    for seed in range(40):
        real, made = normal(100, 8, 2 * seed), normal(100, 8, 2 * seed + 1, shift=0.5)
        found.append(fid_infinity(real, made)["value"])
        plain.append(frechet(real, made))
    assert np.mean(plain) > 2.35
    assert np.mean(found) == pytest.approx(2.0, abs=0.2)  # one has a deviation of 0.5
    few = fid_infinity(normal(39, 8, 0), normal(400, 8, 1))
    assert few == {"value": None, "low": None, "high": None, "n": 39}


def test_kid_is_torch_fidelitys_and_its_unbiased_estimate_is_the_library_on_whole_sets() -> None:
    from torch_fidelity.metric_kid import mmd2

    real, made = normal(60, 5, 5), normal(60, 5, 6, shift=0.4)
    both = np.concatenate([real, made])
    table = kernel(both, both)
    theirs = mmd2(table[:60, :60], table[:60, 60:], table[60:, 60:])
    assert squared_mmd(table, np.arange(60), np.arange(60, 120)) == pytest.approx(theirs, rel=1e-10)
    value, spread = kid(real, made)
    assert value == pytest.approx(theirs, abs=4 * spread / 10) and spread > 0  # 100 subsets: a tenth


def test_kid_of_equal_distributions_is_near_zero_and_often_negative() -> None:
    values = [kid(normal(80, 4, k), normal(80, 4, k + 100), subsets=20)[0] for k in range(20)]
    assert abs(np.mean(values)) < 0.03  # shifted by 0.4 it is 0.3
    assert 3 <= sum(value < 0 for value in values) <= 17
    assert kid(normal(80, 4, 0), normal(80, 4, 1, shift=0.4), subsets=20)[0] > 0.1


def test_rows_drawn_twice_are_not_compared_with_themselves() -> None:
    # far apart and of unlike length: a row with itself has a kernel of thousands
    both = np.diag(np.arange(1.0, 9.0)) * 30
    table = kernel(both, both)
    assert squared_mmd(table, np.array([0, 0, 1]), np.array([4, 5])) == pytest.approx(0, abs=1e-12)


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, made = normal(50, 3, 7), normal(40, 3, 8, shift=0.8, scale=0.6)
    theirs = prc_features_to_metric(torch.from_numpy(made), torch.from_numpy(real), verbose=False)
    ours = manifolds(real, made)
    assert 0.1 < theirs["recall"] < 0.9
    assert ours["precision"].mean() == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours["recall"].mean() == pytest.approx(theirs["recall"], abs=1e-6)


def test_manifolds_of_points_on_a_line() -> None:
    real = np.arange(10.0)[:, None]
    # third nearest: 2 away within, 3 at the ends; fifth: 3 within, 5 at the ends
    far = manifolds(real, real + 100)
    assert all(values.sum() == 0 for values in far.values())
    same = manifolds(real, real)
    assert all(same[name].all() for name in ("precision", "recall", "coverage"))
    one_place = manifolds(real, np.full((10, 1), 4.5))
    assert one_place["precision"].all() and one_place["recall"].sum() == 0  # all pictures are one picture
    assert list(one_place["coverage"]) == [True] * 10
    # balls to the fifth nearest: of 0 and 9 they reach 5, of 1 and 8 4, of the rest 3
    assert list(one_place["density"]) == [2.0] * 10
    right = manifolds(real, np.full((5, 1), 8.0))
    assert list(right["coverage"]) == [False] * 4 + [False] + [True] * 5
    assert right["density"][0] == 5 / 5


def test_density_and_coverage_of_two_sets_of_one_distribution_are_as_expected() -> None:
    # Naeem et al. 2020, appendix: the mean of density is 1, of coverage 1 - (N-1)...(N-k) / (N+M-1)...(N+M-k)
    n, m, k = 60, 40, NEIGHBOURS_DENSITY
    draws = [manifolds(normal(n, 4, 2 * seed), normal(m, 4, 2 * seed + 1)) for seed in range(100)]
    density, coverage = (np.mean([draw[name].mean() for draw in draws]) for name in ("density", "coverage"))
    uncovered = np.prod([(n - i) / (n + m - i) for i in range(1, k + 1)])
    assert density == pytest.approx(1.0, abs=0.03) and coverage == pytest.approx(1 - uncovered, abs=0.01)


def test_vendi_counts_the_kinds() -> None:
    directions = np.eye(6)[:4]
    assert vendi(np.repeat(directions, 5, axis=0)) == pytest.approx(4)
    assert vendi(np.repeat(directions[:1], 7, axis=0)) == pytest.approx(1)
    assert vendi(np.eye(5)) == pytest.approx(5)
    uneven = np.concatenate([np.repeat(directions[:1], 3, axis=0), directions[1:2]])
    assert vendi(uneven) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


def test_distribution_tells_a_shifted_set_from_the_floor() -> None:
    held, trained, made = normal(120, 4, 9), normal(90, 4, 10), normal(90, 4, 11, shift=0.7)
    found = distribution(held, made, people(120, 10))
    floor = distribution(held, trained, people(120, 10), made_subjects=people(90, 9))
    assert found["n"] == {"real": 120, "made": 90, "dimensions": 4}
    assert found["fid"]["n"] == 90 and found["fid"]["subjects"] == 12
    for name in ("fid", "kid", "fid_infinity"):
        assert found[name]["low"] > floor[name]["high"], name
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found["precision"]["value"] < floor["precision"]["value"] > 0.8
    assert floor["kid"]["low"] < 0 < floor["kid"]["high"]
    assert found["vendi_real"]["n"] == 90 and found["vendi_real"]["subjects"] == 12
    assert found["warnings"] == []


def test_slices_of_one_person_make_the_distance_less_sure() -> None:
    generator = np.random.default_rng(0)
    person = np.repeat(generator.normal(size=(12, 3)), 20, axis=0)
    real = person + 0.1 * generator.normal(size=person.shape)
    made = normal(100, 3, 1)
    apart = distribution(real, made, np.arange(240))["fid"]
    together = distribution(real, made, people(240, 20))["fid"]
    assert together["value"] == apart["value"]
    assert together["high"] - together["low"] > 2 * (apart["high"] - apart["low"])


def test_few_pictures_are_said_to_be_few() -> None:
    assert small_sample_warnings(5000, 4000, 192) == []
    (sentence,) = small_sample_warnings(3000, 1000, 192)
    assert sentence.startswith("1000 pictures for 192 dimensions") and "FID-infinity" not in sentence
    assert "FID-infinity needs 960" in small_sample_warnings(959, 1200, 192)[0]
    with pytest.raises(BrainclipError, match="5 pictures against 60 real slices"):
        distribution(normal(60, 3, 0), normal(5, 3, 1), people(60, 5))
