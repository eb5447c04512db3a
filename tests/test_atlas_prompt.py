"""Prompts: everything that captions say is read back, and what is not understood is named."""

from __future__ import annotations

import pytest
from test_atlas_caption import random_facts

from atlas.caption import caption, restate
from atlas.errors import PromptError
from atlas.facts import levels
from atlas.prompt import read_prompt


def test_every_caption_is_read_back_as_what_it_states():
    for seed in range(2000):
        facts = random_facts(seed)
        made = caption(facts, seed=seed + 7)
        prompt = read_prompt(made.text)
        assert prompt.unknown == (), made.text
        expected, found = dict(made.mentioned), dict(prompt.mentioned)
        assert set(expected.pop("regions", ())) == set(found.pop("regions", ())), made.text
        assert found == expected, made.text


def test_a_prompt_is_read_into_facts():
    prompt = read_prompt(
        "Axial T1 slice at the level of the thalamus, healthy 30-year-old woman, left putamen visible"
    )
    assert prompt.unknown == ()
    assert prompt.facts.plane == "axial"
    assert prompt.facts.modality == "T1"
    assert prompt.facts.level == "thalamus"
    assert prompt.facts.position_mm is None
    assert prompt.facts.known == {"age": 30, "sex": "female", "health": "healthy"}
    assert prompt.facts.regions == {"left putamen": 20.0}
    assert prompt.facts.source == "prompt"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("transverse T1w", {"plane": "axial", "modality": "T1"}),
        ("TRANSAXIAL T1-WEIGHTED", {"plane": "axial", "modality": "T1"}),
        ("axial MP-RAGE", {"plane": "axial", "modality": "T1"}),
        ("frontal plane, T2", {"plane": "coronal", "modality": "T2"}),
        ("axial T2-FLAIR", {"plane": "axial", "modality": "FLAIR"}),
        ("axial T2 FLAIR", {"plane": "axial", "modality": "FLAIR"}),
        ("coronal proton density", {"plane": "coronal", "modality": "PD"}),
        ("axial z=12", {"plane": "axial", "position_mm": 12.0}),
        ("z = -8.5 mm", {"plane": "axial", "position_mm": -8.5}),
        ("z = \N{MINUS SIGN}8 mm", {"plane": "axial", "position_mm": -8.0}),
        ("coronal at MNI y -20", {"plane": "coronal", "position_mm": -20.0}),
        ("12 mm above AC", {"plane": "axial", "position_mm": 12.0}),
        ("4 mm below the anterior commissure", {"plane": "axial", "position_mm": -4.0}),
        ("coronal 30 mm behind the AC", {"plane": "coronal", "position_mm": -30.0}),
        ("sagittal, 25 mm to the left of the midline", {"plane": "sagittal", "position_mm": -25.0}),
        ("mid-sagittal T1", {"plane": "sagittal", "level": "midline", "modality": "T1"}),
        ("midsagittal", {"plane": "sagittal", "level": "midline"}),
        ("sagittal at the midline", {"plane": "sagittal", "level": "midline"}),
        ("parasagittal left", {"plane": "sagittal", "level": "left medial surface"}),
        ("parasagittal T1", {"plane": "sagittal", "modality": "T1"}),
        ("sagittal through the left insula", {"plane": "sagittal", "level": "left insula"}),
        ("axial at the level of the basal ganglia", {"plane": "axial", "level": "basal ganglia"}),
        ("axial through the lateral ventricles", {"plane": "axial", "level": "lateral ventricles"}),
        ("axial, centrum semiovale", {"plane": "axial", "level": "centrum semiovale"}),
        ("at the vertex", {"plane": "axial", "level": "vertex"}),
        ("coronal at the level of the hippocampus", {"plane": "coronal", "level": "hippocampus"}),
        ("coronal frontal horns", {"plane": "coronal", "level": "frontal horns"}),
        ("axial at the level of the frontal horns", {"plane": "axial", "level": "thalamus"}),
        (
            "axial through the left hippocampus",
            {"plane": "axial", "level": "medial temporal lobes", "regions": ["left hippocampus"]},
        ),
        ("axial showing the hippocampi", {"plane": "axial", "regions": ["hippocampus"]}),
        ("axial with both thalami", {"plane": "axial", "regions": ["left thalamus", "right thalamus"]}),
        (
            "coronal with the left temporal horn",
            {"plane": "coronal", "regions": ["left temporal horn of the lateral ventricle"]},
        ),
        ("coronal, Heschl's gyrus", {"plane": "coronal", "regions": ["transverse temporal gyrus"]}),
        ("axial, old man", {"plane": "axial", "age_band": "elderly", "sex": "male"}),
        ("axial, elderly lady", {"plane": "axial", "age_band": "elderly", "sex": "female"}),
        ("axial, young adult", {"plane": "axial", "age_band": "young"}),
        ("axial, 70 y/o F", {"plane": "axial", "age": 70, "sex": "female"}),
        ("axial, 34M", {"plane": "axial", "age": 34, "sex": "male"}),
        ("axial, woman aged 61", {"plane": "axial", "age": 61, "sex": "female"}),
        ("axial, seventy-five-year-old man", {"plane": "axial", "age": 75, "sex": "male"}),
        ("axial, woman in her seventies", {"plane": "axial", "age_band": "70s", "sex": "female"}),
        ("axial, subject in their 30s", {"plane": "axial", "age_band": "30s"}),
        (
            "T1 axial z 9 woman 30",
            {"plane": "axial", "modality": "T1", "position_mm": 9.0, "age": 30, "sex": "female"},
        ),
        ("axial, male, 60", {"plane": "axial", "age": 60, "sex": "male"}),
        ("axial, ventricles enlarged", {"plane": "axial", "sizes": {"lateral ventricles": "enlarged"}}),
        ("axial, ventriculomegaly", {"plane": "axial", "sizes": {"lateral ventricles": "enlarged"}}),
        (
            "axial, enlarged lateral ventricles for her age",
            {"plane": "axial", "sizes": {"lateral ventricles": "enlarged"}, "sex": "female"},
        ),
        ("axial T1 at 3T", {"plane": "axial", "modality": "T1", "field_strength": 3.0}),
        ("axial, normal volunteer", {"plane": "axial", "health": "healthy"}),
    ],
)
def test_synonyms_are_understood(text, expected):
    prompt = read_prompt(text)
    assert prompt.unknown == ()
    assert prompt.mentioned == expected


