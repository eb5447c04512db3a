from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from atlas.slices import MODALITIES, PLANES
from brainclip.evaluate.classifier import area, classifier_test
from brainclip.evaluate.facets import agreement, alike, differing, facet_table, names_of, values_of
from brainclip.evaluate.matched import Matched, Slices
from brainclip.evaluate.similarity import cosine, neighbour_sheet, pair_mean, similarity
from brainclip.evaluate.wanted import Wanted


def wanted(n: int, seed: int, people: int = 0) -> Wanted:
    """n slices with facts at random, of so many people; 0: pictures."""
    draw = np.random.default_rng(seed)
    subjects = draw.integers(people, size=n) if people else None
    ages = draw.uniform(20, 85, max(people, n))
    return Wanted(
        plane=draw.choice(PLANES, n),
        modality=draw.choice(MODALITIES[:2], n),
        position_mm=draw.choice([-36.0, 0.0, 36.0], n) + draw.uniform(-2, 2, n),
        age=ages[:n] if subjects is None else ages[subjects],
        female=np.full(n, np.nan),
        subject=None if subjects is None else np.array([f"{seed}-{k}" for k in subjects]),
    )


def seen(facts: Wanted, seed: int, noise: float = 0.3) -> np.ndarray:
    """(N, 12) features in which plane, contrast, place and age can be seen."""
    draw = np.random.default_rng(seed)
    columns = [facts.plane == plane for plane in PLANES] + [facts.modality == m for m in MODALITIES[:2]]
    columns += [2 * facts.position_mm / 36, (facts.age - 50) / 20, *np.zeros((5, len(facts.age)))]
    return np.stack(columns, axis=1) + noise * draw.normal(size=(len(facts.age), 12))


def sets(facts: dict[str, Wanted]) -> Matched:
    return Matched(**{kind: Slices(torch.zeros(len(w.plane), 1, 8, 8), w) for kind, w in facts.items()})


def test_pairs_agree_and_differ_by_hand() -> None:
    nan = np.nan
    first = Wanted(*map(np.array, (["axial"] * 2, ["T1"] * 2, [0.0, 0.0], [30.0, nan], [nan, nan])))
    planes, contrasts = ["axial", "axial", "axial", "coronal", "axial"], ["T1", "T1", "T2", "T1", "T1"]
    second = Wanted(
        *map(np.array, (planes, contrasts, [5.0, 21, 0, 40, 0], [39.0, 30, 30, 30, 60], [nan] * 5))
    )
    tables = agreement(first, second)
    assert tables["plane"][0].tolist() == [1, 1, 1, -1, 1]
    assert tables["place"][0].tolist() == [1, -1, 1, 0, 1]
    assert tables["age"].tolist() == [[1, 1, 1, 1, -1], [1, 1, 1, 1, 1]]
    assert alike(first, second).tolist() == [
        [True, False, False, False, False],
        [True, False, False, False, True],
    ]
    found = {facet: np.flatnonzero(differing(facet, first, second)[0]).tolist() for facet in tables}
    assert found == {"plane": [3], "contrast": [2], "place": [1], "age": [4]}


def test_facet_table_is_the_mean_of_its_pairs_and_leaves_a_person_out() -> None:
    rows = wanted(60, 1, people=6)
    cosines = np.random.default_rng(0).normal(size=(60, 60))
    table = facet_table("contrast", cosines, rows, rows)
    tables = agreement(rows, rows)
    pairs = (tables["plane"] == 1) & (tables["place"] == 1) & (tables["age"] == 1)
    pairs &= (
        (rows.modality == "T1")[:, None] & (rows.modality == "T2") & (rows.subject[:, None] != rows.subject)
    )
    assert table[0][1] == pytest.approx(cosines[pairs].mean(), abs=1e-4) and pairs.sum() > 5
    assert table[0][2] is None  # no PD
    assert set(values_of("place", rows)) <= set(names_of("place")) and len(names_of("place")) == 9


def test_mean_over_pairs_and_its_interval() -> None:
    rows, columns = wanted(4, 1), wanted(6, 2, people=3)
    cosines = np.random.default_rng(1).normal(size=(4, 6))
    allowed = np.zeros((4, 6), dtype=bool)
    allowed[0, :3] = allowed[2, 4] = True
    figure = pair_mean(cosines, allowed, rows, columns)
    assert figure["value"] == pytest.approx(cosines[allowed].mean(), abs=1e-4)
    assert (figure["n"], figure["pairs"]) == (2, 4)
    nothing = pair_mean(cosines, np.zeros((4, 6), dtype=bool), rows, columns)
    assert nothing["value"] is None and nothing["n"] == 0
    own = pair_mean(np.ones((6, 6)), np.ones((6, 6), dtype=bool), columns, columns)
    assert own["pairs"] == int((columns.subject[:, None] != columns.subject).sum())


