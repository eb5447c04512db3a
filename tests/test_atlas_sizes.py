"""Structures: their volumes, percentiles for age and sex, and captions that state a size."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_atlas_caption import random_facts

from atlas.caption import caption, keywords, restate, truth, wording_names
from atlas.cohort import FEWEST, volume_percentiles
from atlas.facts import Facts, mirrored, region_names, wordings
from atlas.prompt import read_prompt
from atlas.records import facts_of, line_of, visit_facts, visit_lines
from atlas.structures import SIZES, size_of, sizes_of, structures, summed

VISIBLE = {name: 90.0 for regions in structures().values() for name in sorted(regions) if name != "brain"}


def sized(seed: int) -> Facts:
    """Random facts of a slice in which every structure is visible and has a size."""
    facts = random_facts(seed)
    words = list(SIZES)
    sizes = {name: words[(seed + row) % 3] for row, name in enumerate(structures())}
    return replace(facts, regions=VISIBLE, sizes=sizes)


def person(
    number: int, age: float | None, ml: float, *, split: str = "train", sex: str = "female"
) -> list[dict[str, Any]]:
    """A subject's header and one visit; ml: of both lateral ventricles. The brain is 1000 to 1200 ml."""
    volumes = {
        "left lateral ventricle": 400.0 * ml,
        "right lateral ventricle": 600.0 * ml,
        "brain": 1e6 + 1e4 * (number % 21),
    }
    known = {"sex": sex} | ({} if age is None else {"age": age})
    header = {"subject": str(number), "split": split, "sessions": {"": {"volumes": volumes}}}
    return [header, {"session": "", "facts": {"known": known}}]


def grown(age: float, sex: str, residual: float) -> float:
    """Ventricles in ml that grow with the square of the age, a fifth larger in men, times e^residual."""
    return float(np.exp(2.5 + ((age - 20) / 60) ** 2 + (0.18 if sex == "male" else 0.0) + residual))


def train_cohort(count: int = 200) -> tuple[list[list[dict[str, Any]]], np.ndarray]:
    """People whose ventricles follow `grown`, and their residuals."""
    generator = np.random.default_rng(4)
    residuals = generator.normal(0, 0.15, count)
    people = []
    for number in range(count):
        age, sex = float(generator.uniform(20, 80)), ("female", "male")[number % 2]
        people.append(person(number, age, grown(age, sex, residuals[number]), sex=sex))
    return people, residuals


def test_structures_are_made_of_regions_of_the_atlas_each_of_one_structure():
    regions = [region for names in structures().values() for region in names]
    assert max(Counter(regions).values()) == 1
    assert set(regions) - {"brain"} <= set(region_names())
    assert {"precentral gyrus", "insula", "entorhinal cortex"} <= structures()["cortex"]
    assert structures()["cerebellum"] == {"cerebellar cortex", "cerebellar white matter"}
    assert not {"hippocampus", "amygdala"} & structures()["cortex"]


def test_volumes_of_both_sides_are_added():
    volumes = {"left hippocampus": 4000.0, "right hippocampus": 4200.0, "left amygdala": 9.0, "brain": 1e6}
    assert summed(volumes) == {"hippocampi": 8200.0, "brain": 1e6}


def test_sizes_have_words_at_the_ends_and_in_the_middle_only():
    assert [size_of(p) for p in (0, 20, 20.1, 34.9, 35, 50, 65, 66, 79.9, 80, 100)] == (
        ["small", "small", None, None, "normal", "normal", "normal", None, None, "enlarged", "enlarged"]
    )
    assert sizes_of({"hippocampi": 3.0, "cortex": 70.0}) == {"hippocampi": "small"}


