"""Sizes of ventricles in prompts: the bundled model draws what is asked, where it knows the direction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from brainclip.model import BrainCLIP, load
from brainclip.picture import Picture
from brainclip.sizes import SIZES, direction, sized

PROMPT = "axial T1 slice at z = 17 mm, healthy 55-year-old woman"


def of_sizes(model: BrainCLIP, prompt: str, seed: int) -> dict[str, Picture]:
    texts = [f"{prompt}, {size} lateral ventricles" for size in SIZES]
    return dict(zip(SIZES, model.generate(texts, seed=seed, steps=6), strict=True))


def fluid(picture: Picture) -> float:
    """Share of dark pixels in the middle of an axial slice, where the bodies of the ventricles are."""
    return float((picture.pixels[48:80, 48:80] < 0.35).mean())


def test_enlarged_ventricles_are_larger_than_normal_ones_and_those_than_small_ones(
    bundled_model: Path,
) -> None:
    model = load(bundled_model)
    areas = np.array(
        [
            [fluid(found[size]) for size in SIZES]
            for found in (of_sizes(model, PROMPT, seed) for seed in (1, 2, 3))
        ]
    )
    small, normal, enlarged = areas.mean(0)
    assert small < 0.9 * normal and enlarged > 1.1 * normal


def test_a_picture_says_what_was_moved_and_a_prompt_without_a_size_is_drawn_as_before(
    bundled_model: Path,
) -> None:
    model = load(bundled_model)
    plain = model.generate(PROMPT, seed=1, steps=2)[0]
    normal = model.generate(f"{PROMPT}, enlarged lateral ventricles", seed=1, steps=2)[0]
    assert "sizes" not in plain.settings and normal.settings["sizes"] == ["lateral ventricles"]


def test_embeddings_move_along_the_direction_and_stay_where_there_is_none(bundled_model: Path) -> None:
    model = load(bundled_model)
    prompts = [
        model.read(text)[0]
        for text in (
            f"{PROMPT}, small lateral ventricles",
            PROMPT,
            f"{PROMPT}, large hippocampi",
            "axial slice, enlarged lateral ventricles",  # no contrast
        )
    ]
    given = torch.nn.functional.normalize(torch.randn(4, 192, generator=torch.manual_seed(0)), dim=1)
    moved, structures = sized(model, prompts, given)
    assert structures == [["lateral ventricles"], [], [], []]
    assert torch.equal(moved[1:], given[1:])
    along = direction(model, "axial", "T1", "lateral ventricles", 17.0)
    assert along is not None
    wanted = torch.nn.functional.normalize(given[0] + SIZES["small"] * along, dim=0)
    assert torch.allclose(moved[0], wanted, atol=1e-6)
