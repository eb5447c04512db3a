"""Captions: levels, what is stated, and whether it is true."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atlas.atlas import load_atlas
from atlas.caption import (
    Facts,
    caption,
    describe,
    facet_table,
    keywords,
    truth,
    truth_matrix,
    wording_names,
)
from atlas.errors import PromptError
from atlas.facts import AXIS, age_band, level_at, level_named, levels, region_names, with_side, wordings
from atlas.lint import all_words
from atlas.phrases import split_words
from atlas.slices import Slice
from atlas.structures import SIZES, structures
from atlas.truth import mention_table, truth_of_tables


def random_facts(seed: int) -> Facts:
    """Facts of a made-up slice; every kind of fact is missing at times."""
    rng = random.Random(seed)
    plane = rng.choice(list(AXIS))
    position_mm = round(rng.uniform(-70, 75) - (25 if plane == "coronal" else 0), 2)
    names = [
        with_side(name, side) for name, sides in sorted(region_names().items()) for side in sorted(sides)
    ]
    known: dict[str, Any] = {"health": "healthy"}
    choices = {
        "age": [round(rng.uniform(18, 91), 2)],
        "sex": ["female", "male"],
        "handedness": ["left", "right"],
        "field_strength": [1.5, 3.0],
        "site": ["Guys"],
    }
    for name, values in choices.items():
        if rng.random() < 0.8:
            known[name] = rng.choice(values)
    sizes = {name: rng.choice(list(SIZES)) for name in structures() if rng.random() < 0.7}
    return Facts(
        plane=plane,
        position_mm=position_mm,
        modality=rng.choice(["T1", "T2", "PD", "FLAIR"]),
        level=level_at(plane, position_mm),
        sizes=sizes,
        regions={name: round(rng.uniform(20, 400), 1) for name in rng.sample(names, 20)},
        known=known,
        source="simulated",
    )


def test_every_position_of_every_plane_has_exactly_one_level():
    for plane, rows in levels().items():
        assert [row.from_mm for row in rows[1:]] == [row.to_mm for row in rows[:-1]], plane
        assert rows[0].from_mm <= -113
        assert rows[-1].to_mm >= 106
        assert len({row.name for row in rows}) == len(rows)
        for row in rows[1:-1]:
            assert 5 <= row.to_mm - row.from_mm <= 14, (plane, row.name)
        for row in rows:
            assert level_at(plane, row.from_mm) == row.name
            assert level_named(plane, level_at(plane, row.to_mm - 0.01)) == row


def test_a_word_for_a_level_means_one_level_of_its_plane():
    for plane, rows in levels().items():
        words = [split_words(word) for row in rows for word in {*row.said, *row.views, *row.understood}]
        twice = {" ".join(word) for word in words if words.count(word) > 1}
        assert not twice, plane


@pytest.mark.parametrize(
    ("plane", "level", "region"),
    [
        ("axial", "pons", "brainstem"),
        ("axial", "medial temporal lobes", "hippocampus"),
        ("axial", "medial temporal lobes", "amygdala"),
        ("axial", "basal ganglia", "putamen"),
        ("axial", "basal ganglia", "globus pallidus"),
        ("axial", "thalamus", "thalamus"),
        ("axial", "lateral ventricles", "lateral ventricle"),
        ("coronal", "hippocampus", "hippocampus"),
        ("coronal", "amygdala", "amygdala"),
        ("coronal", "brainstem", "brainstem"),
        ("coronal", "anterior commissure", "putamen"),
        ("coronal", "caudate heads", "caudate nucleus"),
        ("coronal", "splenium", "splenium of the corpus callosum"),
        ("sagittal", "left insula", "insula"),
        ("sagittal", "left thalamus", "thalamus"),
        ("sagittal", "right hippocampus", "hippocampus"),
        ("sagittal", "midline", "splenium of the corpus callosum"),
    ],
)
def test_a_structure_lies_at_the_level_that_is_named_after_it(plane, level, region):
    atlas = load_atlas()
    axis = "xyz".index(AXIS[plane])
    side = level.split()[0] if level.split()[0] in ("left", "right") else None
    ids = [row.id for row in atlas.regions if row.name == region and side in (None, row.side)]
    labels = np.isin(np.asanyarray(atlas.labels.dataobj), ids)
    area = labels.sum(axis=tuple(other for other in range(3) if other != axis))
    mm = atlas.labels.affine[axis, axis] * np.arange(len(area)) + atlas.labels.affine[axis, 3]
    row = level_named(plane, level)
    inside = area[(mm >= row.from_mm) & (mm < row.to_mm)]
    assert inside.max() > 0.9 * area.max()  # where it is largest
    assert inside.mean() > 0.45 * area.max()  # and large all through the level


def test_a_caption_is_the_same_for_the_same_seed_and_differs_over_seeds():
    facts = random_facts(1)
    assert caption(facts, seed=5) == caption(facts, seed=5)
    assert len({caption(facts, seed=seed).text for seed in range(200)}) > 150


def test_a_caption_is_true_of_its_own_slice():
    for seed in range(2000):
        facts = random_facts(seed)
        made = caption(facts, seed=seed)
        assert made.text
        assert made.mentioned["plane"] == facts.plane
        assert truth(made.mentioned, facts), made


def test_captions_are_short_tidy_and_leak_no_site():
    for seed in range(3000):
        text = caption(random_facts(seed), seed=seed).text
        assert len(text.split()) <= 48, text
        for wrong in ("  ", " ,", ",,", "{", "}", "..", ". ,", "Guys", "None", "a axial", "a 8", "an T1"):
            assert wrong not in text, text
        assert text == text.rstrip(" ,").lstrip(" ,.")


def test_each_wording_can_be_asked_for_and_an_unknown_one_is_refused():
    for name in wording_names():
        assert caption(random_facts(3), seed=1, wording=name).text
    with pytest.raises(PromptError, match="unknown wording 'poem'; known wordings: keywords"):
        caption(random_facts(3), seed=1, wording="poem")
    with pytest.raises(PromptError, match="no plane"):
        caption(Facts(modality="T1"), seed=1)


def test_facts_that_are_not_known_are_not_stated():
    for seed in range(300):
        made = caption(Facts(plane="axial", modality="T2"), seed=seed)
        assert set(made.mentioned) <= {"plane", "modality"}, made


def test_facts_are_stated_about_as_often_as_the_table_says():
    facts = random_facts(4)
    facts.known.update(age=50.0, sex="female")
    made = [caption(facts, seed=seed).mentioned for seed in range(4000)]

    def share(*names: str) -> float:
        return float(np.mean([any(name in mention for name in names) for mention in made]))

    chance = wordings()["chance"]
    talkative = 1 - chance["bare"]
    assert share("age", "age_band") == pytest.approx(chance["age"] * talkative, abs=0.04)  # 5 standard errors
    assert share("sex") == pytest.approx(chance["sex"] * talkative, abs=0.04)
    assert share("regions") == pytest.approx(chance["regions"] * talkative, abs=0.04)
    assert 0.68 < share("level", "position_mm") < 0.82
    assert 0.9 < share("modality") < 0.97


def test_all_words_contains_every_word_of_every_caption():
    known = all_words()
    for seed in range(3000):
        text = caption(random_facts(seed), seed=seed).text
        words = [word for word in split_words(text) if not word[0].isdigit()]
        assert set(words) <= known, set(words) - known
    assert "glioblastoma" not in known


BASE = Facts(
    plane="axial",
    position_mm=9.0,
    modality="T1",
    level="thalamus",
    regions={"left thalamus": 300.0, "left hippocampus": 19.0},
    sizes={"thalami": "small", "hippocampi": "enlarged"},
    known={"age": 70.4, "sex": "female", "health": "healthy", "field_strength": 1.5},
)


@pytest.mark.parametrize(
    ("mentioned", "expected"),
    [
        ({"plane": "axial", "modality": "T1"}, True),
        ({"plane": "axial"}, True),
        ({"plane": "coronal"}, False),
        ({"plane": "axial", "modality": "T2"}, False),
        ({"plane": "axial", "level": "thalamus"}, True),
        ({"plane": "axial", "level": "pons"}, False),
        ({"plane": "axial", "position_mm": 11}, True),
        ({"plane": "axial", "position_mm": 11.01}, False),
        ({"plane": "axial", "age": 73}, True),
        ({"plane": "axial", "age": 74}, False),
        ({"plane": "axial", "age_band": "70s"}, True),
        ({"plane": "axial", "age_band": "60s"}, False),
        ({"plane": "axial", "age_band": "elderly"}, True),
        ({"plane": "axial", "age_band": "young"}, False),
        ({"plane": "axial", "sex": "female"}, True),
        ({"plane": "axial", "sex": "male"}, False),
        ({"plane": "axial", "field_strength": 1.5}, True),
        ({"plane": "axial", "field_strength": 3.0}, False),
        ({"plane": "axial", "handedness": "right"}, False),
        ({"plane": "axial", "sizes": {"thalami": "small"}}, True),
        ({"plane": "axial", "sizes": {"thalami": "normal"}}, False),
        ({"plane": "axial", "sizes": {"hippocampi": "enlarged"}}, False),  # 19 mm2: not visible
        ({"plane": "axial", "sizes": {"putamina": "enlarged"}}, False),
        ({"plane": "axial", "sizes": {"thalami": "small", "putamina": "enlarged"}}, False),
        ({"plane": "axial", "health": "healthy"}, True),
        ({"plane": "axial", "regions": ["left thalamus"]}, True),
        ({"plane": "axial", "regions": ["thalamus"]}, True),
        ({"plane": "axial", "regions": ["right thalamus"]}, False),
        ({"plane": "axial", "regions": ["left hippocampus"]}, False),
        ({"plane": "axial", "regions": ["left thalamus", "left insula"]}, False),
        ({}, True),
    ],
)
def test_truth_of_one_statement(mentioned, expected):
    assert truth(mentioned, BASE) is expected


def test_a_statement_on_an_age_is_not_true_of_a_slice_without_one():
    unknown = Facts(plane="axial", modality="T1")
    assert truth({"plane": "axial"}, unknown)
    for mentioned in (
        {"age": 70},
        {"age_band": "70s"},
        {"sex": "male"},
        {"position_mm": 3},
        {"level": "pons"},
    ):
        assert not truth(mentioned, unknown)


def test_age_bands_are_from_and_below():
    assert age_band("70s") == (70, 80)
    assert truth({"age_band": "70s"}, Facts(known={"age": 70.0}))
    assert not truth({"age_band": "70s"}, Facts(known={"age": 80.0}))
    assert truth({"age": 67}, Facts(known={"age": 70.0}))


def test_truth_matrix_equals_truth_pair_by_pair():
    facts = [random_facts(seed) for seed in range(40)]
    # two captions a slice, the slices of one person among them
    facts += [
        Facts(**{**facts[0].to_dict(), "position_mm": facts[0].position_mm + shift}) for shift in (1, 2, 6)
    ]
    mentioned = [caption(row, seed=seed).mentioned for seed in range(3) for row in facts]
    matrix = truth_matrix(mentioned, facts)
    assert matrix.shape == (len(mentioned), len(facts))
    assert matrix.dtype == bool
    expected = [[truth(mention, row) for row in facts] for mention in mentioned]
    assert np.array_equal(matrix, expected)
    assert matrix.sum() > len(mentioned)  # more than the diagonal


def test_tables_made_once_give_the_same_truth_for_a_batch():
    facts = [random_facts(seed) for seed in range(60)]
    mentioned = [caption(row, seed=9).mentioned for row in facts]
    rows = np.array([3, 59, 17, 17, 0])
    whole, stated = facet_table(facts), mention_table(mentioned)
    expected = truth_matrix([mentioned[row] for row in rows], [facts[row] for row in rows])
    assert np.array_equal(truth_of_tables(stated.take(rows), whole.take(rows)), expected)


def test_truth_of_a_batch_of_256_takes_milliseconds():
    facts = [random_facts(seed) for seed in range(256)]
    facets = facet_table(facts)
    mentioned = [caption(row, seed=9).mentioned for row in facts]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        truth_of_tables(mention_table(mentioned), facets)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05  # 3 to 5 ms on an idle core; a busy machine is allowed ten times that


def test_describe_measures_visible_regions_in_mm2():
    atlas = load_atlas()
    labels = np.zeros((24, 28), np.int32)
    labels[:3, :4] = 17  # left hippocampus, 12 pixels of 2.25 mm2
    labels[5:8, :2] = 53  # right hippocampus, 6 pixels: too small
    labels[10:20, :20] = 2035  # an id that 8 bits would wrap
    slice_ = Slice(np.zeros((24, 28), np.float32), labels, "coronal", -18.5, 3)
    facts = describe(
        slice_,
        atlas,
        modality="T1",
        known={"age": 30.0},
        volumes={"brain": 1.0},
        spacing_mm=1.5,
        source="ixi",
    )
    assert facts.regions == {"left hippocampus": 27.0, "right insula": 450.0}
    assert (facts.plane, facts.position_mm, facts.level, facts.modality) == (
        "coronal",
        -18.5,
        "hippocampus",
        "T1",
    )
    assert Facts.from_dict(facts.to_dict()) == facts


def test_keywords_name_place_person_and_largest_regions():
    assert keywords(BASE) == (
        "axial",
        "T1",
        "thalamus",
        "z 9 mm",
        "healthy",
        "female",
        "70 years",
        "left thalamus",  # its size is not stated: registration measures it badly
        "left hippocampus",
    )
    putamen = replace(BASE, regions={"left putamen": 300.0}, sizes={"putamina": "small"})
    assert keywords(putamen)[-2:] == ("small putamina", "left putamen")