def test_percentiles_are_the_ranks_of_what_age_and_sex_do_not_explain():
    people, residuals = train_cohort()
    found, compared = volume_percentiles(people)
    assert compared == 200
    percentiles = np.array([found[str(number), ""]["lateral ventricles"] for number in range(200)])
    ranks = 100 * (residuals.argsort().argsort() + 0.5) / 200
    # five coefficients fitted to 200 people are off by 0.16 residual deviations, which is 6 of 100 ranks
    assert np.abs(percentiles - ranks).mean() < 6
    assert np.abs(percentiles - ranks).max() < 15
    assert np.corrcoef(percentiles, ranks)[0, 1] > 0.98
    assert sorted(percentiles) == pytest.approx(100 * (np.arange(200) + 0.5) / 200, abs=0.051)
    assert "hippocampi" not in found["0", ""]  # was not found in anyone


def test_the_same_ventricles_are_small_for_an_old_man_and_large_for_a_young_woman():
    people, _ = train_cohort()
    ml = grown(50, "female", 0.0)
    asked = [
        person(900, 25.0, ml, split="test"),
        person(901, 75.0, ml, split="test", sex="male"),
        person(902, 50.0, ml, split="validation"),
    ]
    found, _ = volume_percentiles([*people, *asked])
    young, old, middle = (found[str(number), ""]["lateral ventricles"] for number in (900, 901, 902))
    assert young > 80
    assert old < 5
    assert 35 < middle < 65


def test_held_out_people_and_second_visits_change_nobodys_percentile():
    people, _ = train_cohort()
    alone, compared = volume_percentiles(people)
    held_out = [person(300 + k, 60.0, 200.0, split="test") for k in range(100)]
    header, record = people[0]
    again = dict(record, session="2")
    header = dict(header, sessions={"": header["sessions"][""], "2": {"volumes": {"brain": 1e6}}})
    more, same = volume_percentiles([[header, record, again], *people[1:], *held_out])
    assert same == compared
    assert {visit: more[visit] for visit in alone} == alone
    assert more["300", ""]["lateral ventricles"] == 100.0


def test_people_who_are_not_healthy_change_nobodys_percentile():
    people, _ = train_cohort()
    alone, compared = volume_percentiles(people)
    kept = [person(400 + k, 60.0, 200.0) for k in range(60)]
    healthy = {(str(number), "") for number in range(200)}
    found, same = volume_percentiles([*people, *kept], healthy=healthy)
    assert same == compared == 200
    assert {visit: found[visit] for visit in alone} == alone
    assert found["400", ""]["lateral ventricles"] == 100.0  # they are compared, too
    assert volume_percentiles([*people, *kept])[1] == 260
    # whose first visit is not healthy counts at the second, if that is
    header, record = people[0]
    again = dict(record, session="2")
    header = dict(header, sessions={"": {"volumes": {"brain": 1e6}}, "2": header["sessions"][""]})
    moved = [[header, record, again], *people[1:]]
    found, same = volume_percentiles(moved, healthy=healthy - {("0", "")} | {("0", "2")})
    assert same == 200
    assert found["0", "2"]["lateral ventricles"] == alone["0", ""]["lateral ventricles"]


def test_a_failed_registration_does_not_shift_the_others():
    people, _ = train_cohort()
    alone, _ = volume_percentiles(people)
    broken = [person(500 + k, 79.0, 4000.0) for k in range(4)]
    with_broken, _ = volume_percentiles([*people, *broken])
    moved = [with_broken[visit]["lateral ventricles"] - alone[visit]["lateral ventricles"] for visit in alone]
    assert np.abs(moved).max() < 4  # the four are above everyone: 2 of 100


def test_without_enough_people_or_outside_their_ages_there_is_no_percentile():
    people, _ = train_cohort(FEWEST)
    assert volume_percentiles(people[1:]) == ({}, FEWEST - 1)
    others = [person(900, 95.0, 20.0), person(901, None, 20.0)]
    others[0][0]["split"] = "test"
    found, compared = volume_percentiles([*people, *others])
    assert compared == FEWEST
    assert ("900", "") not in found and ("901", "") not in found
    assert len(found) == FEWEST


