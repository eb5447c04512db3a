from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from toy_pairs import write_toy_pairs
from toys import CLIP, smooth_images, toy_clip

from atlas.truth import mention_table
from brainclip.config import ClipRecipe, Recipe
from brainclip.config_pairs import PairsRecipe
from brainclip.train.age import CENTRE, SHIFT, SPREAD, AgeReading, stated_ages
from brainclip.train.clip import train_clip


@torch.no_grad()
def test_age_planted_along_the_axis_is_read_and_counts_only_where_known() -> None:
    reading = AgeReading(toy_clip())
    ages = torch.tensor([20.0, 50.0, 80.0, torch.nan])
    planted = ((ages.nan_to_num(200.0) - CENTRE) / SPREAD * SHIFT)[:, None] * normalize(reading.axis, dim=0)
    assert reading(planted, ages, 0) == pytest.approx(0, abs=1e-6)
    turned_round = ((2 * (ages[:3] - CENTRE) / SPREAD) ** 2).mean()
    assert reading(-planted, ages, 1) == pytest.approx(float(turned_round), rel=1e-4)
    assert reading(planted, ages * torch.nan, 0) == 0


def test_stated_ages_are_those_of_numbers_and_decades_not_of_loose_words() -> None:
    said = [{"age": 63}, {"age_band": "70s"}, {"age_band": "elderly"}, {"plane": "axial"}]
    ages = stated_ages(mention_table([{"plane": "axial"} | one for one in said]))
    assert ages[:2].tolist() == pytest.approx([63, 75])
    assert ages[2:].isnan().all()


@torch.no_grad()
def test_settled_projection_shows_along_the_axis_what_ridge_regression_reads_and_leaves_the_rest() -> None:
    clip = toy_clip()
    reading = AgeReading(clip)
    images = smooth_images(300)
    before = clip.encode_image(images)
    hidden = normalize(torch.randn(32, generator=torch.Generator().manual_seed(4)), dim=0)
    place = (before - before.mean(0)) @ hidden
    ages = CENTRE + SPREAD * place / place.std()
    ages[:50] = torch.nan
    returned = reading.settle(clip, before, ages)
    after, axis = clip.encode_image(images), clip.age_axis
    assert torch.allclose(after, returned, atol=1e-4)
    assert torch.allclose(axis, normalize(reading.axis, dim=0))
    assert np.corrcoef(after[50:] @ axis, ages[50:])[0, 1] > 0.9
    assert abs(np.corrcoef(before[50:] @ axis, ages[50:])[0, 1]) < 0.9
    assert torch.equal(AgeReading(clip).axis, normalize(axis, dim=0))  # a further run goes on with it
    rest = torch.eye(32) - torch.outer(axis, axis)
    assert torch.allclose(normalize(after @ rest, dim=1), normalize(before @ rest, dim=1), atol=1e-4)


def test_towers_learn_an_age_that_is_to_be_seen_and_read(tmp_path: Path) -> None:
    write_toy_pairs(tmp_path / "pairs" / "toy", subjects=(30, 2, 2))
    stage = ClipRecipe(
        **{**vars(CLIP), "mix": {"toy": 1.0}, "age": 1.0, "batch": 48, "steps": 150, "rate": 3e-3}
    )
    train_clip(Recipe(folder=str(tmp_path), pairs={"toy": PairsRecipe()}, clip=stage))
    rows = [json.loads(line) for line in (tmp_path / "clip" / "log.jsonl").read_text().splitlines()]
    for side in ("age_of_text", "age_of_image"):
        first, last = (np.mean([row[side] for row in part]) for part in (rows[:20], rows[-20:]))
        assert last < 0.5 * first
