from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from brainclip.evaluate.figures import average, bootstrap, proportion, rank_correlation, spearman, wilson


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
