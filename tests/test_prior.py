from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import PriorTransformer
from toys import TEXTS, toy_clip, toy_prior

from brainclip.clip import Clip
from brainclip.errors import WeightsError
from brainclip.prior import Prior


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = tmp_path_factory.mktemp("clip")
    toy_clip().save(folder)
    return Clip.load(folder)


def test_statistics_are_the_clips_own_and_not_trained(clip: Clip) -> None:
    transformer = toy_prior(clip).transformer
    assert torch.equal(transformer.clip_mean[0], clip.embedding_mean)
    assert bool((transformer.clip_std > 0).all())
    assert not transformer.clip_mean.requires_grad and not transformer.clip_std.requires_grad


def test_prior_folder_loads_with_diffusers_and_here(clip: Clip, tmp_path: Path) -> None:
    prior = toy_prior(clip)
    prior.save(tmp_path, dtype=None)
    again = Prior.load(tmp_path, clip)
    theirs = PriorTransformer.from_pretrained(tmp_path)
    state = prior.transformer.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())
    settings = {"steps": 4, "guidance": 2.0}
    assert torch.equal(
        prior.sample(clip, TEXTS, [1, 2, 3], **settings), again.sample(clip, TEXTS, [1, 2, 3], **settings)
    )


def test_sample_depends_on_its_own_seed_and_not_on_the_batch(clip: Clip) -> None:
    prior = toy_prior(clip)
    together = prior.sample(clip, TEXTS, [1, 2, 3], steps=4, guidance=2.0)
    alone = prior.sample(clip, TEXTS[1:2], [2], steps=4, guidance=2.0)
    assert torch.allclose(together[1], alone[0], atol=1e-5)  # matrix products of other sizes round otherwise
    assert not torch.allclose(prior.sample(clip, TEXTS[1:2], [9], steps=4, guidance=2.0), alone, atol=1e-2)


def test_large_embeddings_are_not_clipped_to_one(clip: Clip) -> None:
    scheduler = toy_prior(clip).scheduler
    scheduler.set_timesteps(4)
    clean = torch.full((1, 32), 3.0)
    x = torch.randn(1, 32)
    for timestep in scheduler.timesteps:
        x = scheduler.step(clean, timestep, x).prev_sample
    assert torch.allclose(x, clean, atol=1e-4)


def test_prior_of_another_clip_is_refused_with_both_hashes(clip: Clip, tmp_path: Path) -> None:
    toy_prior(clip).save(tmp_path / "prior")
    other = toy_clip(seed=5)
    other.save(tmp_path / "clip")
    other = Clip.load(tmp_path / "clip")
    with pytest.raises(WeightsError, match=f"CLIP {clip.hash}, not with CLIP {other.hash}"):
        Prior.load(tmp_path / "prior", other)