def test_sizes_come_from_the_line_of_the_visit_and_from_older_folders():
    header = person(7, 40.0, 20.0)[0]
    percentiles = {"lateral ventricles": 91.3, "brain": 50.0}
    (line,) = visit_lines([header], {("7", ""): percentiles})
    assert line["structures"] == {"lateral ventricles": 20000.0, "brain": 1070000.0}
    visit = visit_facts(json.loads(json.dumps(line)))
    facts = replace(random_facts(1), **visit)
    assert facts.sizes == {"lateral ventricles": "enlarged", "brain": "normal"}
    assert facts.volumes["lateral ventricles"] == 20000.0
    assert facts.percentiles == percentiles
    written = line_of("train/7/a.png", "7", "train", "", facts)
    assert facts_of(written, visit) == facts
    older = {name: value for name, value in written.items() if name != "captions"}
    assert facts_of(older | {"ventricles": "small"}, {"volumes": {}}).sizes == {"lateral ventricles": "small"}


def test_every_size_in_every_wording_is_read_back():
    for seed in range(400):
        facts = sized(seed)
        for wording in wording_names():
            made = caption(facts, seed=seed, wording=wording)
            prompt = read_prompt(made.text)
            assert prompt.unknown == (), made.text
            expected, found = dict(made.mentioned), dict(prompt.mentioned)
            assert set(expected.pop("regions", ())) == set(found.pop("regions", ())), made.text
            assert found == expected, made.text
            assert prompt.facts.sizes == made.mentioned.get("sizes", {})


def test_each_phrase_for_a_size_is_read_as_that_size_with_and_without_the_age():
    for size, rows in wordings()["size"].items():
        for structure, phrases in rows.items():
            for phrase in phrases:
                for text in (f"axial T1, {phrase}", f"{phrase} for age: axial T1", f"Axial T1. {phrase}."):
                    prompt = read_prompt(text)
                    assert (prompt.unknown, prompt.facts.sizes) == ((), {structure: size}), text
                    assert prompt.facts.regions == {}


def test_sizes_are_restated():
    asked = read_prompt("transverse T1w, ventriculomegaly and small hippocampi, 70-year-old woman")
    assert asked.mentioned["sizes"] == {"lateral ventricles": "enlarged", "hippocampi": "small"}
    for seed in range(50):
        said = restate(asked.mentioned, seed=seed)
        assert read_prompt(said.text).mentioned == asked.mentioned, said.text


def test_a_size_is_stated_of_visible_structures_only_and_never_of_the_brain():
    facts = replace(sized(1), regions={"left hippocampus": 200.0, "right thalamus": 59.0})
    facts = replace(facts, sizes=dict.fromkeys(structures(), "small"))
    made = [caption(facts, seed=seed) for seed in range(400)]
    assert {name for one in made for name in one.mentioned.get("sizes", {})} == {"hippocampi"}
    assert all(truth(one.mentioned, facts) for one in made)
    assert "small hippocampi" in keywords(facts)
    assert not [word for word in keywords(facts) if "ventricles" in word or "thalami" in word]
    stated = Counter(
        name for seed in range(3000) for name in caption(sized(seed), seed=seed).mentioned.get("sizes", {})
    )
    assert "brain" not in stated
    assert set(stated) == set(wordings()["size_weight"])
    assert stated["lateral ventricles"] > stated["hippocampi"] > stated["cerebellum"] > 10


def test_her_age_is_said_only_where_the_sex_is():
    seen = Counter()
    for seed in range(3000):
        made = caption(sized(seed), seed=seed)
        if " for her age" in made.text or " for his age" in made.text:
            assert made.mentioned["sex"] == ("female" if "her age" in made.text else "male")
            seen["sex"] += 1
        seen["age"] += "for age" in made.text or "for the age" in made.text
    assert seen["sex"] > 20 and seen["age"] > 100


def test_a_mirrored_slice_keeps_the_sizes():
    facts = sized(3)
    assert mirrored(facts).sizes == facts.sizes
    assert mirrored(facts).percentiles == facts.percentiles
