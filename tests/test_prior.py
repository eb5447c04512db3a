from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import PriorTransformer
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch.nn import functional
from toys import CLIP, PRIOR, SIZE, TEXTS, toy_clip, toy_prior

from brainclip.clip import Clip, new_clip, train_tokenizer
from brainclip.errors import WeightsError
from brainclip.prior import Prior
from brainclip.train.prior import PriorObjective
from brainclip.weights import DIFFUSERS_WEIGHTS, write_json


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


def test_of_several_candidates_the_nearest_to_the_text_is_taken(clip: Clip) -> None:
    prior, settings = toy_prior(clip), {"steps": 3, "guidance": 2.0}
    found = prior.sample(clip, TEXTS, [1, 2, 3], candidates=4, **settings)
    text = clip.encode_text(clip.tokenize(TEXTS))[0]
    for row, seed in enumerate([1, 2, 3]):
        first = torch.randn(32, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        noise = torch.stack([torch.randn(32, generator=generator) for _ in range(4)])
        assert torch.equal(noise[0], first)  # the picture of candidates = 1
        tokens = clip.tokenize([TEXTS[row]] * 4 + [""] * 4)
        drawn = prior.unwhiten(prior._denoised(noise, *clip.encode_text(tokens), tokens != 0, **settings))
        cosine = drawn @ text[row]
        assert cosine.max() > cosine.min() + 1e-3
        assert torch.allclose(found[row], drawn[cosine.argmax()], atol=1e-5)


def test_age_guidance_moves_the_age_alone(clip: Clip) -> None:
    prior, settings = toy_prior(clip), {"steps": 1, "guidance": 2.0}
    axis = functional.normalize(torch.arange(1.0, len(clip.age_axis) + 1), dim=0)
    clip.age_axis.copy_(axis)
    try:
        plain, same, more, less = (
            prior.sample(clip, TEXTS, [1, 2, 3], age_guidance=age, **settings)
            for age in (None, 2.0, 6.0, 1.0)
        )
    finally:
        clip.age_axis.zero_()
    assert torch.equal(plain, same)
    assert ((more - plain) @ axis).abs().min() > 1e-3
    assert bool(((more - plain) @ axis * ((plain - less) @ axis) > 0).all())  # one way, and the other
    # a single step of DDIM ends at the prediction, and unit length only stretches what is across the axis
    across = [found - torch.outer(found @ axis, axis) for found in (plain, more)]
    assert functional.cosine_similarity(*across) == pytest.approx(1.0, abs=1e-5)


def test_candidates_do_not_depend_on_the_batch(clip: Clip) -> None:
    prior, settings = toy_prior(clip), {"steps": 3, "guidance": 2.0, "candidates": 4}
    together = prior.sample(clip, TEXTS, [1, 2, 3], **settings)
    alone = prior.sample(clip, TEXTS[1:2], [2], **settings)
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-6)


@pytest.mark.parametrize(("embedding", "text_width"), [(32, 48), (48, 32)])
def test_text_tower_of_another_width_than_the_embedding(
    tmp_path: Path, embedding: int, text_width: int
) -> None:
    torch.manual_seed(0)
    clip = new_clip(
        replace(CLIP, embedding=embedding, text_width=text_width), SIZE, train_tokenizer(TEXTS * 20, 400)
    )
    clip.embedding_std.fill_(0.1)
    prior = Prior.new(PRIOR, clip).eval()
    prior.save(tmp_path, dtype=None)
    made = [
        p.sample(clip, TEXTS, [1, 2, 3], steps=2, guidance=2.0) for p in (prior, Prior.load(tmp_path, clip))
    ]
    assert made[0].shape == (3, embedding) and torch.equal(*made)
    assert PriorTransformer.from_pretrained(tmp_path).config.embedding_dim == 48