def test_cosine_is_scikit_learns() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 7, 5))
    assert np.allclose(cosine(first, second), cosine_similarity(first, second))


def test_pictures_that_show_their_facts_are_as_near_as_other_people_and_others_are_not() -> None:
    facts = {"made": wanted(150, 1), "real": wanted(400, 2, people=20), "floor": wanted(150, 3, people=20)}
    features = {kind: seen(w, k) for k, (kind, w) in enumerate(facts.items())}
    good = similarity(sets(facts), features)
    equal = good["equal"]
    assert abs(equal["made"]["value"] - equal["real"]["value"]) < 0.05 and equal["made"]["value"] > 0.4
    for facet in ("plane", "contrast", "place", "age"):
        assert good["other"][facet]["made"]["high"] < equal["made"]["low"]
    assert good["nearest"]["made"]["plane"]["value"] > 0.9 < good["nearest"]["real"]["plane"]["value"]
    assert (
        good["classifier"]["made"]["auc"]["low"] < 0.55 and good["classifier"]["floor"]["auc"]["low"] < 0.55
    )
    shuffled = features | {"made": features["made"][np.random.default_rng(5).permutation(150)]}
    bad = similarity(sets(facts), shuffled)
    assert bad["equal"]["made"]["high"] < 0.2 < equal["real"]["low"]
    assert bad["nearest"]["made"]["plane"]["high"] < 0.6
    assert bad["classifier"]["made"]["auc"]["low"] < 0.55  # as a set they are the same
    shifted = features | {"made": features["made"] + np.eye(12)[11]}
    told = similarity(sets(facts), shifted)["classifier"]["made"]["auc"]
    assert told["low"] > 0.9 and told["n"] == 150 and told["subjects"] == 20


def test_pca_is_of_the_real_slices_and_neighbours_run_from_near_to_far(tmp_path: Path) -> None:
    facts = {"made": wanted(30, 1), "real": wanted(60, 2, people=5), "floor": wanted(30, 3, people=5)}
    found = similarity(sets(facts), {kind: seen(w, 0) for kind, w in facts.items()})
    real = np.array(found["pca"]["real"])
    assert np.allclose(real.mean(0), 0, atol=1e-2) and real.var(0)[0] > real.var(0)[1]
    assert real.var(0) / 12 == pytest.approx(found["pca"]["variance"], abs=0.01)  # 12 standardised numbers
    near = [row["cosine"] for row in found["neighbours"]]
    assert len(near) == 12 and near == sorted(near, reverse=True)
    whole = sets(facts)
    neighbour_sheet(found["neighbours"], whole.made, whole.real, ["a prompt"] * 30, tmp_path / "n.png")
    with Image.open(tmp_path / "n.png") as sheet:
        assert sheet.width > 4 * 2 * 128


@pytest.mark.parametrize("shift", [0.0, 0.8, 2.0])
def test_classifier_reaches_the_auc_of_two_gaussians(shift: float) -> None:
    draw = np.random.default_rng(3)
    real, made = draw.normal(size=(1500, 6)), draw.normal(size=(1500, 6)) + shift * np.eye(6)[2]
    found = classifier_test(real, made, np.arange(1500))
    # n = 1,500 a side: standard error of an AUC of 0.5 is 0.01, and what the fit loses less than that
    assert found["auc"]["value"] == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=0.03)
    assert found["accuracy"]["value"] == pytest.approx(norm.cdf(shift / 2), abs=0.03)
    assert found["auc"]["low"] <= found["auc"]["value"] <= found["auc"]["high"]


def test_what_one_persons_slices_share_does_not_tell_two_sets_of_people_apart() -> None:
    draw = np.random.default_rng(4)
    people = np.repeat(np.arange(60), 10)
    features = 3 * draw.normal(size=(60, 40))[people] + draw.normal(size=(600, 40))
    real, made = features[:300], features[300:]
    found = classifier_test(real, made, people[:300], people[300:])
    assert found["auc"]["low"] < 0.5 < found["auc"]["high"]
    few = classifier_test(real[:90], made, people[:90], people[300:])
    assert few["auc"]["value"] is None and few["accuracy"]["n"] == 300


def test_area_is_scikit_learns_with_ties() -> None:
    draw = np.random.default_rng(0)
    low, high = draw.integers(0, 5, 40).astype(float), draw.integers(1, 6, 30).astype(float)
    truth = np.repeat([0, 1], [40, 30])
    assert area(low, high) == pytest.approx(roc_auc_score(truth, np.concatenate([low, high])))
