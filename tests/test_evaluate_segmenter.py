"""The segmenter on drawn slices, and its figures on tissues that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pairs import some_facts, write_toy_pairs
from toy_tissues import CORTEX, VENTRICLES, WHITE, toy_tissues, write_toy_tissues

from brainclip.config import Recipe, SegmenterRecipe
from brainclip.config_pairs import PairsRecipe
from brainclip.errors import RecipeError, WeightsError
from brainclip.evaluate.segmenter import (
    Segmenter,
    changed,
    dices,
    segmenter_scores,
    shares,
    train_segmenter,
)
from brainclip.evaluate.tissues import TissueData
from brainclip.train.checks import check_stage

STAGE = SegmenterRecipe(
    mix={"toy": 1.0}, people=8, steps=120, batch=12, rate=1e-2, warmup=10, decay=60, ema=0.9,
    channels=(8, 16), device="cpu",
)  # fmt: skip


def recipe_in(folder: Path, stage: SegmenterRecipe = STAGE) -> Recipe:
    return Recipe(folder=str(folder), size=32, spacing_mm=6.0, pairs={"toy": PairsRecipe()}, segmenter=stage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmenter")
    write_toy_pairs(folder / "pairs" / "toy")
    write_toy_tissues(recipe_in(folder), "toy")
    train_segmenter(recipe_in(folder))
    return folder


def test_segmenter_learns_tissues_that_can_plainly_be_seen(folder: Path) -> None:
    segmenter = Segmenter.load(folder / "segmenter")
    scores = segmenter_scores(segmenter, recipe_in(folder), "test")["toy"]
    assert scores["white matter"]["value"] > 0.95 and scores["cortex"]["value"] > 0.9
    assert scores["lateral ventricles"]["value"] > 0.8
    assert scores["cortex"]["subjects"] == 3 and scores["cortex"]["n"] == 72
    assert scores["cerebellum"]["value"] is None and scores["cerebellum"]["n"] == 72  # nobody has one here
    assert abs(scores["ventricle_bias"]["value"]) < 2


def test_saved_and_loaded_says_the_same_and_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(folder / "segmenter")
    images = TissueData(recipe_in(folder), "test").data.images(range(5))
    segmenter.save(tmp_path)
    again = Segmenter.load(tmp_path)
    assert again.hash == segmenter.hash and np.array_equal(again.tissues(images), segmenter.tissues(images))
    (tmp_path / "segmenter.safetensors").unlink()
    with pytest.raises(WeightsError, match="segmenter"):
        Segmenter.load(tmp_path)


def test_only_so_many_people_are_learned_from_and_a_batch_depends_on_its_step_alone(folder: Path) -> None:
    known = TissueData(recipe_in(folder), "train", people=8)
    assert len(set(known.subjects)) == 8 and len(known.rows) == len(known.tissues) == 8 * 24
    for first, second in zip(known.draw(6, 0, 3), known.draw(6, 0, 3), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(known.draw(6, 0, 3)[0], known.draw(6, 0, 4)[0])
    row = int(known.rows[5])
    assert np.array_equal(known.tissues[5], toy_tissues(known.data.pairs[row].facts))


def test_tissues_move_with_their_slice() -> None:
    images = torch.from_numpy(np.stack([toy_tissues(facts) for facts in some_facts(1, 40.0, "male")]) / 6.0)
    tissues = (images * 6).round().to(torch.uint8)
    seen, known = changed(images[:, None].float(), tissues, np.random.default_rng(0))
    assert not torch.equal(known, tissues)
    for image, tissue in zip(seen[:, 0], known, strict=True):  # grey changes; the order of tissues stays
        assert image[tissue == WHITE].mean() > image[tissue == CORTEX].mean() + 0.05
        assert image[tissue == CORTEX].mean() > image[tissue == VENTRICLES].mean() + 0.05
        assert image[tissue == 0].mean() < 0.1


def test_dice_is_2_of_3_where_half_as_much_is_said_and_counts_people_alike() -> None:
    true = np.zeros((4, 8, 8), np.uint8)
    true[:, :4] = WHITE
    said = true.copy()
    said[:3, 2:4] = 0  # half of it: 2 * 16 / (32 + 16)
    found = dices(true, said, np.array(["a", "a", "a", "b"]))["white matter"]
    assert found["value"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-4)
    assert found["n"] == 4 and found["subjects"] == 2


def test_shares_are_percent_of_the_brain() -> None:
    tissues = np.zeros((2, 10, 10), np.uint8)
    tissues[0, 0, :4], tissues[0, 1, :] = VENTRICLES, WHITE
    tissues[0, 2, :2] = CORTEX
    found = shares(tissues)
    assert found[0].tolist() == [25.0, 12.5, 62.5, 0, 0, 0]
    assert np.isnan(found[1]).all()


def test_a_recipe_that_no_segmenter_can_be_made_of_is_refused_in_a_sentence(folder: Path) -> None:
    for changes, message in (
        ({"mix": {}}, "segmenter.mix"),
        ({"channels": (8,)}, "two or more"),
        ({"channels": (8,) * 7}, "halves the 32 pixels"),
        ({"labels": {"toy": "aal"}}, "desikan-killiany, muse"),
        ({"labels": {"ixi": "muse"}}, "of its mix"),
        ({"people": 0}, "segmenter.people"),
    ):
        with pytest.raises(RecipeError, match=message):
            check_stage(recipe_in(folder, replace(STAGE, **changes)), "segmenter")
    check_stage(recipe_in(folder), "segmenter")
