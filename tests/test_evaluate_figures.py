from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from brainclip.evaluate.figures import (
    average,
    bootstrap,
    proportion,
    rank_correlation,
    rounded,
    spearman,
    two_sample,
    wilson,
)


def test_wilson_interval_of_nine_in_ten_is_the_published_one() -> None:
    low, high = wilson(9, 10)
    assert low == pytest.approx(0.5958, abs=1e-4) and high == pytest.approx(0.9821, abs=1e-4)


def test_wilson_interval_agrees_with_scipy_at_every_share() -> None:
    for hits in range(0, 31, 5):
        theirs = stats.binomtest(hits, 30).proportion_ci(method="wilson")
        assert wilson(hits, 30) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_no_trials_say_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert proportion(np.array([], dtype=bool))["value"] is None


def test_rank_correlation_agrees_with_scipy_with_ties() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 6, 40), generator.integers(0, 6, 40)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_any_rising_relation_has_rank_correlation_one_and_a_constant_none() -> None:
    x = np.linspace(20, 85, 14)
    assert spearman(x, np.exp(x / 20))["value"] == 1.0
    assert spearman(x, -x)["value"] == -1.0
    assert spearman(x, np.ones(14))["value"] is None


def test_slices_of_one_subject_widen_the_interval() -> None:
    generator = np.random.default_rng(1)
    values = np.repeat(generator.normal(size=12), 30)
    apart, together = average(values), average(values, np.repeat(np.arange(12), 30))
    assert apart["value"] == together["value"] and together["subjects"] == 12 and together["n"] == 360
    # 30 equal slices a subject: the spread of the mean is sqrt(30) larger
    ratio = (together["high"] - together["low"]) / (apart["high"] - apart["low"])
    assert ratio == pytest.approx(np.sqrt(30), rel=0.3)


def test_proportion_without_a_miss_is_no_surer_than_its_subjects() -> None:
    figure = proportion(np.ones(300, dtype=bool), np.repeat(np.arange(5), 60))
    assert (figure["value"], figure["high"]) == (1.0, 1.0)
    assert figure["low"] == pytest.approx(wilson(5, 5)[0], abs=1e-4)


def test_one_subject_alone_has_no_interval() -> None:
    figure = average(np.array([1.0, 2.0, 6.0]), np.array(["a", "a", "a"]))
    assert figure == {"value": 3.0, "low": None, "high": None, "n": 3, "subjects": 1}


def test_bootstrap_of_a_mean_has_the_width_of_the_normal_interval() -> None:
    values = np.random.default_rng(2).normal(size=400)
    figure = bootstrap(lambda rows: float(values[rows].mean()), 400)
    # 1.96 standard errors on either side; a thousand draws give the ends to about 5 %
    assert figure["high"] - figure["low"] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_centred_interval_is_around_the_value_where_draws_are_off() -> None:
    # a draw of 100 rows has 63 different ones
    plain = bootstrap(lambda rows: float(len(np.unique(rows))), 100)
    assert plain["high"] < 75 and plain["value"] == 100
    centred = bootstrap(lambda rows: float(len(np.unique(rows))), 100, centred=True)
    assert centred["low"] < 100 < centred["high"]
    width = plain["high"] - plain["low"]
    assert centred["high"] - centred["low"] == pytest.approx(width)


def test_each_of_two_sets_is_drawn_by_itself_over_its_subjects() -> None:
    subjects = np.repeat(["a", "b", "c"], 4)
    sizes = []

    def statistic(first: np.ndarray, second: np.ndarray) -> float:
        sizes.append((len(first), len(second), int(first.max()), int(second.max())))
        return float(len(first) / len(second))

    figure = two_sample(statistic, subjects, 5, draws=50)
    assert figure == {"value": 2.4, "low": 2.4, "high": 2.4, "n": 5, "subjects": 3}
    assert len(sizes) == 51 and all(size[:2] == (12, 5) and size[2] < 12 and size[3] < 5 for size in sizes)


def test_interval_of_a_distance_ends_at_its_least_value() -> None:
    values, subjects = np.random.default_rng(0).normal(size=30), np.arange(30)

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        return float(abs(values[first].mean() - values[second].mean()))

    free = two_sample(distance, subjects, 30)
    assert free["value"] == 0.0 and free["low"] < 0
    assert two_sample(distance, subjects, 30, least=0.0) == free | {"low": 0.0}


def test_small_numbers_keep_their_digits() -> None:
    assert [rounded(x) for x in (0.123456, 0.00123456, 12.345678, 1e-17, -0.000123456)] == [
        0.1235,
        0.001235,
        12.3457,
        0.0,
        -0.0001235,
    ]
