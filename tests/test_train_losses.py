from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import TEXTS, smooth_images, toy_clip

from brainclip.clip import Clip, new_clip
from brainclip.config import ClipRecipe
from brainclip.train.age import AgeReading
from brainclip.train.clip import ClipObjective
from brainclip.train.losses import in_pieces, multi_positive_loss, siglip_loss


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=1)


def test_loss_with_one_positive_each_is_clips_cross_entropy() -> None:
    text, image = (torch.nn.functional.normalize(torch.randn(5, 7), dim=1) for _ in range(2))
    scale = torch.tensor(3.0)
    logits, target = 3 * text @ image.T, torch.arange(5)
    cross = torch.nn.functional.cross_entropy
    expected = (cross(logits, target) + cross(logits.T, target)) / 2
    assert torch.allclose(
        multi_positive_loss(text, image, torch.eye(5, dtype=torch.bool), scale), expected, atol=1e-6
    )


def test_loss_is_lower_when_true_captions_are_close_than_when_false_ones_are() -> None:
    positives = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    groups = torch.eye(2).repeat_interleave(2, 0)
    good = multi_positive_loss(groups, groups, positives, torch.tensor(50.0))
    bad = multi_positive_loss(groups, groups.flip(0), positives, torch.tensor(50.0))
    assert good == pytest.approx(
        np.log(2), abs=1e-4
    )  # two positives share the probability: log 2 is the least
    assert bad > 10


def test_siglip_with_one_positive_each_is_open_clips() -> None:
    from open_clip.loss import SigLipLoss

    text, image = unit(5, 7), unit(5, 7)
    scale, bias = torch.tensor(9.0, dtype=torch.float64), torch.tensor(-8.0, dtype=torch.float64)
    ours = siglip_loss(text, image, torch.eye(5, dtype=torch.bool), scale, bias)
    assert torch.allclose(ours, SigLipLoss()(image, text, scale, bias), rtol=1e-12)


def test_siglip_counts_every_true_caption_as_positive() -> None:
    positives = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    groups = torch.eye(2).repeat_interleave(2, 0)
    scale, bias = torch.tensor(40.0), torch.tensor(-20.0)
    assert siglip_loss(groups, groups, positives, scale, bias) < 1e-6
    assert siglip_loss(groups, groups, torch.eye(4, dtype=torch.bool), scale, bias) > 10


@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_batch_in_pieces_has_the_loss_and_gradient_of_the_whole(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tower = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.GELU(), torch.nn.Linear(9, 7)).double()
    inputs = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    other = torch.nn.functional.normalize(torch.randn(10, 7, generator=generator, dtype=torch.float64), dim=1)
    seen: list[int] = []

    def encode(piece: torch.Tensor) -> torch.Tensor:
        seen.append(len(piece))
        return torch.nn.functional.normalize(tower(piece), dim=1)

    results = []
    for rows in (0, size):
        tower.zero_grad()
        scale = torch.tensor(5.0, dtype=torch.float64)
        loss = multi_positive_loss(in_pieces(encode, inputs, rows), other, torch.eye(10) > 0, scale)
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in tower.parameters()]))
    assert max(seen[1:]) == size  # each piece twice: forward, and again for the backward pass
    assert sum(seen[1:]) == 20
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-12)
    for whole, pieces in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(whole, pieces, rtol=1e-9, atol=1e-14)


def toy_objective(clip: Clip, loss: str, piece: int = 0) -> ClipObjective:
    return ClipObjective(clip, AgeReading(clip), loss=loss, piece=piece)


@pytest.mark.parametrize("loss", ["multi-positive", "clip", "siglip"])
def test_each_loss_falls_when_a_toy_clip_is_trained(loss: str) -> None:
    torch.manual_seed(0)
    first = toy_clip()
    recipe = ClipRecipe(
        loss=loss, embedding=32, vision_width=32, vision_layers=1, text_width=32, text_layers=1, head_width=16
    )
    clip = new_clip(recipe, 32, first.layout.tokenizer)
    assert (clip.towers.logit_bias is not None) == (loss == "siglip")
    batch = {
        "images": smooth_images(3),
        "tokens": clip.tokenize(TEXTS),
        "positives": torch.eye(3, dtype=torch.bool),
        "stated": torch.full((3,), np.nan),
        "ages": torch.full((3,), np.nan),
    }
    objective = toy_objective(clip, loss)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        value, _ = objective(**batch)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_clip_stage_in_pieces_gives_the_same_gradients() -> None:
    batch = {
        "images": smooth_images(3),
        "positives": torch.eye(3, dtype=torch.bool),
        "stated": torch.full((3,), np.nan),
        "ages": torch.full((3,), np.nan),
    }
    gradients = []
    for piece in (0, 2):
        clip = toy_clip().requires_grad_(True)
        objective = toy_objective(clip, "multi-positive", piece)
        objective(tokens=clip.tokenize(TEXTS), **batch)[0].backward()
        gradients.append({n: p.grad for n, p in clip.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        near = 1e-5 * float(gradient.abs().max())  # float32, summed in another order
        assert torch.allclose(gradient, gradients[1][name], rtol=0, atol=near), name