def test_every_word_for_a_level_is_understood_in_its_plane():
    for plane, rows in levels().items():
        for level in rows:
            for word in (*level.said, *level.understood):
                prompt = read_prompt(f"{plane} T1 slice at the level of the {word}")
                assert (prompt.facts.level, prompt.unknown) == (level.name, ()), (plane, word)
            for word in level.views:
                prompt = read_prompt(f"{word} T1 slice")
                assert (prompt.facts.plane, prompt.facts.level) == (plane, level.name)


def test_words_that_are_not_known_are_named():
    prompt = read_prompt("axial T1 slice with a glioblastoma in the left thalamus")
    assert prompt.unknown == ("glioblastoma",)
    assert prompt.suggestions == {}
    assert prompt.facts.regions == {"left thalamus": 20.0}


def test_a_misspelt_word_brings_a_suggestion():
    prompt = read_prompt("axail T1, hipocampus")
    assert prompt.unknown == ("axail", "hipocampus")
    assert prompt.suggestions == {"axail": "axial", "hipocampus": "hippocampus"}
    assert prompt.facts.plane is None


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("axial coronal T1", ("coronal",)),
        ("axial T1 T2", ("t2",)),
        ("coronal z = 12", ("z = 12 in a coronal slice",)),
        ("axial, 30-year-old aged 60", ("aged 60",)),
        ("axial, 500-year-old", ("500",)),
        ("axial 12 mm", ("12",)),
    ],
)
def test_what_contradicts_or_says_nothing_is_reported(text, unknown):
    assert set(read_prompt(text).unknown) == set(unknown)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(PromptError, match="the prompt is empty"):
        read_prompt(text)


def test_odd_text_is_read_without_an_error():
    for text in ("???", "12 34 56", "ääää 脑", "(((", "-" * 50, "axial " * 500, "z = z = 3", "\x00"):
        read_prompt(text)


def test_free_words_restated_are_a_caption_that_asks_for_the_same() -> None:
    asked = read_prompt("how does the brain of a 70-year-old man look near z = 12 mm on transverse T1w?")
    for seed in range(50):
        said = restate(asked.mentioned, seed=seed)
        again = read_prompt(said.text)
        assert again.mentioned == said.mentioned == asked.mentioned | {"level": "thalamus"}, said.text
        assert again.unknown == ()
    assert len({restate(asked.mentioned, seed=seed).text for seed in range(50)}) > 20


def test_nothing_can_be_restated_without_a_plane() -> None:
    with pytest.raises(PromptError, match="no plane"):
        restate(read_prompt("a 70-year-old man").mentioned, seed=0)
