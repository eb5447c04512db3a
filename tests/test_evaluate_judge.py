from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pairs import drawn, some_facts, write_toy_pairs

from brainclip.config import JudgeRecipe, Recipe
from brainclip.config_pairs import PairsRecipe
from brainclip.data import PairDataset
from brainclip.errors import RecipeError, WeightsError
from brainclip.evaluate.adherence import judge_scores
from brainclip.evaluate.judge import Judge, JudgeObjective, augment, judge_dataset, targets, train_judge

STAGE = JudgeRecipe(
    mix={"toy": 1.0}, steps=300, batch=24, rate=3e-3, warmup=20, decay=100, ema=0.98, width=8, device="cpu"
)


def recipe_in(folder: Path, **changes: object) -> Recipe:
    stage = replace(STAGE, **changes)  # type: ignore[arg-type]
    return Recipe(folder=str(folder), size=32, spacing_mm=6.0, pairs={"toy": PairsRecipe()}, judge=stage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    write_toy_pairs(folder / "pairs" / "toy")
    train_judge(recipe_in(folder))
    return folder


def test_judge_learns_what_can_plainly_be_seen(folder: Path) -> None:
    data = PairDataset([folder / "pairs" / "toy"], "test")
    scores = judge_scores(Judge.load(folder / "judge"), data)["scores"]["toy"]
    assert scores["plane"]["value"] == 1.0 and scores["contrast"]["value"] >= 0.95
    assert scores["position"]["value"] >= 0.8
    assert scores["plane"]["subjects"] == 3 and scores["plane"]["n"] <= len(data)


def test_judge_reads_ages_in_order(folder: Path) -> None:
    ages, judge = np.linspace(22, 84, 9), Judge.load(folder / "judge")
    judged = [judge.verdicts(drawn(some_facts(7, float(age), "female"))).age.mean() for age in ages]
    assert np.corrcoef(ages, judged)[0, 1] > 0.9


def test_dataset_is_judged_in_its_order_whatever_the_batch(folder: Path) -> None:
    data, judge = PairDataset([folder / "pairs" / "toy"], "test"), Judge.load(folder / "judge")
    whole, parts = judge_dataset(judge, data), judge_dataset(judge, data, batch=7)
    assert list(whole.plane) == list(parts.plane)
    assert np.allclose(whole.position_mm, parts.position_mm, atol=1e-3)


def test_unknown_age_and_sex_have_no_loss() -> None:
    torch.manual_seed(0)
    facts = some_facts(1, 40.0, "male", n=6)
    unknown = [replace(fact, known={}) for fact in facts]
    objective = JudgeObjective(Judge(8, 32))
    _, known_losses = objective(drawn(facts), **targets(facts))
    _, losses = objective(drawn(facts), **targets(unknown))
    assert losses["age_loss"] == 0 and losses["female_loss"] == 0
    assert known_losses["age_loss"] > 0 and known_losses["female_loss"] > 0
    assert losses["plane_loss"] == known_losses["plane_loss"]


def test_one_known_age_in_a_batch_counts_fully() -> None:
    torch.manual_seed(0)
    facts = some_facts(1, 40.0, "male", n=6)
    objective = JudgeObjective(Judge(8, 32))
    alone = objective(drawn(facts[:1]), **targets(facts[:1]))[1]["age_loss"]
    mixed = [facts[0], *(replace(fact, known={}) for fact in facts[1:])]
    assert objective(drawn(facts), **targets(mixed))[1]["age_loss"] == pytest.approx(float(alone), rel=1e-4)


def test_sagittal_position_is_the_distance_from_the_midline() -> None:
    left, right = (
        replace(some_facts(1, 40.0, "male")[0], plane="sagittal", position_mm=mm) for mm in (-24.0, 24.0)
    )
    assert targets([left])["position"] == targets([right])["position"] == 2.4
    assert targets([replace(left, plane="axial")])["position"] == -2.4


def test_augmentation_keeps_range_size_and_sides_and_comes_from_the_seed() -> None:
    images = torch.zeros(16, 1, 24, 28)
    images[..., 4:20, 3:8] = 0.6  # at image left
    first, again = (augment(images, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == images.shape
    assert float(first.min()) >= 0 and float(first.max()) <= 1
    assert bool((first[..., :14].sum((1, 2, 3)) > 3 * first[..., 14:].sum((1, 2, 3))).all())


def test_finished_judge_trained_again_is_the_same(folder: Path) -> None:
    before = (folder / "judge" / "judge.safetensors").read_bytes()
    train_judge(recipe_in(folder))
    assert (folder / "judge" / "judge.safetensors").read_bytes() == before


def test_width_that_the_groups_do_not_divide_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="multiple of 8"):
        train_judge(recipe_in(folder, width=12))


def test_missing_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"judge\.json"):
        Judge.load(tmp_path)
