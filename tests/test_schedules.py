"""Schedules and objectives: what a network predicts, what its errors weigh, and the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from brainclip.config import DecoderRecipe, DenoisingRecipe
from brainclip.errors import RecipeError, WeightsError
from brainclip.schedules import (
    FLOW_SAMPLERS,
    OBJECTIVES,
    SAMPLERS,
    check_weights,
    denoised,
    load_scheduler,
    new_scheduler,
    objective_of,
    training_scheduler,
)
from brainclip.train.objectives import coloured, draw_times, noised

# diffusers hands torch tensors to numpy in a way that numpy 2 will no longer take
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SHAPE = (4, 6, 8)
WAYS = [("flow", "euler", False), ("flow", "", False)]
WAYS += [(objective, sampler, False) for objective in OBJECTIVES[1:] for sampler in ("", *SAMPLERS)]
WAYS += [(objective, sampler, True) for objective in OBJECTIVES[2:] for sampler in SAMPLERS]


def perfect(scheduler: object, noisy: Tensor, time: Tensor, clean: Tensor) -> Tensor:
    """What a network without error answers, which knows the clean latents."""
    objective = objective_of(scheduler)
    if objective == "flow":
        return (noisy - clean) / (time / 1000)
    kept = training_scheduler(scheduler).alphas_cumprod[int(time)].double()
    noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
    answers = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * clean,
    }
    return answers[objective].float()


@pytest.mark.parametrize(("objective", "sampler", "zero"), WAYS)
def test_the_answers_of_a_perfect_network_lead_to_the_clean_latents(
    objective: str, sampler: str, zero: bool
) -> None:
    recipe = DecoderRecipe(objective=objective, sampler=sampler, zero_terminal_snr=zero)
    scheduler = new_scheduler(recipe)
    assert objective_of(scheduler) == objective
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    clean = 3 * torch.randn(2, *SHAPE)  # beyond +-1, where diffusers would clip
    noise = torch.stack([torch.randn(SHAPE, generator=g) for g in generators])

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        return perfect(scheduler, noisy, time, clean)

    x = denoised(scheduler, noise, predict, steps=7, generators=generators)
    # DPM-Solver and Euler begin at a signal of 2^-12 where there is none; the rest is float32
    assert torch.allclose(x, clean, atol=0.02 if zero else 2e-3)


@pytest.mark.parametrize(("objective", "sampler", "zero"), WAYS)
def test_the_way_back_from_a_noised_start_ends_at_it_and_takes_the_last_steps_alone(
    objective: str, sampler: str, zero: bool
) -> None:
    recipe = DecoderRecipe(objective=objective, sampler=sampler, zero_terminal_snr=zero)
    scheduler = new_scheduler(recipe)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    clean, times = 3 * torch.randn(2, *SHAPE), []
    noise = torch.stack([torch.randn(SHAPE, generator=g) for g in generators])

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        if not times:
            between = (noisy - clean).std() if objective == "flow" else (noisy / noisy.std()).std()
            assert 0 < between < 3
        times.append(float(time))
        return perfect(scheduler, noisy, time, clean)

    x = denoised(scheduler, noise, predict, steps=10, generators=generators, start=clean, strength=0.4)
    assert torch.allclose(x, clean, atol=2e-3)
    assert len(times) <= 5 and max(times) < 500


@pytest.mark.parametrize(("objective", "sampler", "zero"), WAYS)
def test_what_is_kept_of_a_start_stays_and_the_rest_is_the_networks(
    objective: str, sampler: str, zero: bool
) -> None:
    recipe = DecoderRecipe(objective=objective, sampler=sampler, zero_terminal_snr=zero)
    scheduler, clean, start = new_scheduler(recipe), 3 * torch.randn(2, *SHAPE), 3 * torch.randn(2, *SHAPE)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    noise = torch.stack([torch.randn(SHAPE, generator=g) for g in generators])
    keep = torch.rand(2, 1, *SHAPE[1:]) < 0.5

    def predict(noisy: Tensor, time: Tensor) -> Tensor:
        return perfect(scheduler, noisy, time, torch.where(keep, start, clean))

    x = denoised(scheduler, noise, predict, steps=10, generators=generators, start=start, keep=keep)
    assert torch.equal(x.where(keep, x.new_zeros(())), start.where(keep, x.new_zeros(())))
    assert torch.allclose(x, torch.where(keep, start, clean), atol=0.05 if zero else 5e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_row_draws_from_its_own_generator_alone(sampler: str) -> None:
    def run(seeds: list[int]) -> Tensor:
        scheduler = new_scheduler(DecoderRecipe(objective="epsilon", sampler=sampler))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(SHAPE, generator=g) for g in generators])
        return denoised(scheduler, noise, lambda noisy, _: 0.9 * noisy, steps=5, generators=generators)

    assert torch.allclose(run([4, 7])[1], run([7])[0], atol=1e-5)


def test_targets_are_those_of_the_papers() -> None:
    clean, noise = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE)
    share = torch.tensor([0.2, 0.5, 0.9])
    flow = new_scheduler(DecoderRecipe())
    noisy, target, weight = noised(flow, clean, noise, share * 1000)
    for row, s in enumerate(share):
        assert torch.allclose(noisy[row], (1 - s) * clean[row] + s * noise[row], atol=1e-6)
    assert torch.equal(target, noise - clean) and torch.equal(weight, torch.ones(3))

    time = torch.tensor([10, 500, 990])
    for objective in OBJECTIVES[1:]:
        scheduler = training_scheduler(new_scheduler(DecoderRecipe(objective=objective)))
        # Stable Diffusion's: the square roots of the betas are equidistant
        kept = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2).cumprod(0)[time]
        a, s = kept.sqrt()[:, None, None, None], (1 - kept).sqrt()[:, None, None, None]
        noisy, target, weight = noised(scheduler, clean, noise, time)
        assert torch.allclose(noisy.double(), a * clean + s * noise, atol=1e-4)
        wanted = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}[objective]
        assert torch.allclose(target.double(), wanted.double(), atol=1e-4)
        assert torch.equal(weight, torch.ones(3))
        snr = kept / (1 - kept)
        capped = snr.clamp(max=5)
        factor = {"epsilon": 1 / snr, "sample": torch.ones(3), "v_prediction": 1 / (snr + 1)}[objective]
        weight = noised(scheduler, clean, noise, time, min_snr=5.0)[2]
        assert torch.allclose(weight.double(), capped * factor, rtol=2e-3)


def test_zero_terminal_snr_leaves_noise_alone() -> None:
    recipe = DecoderRecipe(objective="v_prediction", zero_terminal_snr=True)
    scheduler = training_scheduler(new_scheduler(recipe))
    clean, noise = torch.randn(1, *SHAPE), torch.randn(1, *SHAPE)
    noisy, target, weight = noised(scheduler, clean, noise, torch.tensor([999]), min_snr=5.0)
    assert torch.equal(noisy, noise) and torch.equal(target, -clean) and weight.item() == 0
    usual = training_scheduler(new_scheduler(replace(recipe, zero_terminal_snr=False)))
    assert float(usual.alphas_cumprod[-1]) == pytest.approx(0.0047, abs=1e-4)
    assert int(new_scheduler(recipe).timesteps[0]) == 999
    made = new_scheduler(recipe)
    made.set_timesteps(4)
    assert made.timesteps.tolist() == [999, 749, 499, 249]


def test_the_schedule_of_a_base_is_kept_and_its_steps_end_at_the_clean_latents(tmp_path: Path) -> None:
    config = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_start": 0.001,
        "beta_end": 0.01,
        "beta_schedule": "linear",
        "num_train_timesteps": 500,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    published = load_scheduler(tmp_path)
    scheduler = new_scheduler(DecoderRecipe(), published)
    assert type(scheduler).__name__ == "DDIMScheduler" and objective_of(scheduler) == "epsilon"
    for config in (scheduler.config, training_scheduler(scheduler).config):
        assert (config["beta_start"], config["beta_end"], config["beta_schedule"]) == (0.001, 0.01, "linear")
        assert (config["num_train_timesteps"], config["steps_offset"]) == (500, 1)
        assert config["timestep_spacing"] == "leading"
    assert not scheduler.config["clip_sample"]
    assert float(scheduler.final_alpha_cumprod) == 1
    flow = new_scheduler(DecoderRecipe(objective="flow"), published)
    assert objective_of(flow) == "flow"


def test_times_of_the_flow_are_logit_normal_and_of_the_others_uniform() -> None:
    flow, other = new_scheduler(DecoderRecipe()), new_scheduler(DecoderRecipe(objective="sample"))
    times = draw_times(np.random.default_rng(0), flow, 20_000) / 1000
    assert (
        torch.logit(times.double()).mean().abs() < 0.03 and abs(torch.logit(times.double()).std() - 1) < 0.03
    )
    steps = draw_times(np.random.default_rng(0), other, 20_000)
    assert steps.dtype == torch.int64 and (steps.min(), steps.max()) == (0, 999)
    assert steps.double().mean() == pytest.approx(499.5, abs=6)


def test_offset_noise_is_shared_by_a_channel_of_a_row() -> None:
    white = torch.randn(400, 4, 8, 8)
    recipe = DenoisingRecipe(offset_noise=0.5)
    added = coloured(white, [0, 3], recipe) - white
    assert torch.allclose(added, added[:, :, :1, :1].expand_as(added), atol=1e-6)
    assert float(added[:, :, 0, 0].std()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(coloured(white, [0, 3], recipe), white + added)
    assert not torch.equal(coloured(white, [0, 4], recipe), white + added)
    assert coloured(white, [0, 3], DenoisingRecipe()) is white


def test_pyramid_noise_has_unit_variance_and_is_alike_within_its_blocks() -> None:
    white = torch.randn(4000, 1, 8, 8)
    made = coloured(white, [0, 0], DenoisingRecipe(pyramid_noise=0.5))
    shares = 1 + 0.5**2 + 0.5**4  # itself, blocks of 2 and of 4; 8 / 8 is below the coarsest
    assert torch.allclose(made.var(0), torch.ones(1, 8, 8), atol=0.12)
    a, b, c, d = made[:, 0, 0, 0], made[:, 0, 1, 1], made[:, 0, 3, 3], made[:, 0, 4, 4]
    covariances = [float((a * other).mean()) for other in (b, c, d)]
    assert covariances == pytest.approx([(0.5**2 + 0.5**4) / shares, 0.5**4 / shares, 0], abs=0.05)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (DecoderRecipe(objective="eps"), "'eps': possible are flow, epsilon, v_prediction, sample"),
        (
            DecoderRecipe(objective="epsilon", sampler="heun"),
            "'heun': possible for the objective 'epsilon' are ddim, ddpm, euler, dpm-solver, unipc",
        ),
        (DecoderRecipe(sampler="ddim"), "'ddim': possible for the objective 'flow' are euler"),
        (
            DecoderRecipe(objective="epsilon", zero_terminal_snr=True),
            "'epsilon' says nothing .* give v_prediction",
        ),
        (DecoderRecipe(zero_terminal_snr=True), "'flow' ends in noise alone already"),
    ],
)
def test_what_a_schedule_cannot_do_is_refused(recipe: DecoderRecipe, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        new_scheduler(recipe)


@pytest.mark.parametrize("name", ["NoScheduler", "KarrasVeScheduler", "UNet2DModel"])
def test_an_unknown_scheduler_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(WeightsError, match=f"unknown scheduler '{name}'; possible are FlowMatch.*, DDIMS"):
        load_scheduler(tmp_path)


def test_the_flow_has_no_weights() -> None:
    with pytest.raises(RecipeError, match="min_snr = 5: the flow has no weights"):
        check_weights(DecoderRecipe(min_snr=5.0), "flow")
    check_weights(DecoderRecipe(min_snr=5.0), "epsilon")
    assert set(FLOW_SAMPLERS) == {"euler"}
