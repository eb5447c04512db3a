from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas.caption import Caption, caption
from atlas.facts import Facts
from atlas.prompt import read_prompt
from brainclip.train.ladder import AGES, RUNGS, known_ages, ladder_loss, rungs

FACTS = Facts("axial", 12.0, "T2", "thalamus", known={"age": 70, "sex": "female", "health": "healthy"})
SCALE = torch.tensor(30.0)


def stated(wording_seed: int) -> Caption:
    return caption(FACTS, seed=wording_seed)


@pytest.mark.parametrize("seed", range(12))
def test_rungs_are_one_caption_at_ages_from_young_to_old_with_no_word_of_the_person(seed: int) -> None:
    ladder = rungs(stated(seed), np.random.default_rng(seed))
    ages = [c.mentioned["age"] for c in ladder]
    assert len(ages) == RUNGS and ages == sorted(ages)
    assert AGES[0] <= ages[0] < 30 and 80 < ages[-1] <= AGES[1]
    assert all(not {"sex", "age_band", "sizes", "regions"} & set(c.mentioned) for c in ladder)
    frames = {
        c.text.replace(str(c.mentioned["age"]), "N").replace("an N", "a N").replace("An N", "A N")
        for c in ladder
    }
    assert len(frames) == 1
    read = read_prompt(ladder[3].text).mentioned
    assert read["age"] == ages[3] and read["plane"] == "axial"


def test_ages_that_are_not_known_are_nan() -> None:
    ages = known_ages([FACTS, Facts("axial")])
    assert ages[0] == 70 and torch.isnan(ages[1])


def ordered(ages: torch.Tensor, asked: torch.Tensor, sign: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors on a half circle, by age; sign -1 turns the text's order round."""
    turn, said = ages / 100 * np.pi, asked / 100 * np.pi
    said = said if sign > 0 else np.pi - said
    return (
        torch.stack([turn.cos(), turn.sin()], -1),
        torch.stack([said.cos(), said.sin()], -1),
    )


def test_loss_is_low_where_age_is_in_both_and_high_where_it_is_turned_round() -> None:
    ages = torch.tensor([[20.0, 35, 50, 65, 80]])
    asked = torch.linspace(20, 90, RUNGS)[None]
    right = ladder_loss(*ordered(ages, asked, 1), ages, asked, SCALE)
    wrong = ladder_loss(*ordered(ages, asked, -1), ages, asked, SCALE)
    blind = ladder_loss(torch.ones(1, 5, 2) / 2**0.5, torch.ones(1, RUNGS, 2) / 2**0.5, ages, asked, SCALE)
    assert right < blind < wrong
    assert blind == pytest.approx((np.log(RUNGS) + np.log(5)) / 2, abs=1e-4)


def test_nearly_right_costs_less_than_far_off() -> None:
    ages, asked = torch.tensor([[50.0]]), torch.tensor([[48.0, 20.0, 80.0]])
    losses = [
        ladder_loss(torch.eye(3)[:1][None], torch.eye(3).roll(k, 0)[None], ages, asked, SCALE)
        for k in range(3)
    ]
    assert losses[0] < 0.1 < 10 < min(losses[1:])


def test_people_of_unknown_age_do_not_count() -> None:
    torch.manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=2).requires_grad_()
    text = torch.nn.functional.normalize(torch.randn(2, RUNGS, 8), dim=2)
    asked = torch.linspace(20, 90, RUNGS).repeat(2, 1)
    ages = torch.tensor([[30.0, np.nan, 60, 70], [np.nan] * 4])
    ladder_loss(image, text, ages, asked, SCALE).backward()
    assert image.grad is not None and image.grad.isfinite().all()
    moved = image.grad.abs().sum(2) > 0
    assert moved.tolist() == [[True, False, True, True], [False] * 4]
