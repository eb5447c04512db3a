"""Weights of noise levels."""

from __future__ import annotations

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from brainclip.errors import RecipeError
from brainclip.train.weighting import PREDICTIONS, min_snr_weight


def test_the_weights_are_those_of_the_clean_samples_error() -> None:
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    timesteps = torch.tensor([1, 100, 500, 900])
    kept = scheduler.alphas_cumprod[timesteps]
    snr = kept / (1 - kept)
    assert snr[0] > 5 > snr[2]
    clean, noise = torch.randn(4, 6), torch.randn(4, 6)
    missed = torch.randn(4, 6)  # of the clean sample; the noisy one stays as it is
    noisy = scheduler.add_noise(clean, noise, timesteps)
    root = kept.sqrt()[:, None], (1 - kept).sqrt()[:, None]
    found = (noisy - root[0] * (clean + missed)) / root[1]
    errors = {
        "sample": missed,
        "epsilon": found - noise,
        "v_prediction": (root[0] * found - root[1] * (clean + missed)) - (root[0] * noise - root[1] * clean),
    }
    for prediction in PREDICTIONS:
        weight = min_snr_weight(scheduler, timesteps, 5.0, prediction)
        weighted = weight[:, None] * errors[prediction].square()
        wanted = snr.clamp(max=5)[:, None] * missed.square()
        torch.testing.assert_close(weighted, wanted, rtol=2e-3, atol=1e-4)  # float32 at an snr of 1e4


def test_no_signal_left_gives_finite_weights() -> None:
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    last = torch.tensor([999])
    assert [float(min_snr_weight(scheduler, last, 5.0, name)) for name in PREDICTIONS] == [1.0, 0.0, 0.0]


def test_an_unknown_prediction_is_named() -> None:
    with pytest.raises(RecipeError, match=r"'eps'.*epsilon, v_prediction, sample"):
        min_snr_weight(DDPMScheduler(), torch.tensor([1]), 5.0, "eps")
