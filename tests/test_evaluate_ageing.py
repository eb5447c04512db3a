"""Slopes by age that were planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from brainclip.evaluate.ageing import age_effect, slope, slope_difference
from brainclip.evaluate.figures import bootstrap


def test_slope_is_that_of_the_least_squares_line() -> None:
    generator = np.random.default_rng(0)
    ages, shares = generator.uniform(20, 85, 40), generator.normal(5, 2, 40)
    assert slope(ages, shares) == pytest.approx(10 * stats.linregress(ages, shares).slope)
    assert np.isnan(slope(np.full(4, 50.0), np.arange(4.0)))


def test_a_planted_slope_lies_in_its_interval_as_often_as_it_should() -> None:
    generator, inside = np.random.default_rng(1), 0
    for _ in range(40):
        ages, shares, people = planted(generator)
        figure = bootstrap(lambda rows, a=ages, s=shares: slope(a[rows], s[rows]), 60, people, draws=150)
        inside += figure["low"] <= 0.8 <= figure["high"]
    assert inside >= 33  # 38 expected; a bootstrap over 30 people is a little narrow


def test_a_planted_slope_is_found_with_its_people() -> None:
    found = age_effect(*planted(np.random.default_rng(3)))
    assert found["slope"]["low"] < 0.8 < found["slope"]["high"] and found["slope"]["subjects"] == 30
    assert 2 + 0.08 * 30 < found["mean"]["value"] < 2 + 0.08 * 75 and found["order"]["low"] > 0.5


def planted(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ages, shares and people of 60 slices, two of each of 30 people, 0.8 points a decade."""
    people = np.repeat(np.arange(30), 2)
    ages = generator.uniform(20, 85, 30)[people]
    shares = 2 + 0.08 * ages + generator.normal(0, 1, 30)[people] + generator.normal(0, 0.3, 60)
    return ages, shares, people


def test_the_difference_of_slopes_is_paired() -> None:
    generator = np.random.default_rng(2)
    ages = generator.uniform(20, 85, 40)
    real = 3 + 0.1 * ages + generator.normal(0, 2, 40)
    made = real - 0.03 * ages  # what differs between people is in both
    found = slope_difference(ages, made, real, np.arange(40))
    assert found["value"] == pytest.approx(-0.3, abs=1e-4)
    assert found["high"] - found["low"] < 1e-3 and found["n"] == 40
    assert age_effect(ages, real, np.arange(40))["order"]["value"] > 0.5
