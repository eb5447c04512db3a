from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from atlas.facts import levels, wordings
from atlas.prompt import read_prompt
from brainclip.evaluate.prompts import LEVEL_WORDS, RANGE_MM, VENTRICLES_MM, prompts


def test_prompts_are_the_same_every_time_and_differ_by_seed() -> None:
    assert prompts(200) == prompts(200)
    assert prompts(200) != prompts(200, seed=21)
    assert len({asked.text for asked in prompts(200)}) > 195


def test_plane_and_contrast_are_balanced_outside_the_age_prompts() -> None:
    rest = Counter((asked.plane, asked.modality) for asked in prompts(200)[50:])
    assert len(rest) == 12 and max(rest.values()) - min(rest.values()) <= 1


def test_age_prompts_are_axial_at_the_ventricles_and_span_the_adult_ages() -> None:
    aged = prompts(200)[:50]
    assert all(asked.plane == "axial" and asked.age is not None for asked in aged)
    assert all(VENTRICLES_MM[0] <= asked.position_mm <= VENTRICLES_MM[1] for asked in aged)
    ages = np.array([asked.age for asked in aged])
    assert ages.min() <= 22 and ages.max() >= 83 and np.diff(ages).max() <= 2
    assert Counter(asked.modality for asked in aged).most_common()[-1][1] >= 12


def test_asked_position_is_the_named_one_or_the_centre_of_the_level() -> None:
    for asked in prompts(200):
        low, high = RANGE_MM[asked.plane]
        assert low <= asked.position_mm <= high
        if asked.level is None:
            assert f"{asked.position_mm:.0f} mm" in asked.text
        else:
            level = next(row for row in levels()[asked.plane] if row.name == asked.level)
            assert asked.position_mm == (level.from_mm + level.to_mm) / 2
            assert asked.level in asked.text


@pytest.mark.parametrize("asked", prompts(80), ids=lambda asked: asked.text[:30])
def test_reader_finds_plane_contrast_age_and_sex_in_the_wordings_of_the_evaluation(asked: object) -> None:
    facts = read_prompt(asked.text).facts  # type: ignore[attr-defined]
    wanted = vars(asked)
    assert (facts.plane, facts.modality) == (wanted["plane"], wanted["modality"])
    assert (facts.known.get("age"), facts.known.get("sex")) == (wanted["age"], wanted["sex"])


def test_level_wordings_are_none_of_the_training_captions() -> None:
    training = {text for style in wordings()["level"].values() for text in style}
    assert not training & set(LEVEL_WORDS)


def test_contrasts_can_be_those_of_a_model() -> None:
    assert {asked.modality for asked in prompts(24, modalities=["T1", "T2"])} == {"T1", "T2"}