def test_min_snr_weighs_the_errors_of_each_noise_level(clip: Clip) -> None:
    prior, years = toy_prior(clip), torch.linspace(-1, 1, 32)
    x, noise = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    tokens, times = clip.tokenize(TEXTS), torch.tensor([10, 500, 950])
    with torch.no_grad():
        embedding, states = clip.encode_text(tokens)
    kept = prior.scheduler.alphas_cumprod[times]
    missed = prior(prior.scheduler.add_noise(x, noise, times), times, embedding, states, tokens != 0) - x
    weights = (kept / (1 - kept)).clamp(max=5.0)
    assert weights[0] == 5.0 and weights[2] < 0.1
    for gamma, weight in ((0.0, torch.ones(3)), (5.0, weights)):
        objective = PriorObjective(prior, clip, years, age=0.5, min_snr=gamma)
        loss, parts = objective(x, noise, times, tokens)
        squared, age = (weight * missed.square().mean(1)).mean(), (weight * (missed @ years).square()).mean()
        assert torch.allclose(parts["squared"], squared) and torch.allclose(parts["age"], age)
        assert torch.allclose(loss, squared + 0.5 * age)
        loss.backward()
        assert not any("towers" in name for name, _ in objective.named_parameters())  # the CLIP's
        assert all(parameter.grad is None for parameter in clip.parameters())


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


def test_damaged_prior_is_refused_by_the_name_of_what_is_wrong(clip: Clip, tmp_path: Path) -> None:
    toy_prior(clip).save(tmp_path)
    path = tmp_path / DIFFUSERS_WEIGHTS
    weights = load_file(path)

    def refused(message: str) -> None:
        with pytest.raises(WeightsError, match=message):
            Prior.load(tmp_path, clip)

    save_file({key: value for key, value in weights.items() if not key.startswith("proj_in.")}, path)
    refused("2 keys missing, first 'proj_in.bias'")
    save_file(weights | {"conv_in.weight": torch.zeros(1)}, path)
    refused("1 keys too many, first 'conv_in.weight'")
    save_file(weights | {"proj_in.bias": torch.zeros(5)}, path)
    refused(r"proj_in.bias has shape \(5,\), the model wants \(32,\)")
    save_file(weights, path)
    write_json(tmp_path / "contract.json", {"clip": clip.hash, "base": "theirs", "image_length": 30.0})
    refused("key 'text_length' is missing")
    write_json(tmp_path / "contract.json", {})
    refused("key 'clip' is missing")


def test_real_size_has_a_billion_parameters_and_its_lora_is_small(tmp_path: Path) -> None:
    """The published configuration, without memory for its weights: 32 heads of 64, 20 layers, ViT-bigG."""
    layers, inner, width, rank = 20, 32 * 64, 1280, 16
    with torch.device("meta"):
        transformer = PriorTransformer(32, 64, layers, embedding_dim=width, num_embeddings=77)
    block = 4 * (inner**2 + inner) + (8 * inner**2 + 5 * inner) + 4 * inner  # attention, feed-forward, norms
    around = 2 * (inner**2 + inner)  # of the timestep
    around += 3 * (width * inner + inner) + (81 + 1 + 2) * inner  # inputs; places, output token, last norm
    around += inner * width + width + 2 * width  # output; statistics
    counted = sum(part.numel() for part in transformer.parameters())
    assert counted == layers * block + around == 1_026_225_920
    prior = Prior(transformer, DDIMScheduler(), {"clip": "", "image_length": 30.0, "text_length": 30.0})
    with torch.device("meta"):
        prior.add_lora(rank, rank, "kandinsky-community/kandinsky-2-2-prior")
    trained = {name: part for name, part in prior.named_parameters() if part.requires_grad}
    assert sum(part.numel() for part in trained.values()) == layers * 4 * rank * 2 * inner == 5_242_880
    shapes = {"x": (2, width), "t": (2,), "embedding": (2, width), "states": (2, 77, width)}
    inputs = [torch.zeros(shape, device="meta") for shape in shapes.values()]
    mask = torch.ones(2, 77, dtype=torch.bool, device="meta")
    assert prior(*inputs, mask).shape == (2, width)
    save_file(
        {name: torch.zeros(part.shape) for name, part in trained.items()}, tmp_path / "lora.safetensors"
    )
    assert (tmp_path / "lora.safetensors").stat().st_size == pytest.approx(21.0e6, rel=0.01)  # bytes, float32
