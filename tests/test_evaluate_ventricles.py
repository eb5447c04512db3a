"""Sizes of ventricles in words, judged by what people of that age have."""

from __future__ import annotations

import numpy as np

from brainclip.evaluate.ventricles import BOUNDS, Usual, words_of


def people(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ages, places, shares in percent that grow with both, and how much of them is a person's own."""
    generator = np.random.default_rng(4)
    ages, places = generator.uniform(20, 85, n), generator.uniform(10, 25, n)
    own = generator.normal(0, 1.5, n)
    return ages, places, 0.1 * ages + 0.2 * places + own, own


def test_a_percentile_is_for_the_age_and_the_place() -> None:
    ages, places, share, own = people(20000)
    usual = Usual(ages, places, share)
    found = usual.percentile(ages, places, share)
    assert np.corrcoef(found, own)[0, 1] > 0.95
    assert abs(np.corrcoef(found, ages)[0, 1]) < 0.02 and abs(np.corrcoef(found, places)[0, 1]) < 0.02
    again = usual.percentile(np.array([30.0, 80.0]), np.array([12.0, 24.0]), np.array([5.4, 12.8]))
    assert np.allclose(again, 50, atol=5)


def test_ventricles_of_a_young_person_are_enlarged_where_an_old_one_has_normal_ones() -> None:
    ages, places, share, _ = people(2000)
    usual = Usual(ages, places, share)
    at = np.full(2, 17.0)
    assert words_of(usual.percentile(np.array([30.0, 80.0]), at, np.full(2, 11.4))).tolist() == [
        "enlarged",
        "normal",
    ]


def test_every_percentile_has_a_word_and_the_bounds_lie_between_those_of_captions() -> None:
    assert BOUNDS == [27.5, 72.5]
    words = words_of(np.array([0.0, 20.0, 27.0, 28.0, 50.0, 72.0, 73.0, 80.0, 100.0]))
    assert words.tolist() == ["small"] * 3 + ["normal"] * 3 + ["enlarged"] * 3
