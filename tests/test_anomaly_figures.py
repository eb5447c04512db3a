from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from atlas.facts import Facts
from brainclip.anomaly.calibration import Calibrator, of_people, uniformity
from brainclip.anomaly.cases import Case, Cases
from brainclip.anomaly.figures import auprc_difference, auroc_difference, pixel_figures, slice_figures
from brainclip.errors import BrainclipError


def cases(n: int = 40, side: int = 12) -> Cases:
    """Half of the slices have a lesion of nine pixels; five people."""
    generator = np.random.default_rng(0)
    rows = tuple(
        Case("toy", "test", f"p{k % 5}", Facts("axial", 0.0, "T1"), "tumour" if k % 2 else "")
        for k in range(n)
    )
    masks = np.zeros((n, side, side), dtype=bool)
    masks[1::2, 3:6, 4:7] = True
    return Cases(rows, np.full((n, side, side), 0.5, np.float32) + 0 * generator.random(), masks)


def test_p_values_of_healthy_scores_are_uniform_and_none_is_0() -> None:
    generator = np.random.default_rng(1)
    fitted = Calibrator().fit(generator.normal(size=999))
    p = fitted.p_values(generator.normal(size=4000))
    assert p.min() >= 1 / 1000 and p.max() <= 1
    assert uniformity(p)["ks"] < 0.04
    assert fitted.p_values(np.array([1e9, -1e9])).tolist() == [1 / 1000, 1.0]
    assert fitted.transform(np.array([fitted.location_])).tolist() == [0.0]
    assert uniformity(p / 2)["p"] < 1e-6
    with pytest.raises(BrainclipError, match="8 at least"):
        Calibrator().fit(np.zeros(3))


def test_slices_that_vary_with_their_person_do_not_look_less_uniform_than_they_are() -> None:
    generator = np.random.default_rng(2)
    people = np.repeat(np.arange(12), 30)
    p = np.repeat(generator.random(12), 30)  # one value a person, uniform over people
    assert uniformity(p)["p"] < 1e-3  # as if 360 were independent
    assert uniformity(p, people)["p"] > 0.05


def test_the_score_of_a_person_is_that_of_the_most_abnormal_slices() -> None:
    scores = np.array([0, 0, 0, 8, 1, 1, 1, 1], float)
    found, names = of_people(scores, np.array(["b"] * 4 + ["a"] * 4))
    assert names.tolist() == ["a", "b"] and found.tolist() == [1, 8]


def test_slice_figures_of_a_perfect_and_a_useless_score() -> None:
    some = cases()
    sick = some.column("kind") != ""
    perfect = slice_figures(sick + np.random.default_rng(0).random(len(sick)) * 0.1, some)
    assert perfect["auroc"]["value"] == 1 and perfect["false_alarms"]["value"] == 0
    assert perfect["prevalence"] == 0.5 and perfect["slices_per_person"] == 4
    useless = slice_figures(np.zeros(len(sick)), some)
    assert useless["auroc"]["value"] == 0.5 and useless["auprc"]["value"] == 0.5
    assert useless["false_alarms"]["value"] == 1


def test_pixel_figures_are_those_of_the_pixels_themselves() -> None:
    some = cases()
    maps = some.masks * 1.0 + np.random.default_rng(0).normal(scale=0.5, size=some.masks.shape)
    found = pixel_figures(maps, some, thresholds=0.8)
    truth = some.masks.ravel()
    assert found["auprc"]["value"] == pytest.approx(average_precision_score(truth, maps.ravel()), abs=0.02)
    best = max(
        2 * (truth & (maps.ravel() > t)).sum() / (truth.sum() + (maps > t).sum())
        for t in np.arange(0, 2, 0.02)
    )
    assert found["dice"]["value"] == pytest.approx(best, abs=0.01)
    called = maps.ravel() > 0.8
    at = 2 * (truth & called).sum() / (truth.sum() + called.sum())
    assert found["dice_at"]["value"] == pytest.approx(at, abs=0.01)
    again = pixel_figures(maps, some, thresholds=found["threshold"])
    assert again["dice_at"]["value"] == pytest.approx(found["dice"]["value"], abs=1e-6)
    assert found["auprc"]["low"] < found["auprc"]["value"] < found["auprc"]["high"]


def test_a_difference_is_of_the_same_people_so_it_is_surer_than_either() -> None:
    some, generator = cases(), np.random.default_rng(3)
    sick = some.column("kind") != ""
    of_person = np.array([int(name[1]) for name in some.column("subject")])
    scores = sick + 2.0 * generator.random(len(sick)) + of_person  # people differ much
    same = auroc_difference(scores, 3 * scores + 1, some)
    assert same["value"] == same["low"] == same["high"] == 0
    found = auroc_difference(scores, scores - 2 * sick, some)
    alone = slice_figures(scores, some)["auroc"]
    lower = slice_figures(scores - 2 * sick, some)["auroc"]
    assert found["value"] == pytest.approx(alone["value"] - lower["value"], abs=1e-4) and found["low"] > 0
    perfect = some.masks.astype(np.float32) + 1e-3 * generator.random(some.masks.shape)
    gain = auprc_difference(perfect, -perfect, some)
    expected = [pixel_figures(one, some)["auprc"]["value"] for one in (perfect, -perfect)]
    assert gain["value"] == pytest.approx(expected[0] - expected[1], abs=1e-4) and gain["low"] > 0.5
