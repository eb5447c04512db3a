"""What a diffusion network is trained on: noise, times, the targets of the four objectives, its error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from brainclip.config import DenoisingRecipe
from brainclip.schedules import FLOW, objective_of
from brainclip.train.weighting import min_snr_weight

COARSEST = 2  # latents along a side, below which pyramid noise adds no level


def noised(
    scheduler: Any, clean: Tensor, noise: Tensor, time: Tensor, *, min_snr: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy, target, weight): what the network sees and should answer, what a row's squared error weighs.

    scheduler: of schedules.training_scheduler. clean, noise: (B, C, h, w). time: (B,), of the flow the share
    of noise times 1000, else the schedule's steps. Targets: flow, noise - clean (Liu et al. 2022); epsilon,
    the noise; sample, the clean latents; v_prediction, a noise - s clean, where noisy = a clean + s noise
    (Salimans and Ho 2022). min_snr: gamma, 0 for equal weights (Hang et al. 2023).
    """
    objective, weight = objective_of(scheduler), torch.ones(len(clean), device=clean.device)
    if objective == FLOW:
        spread = (time / 1000)[:, None, None, None]
        return (1 - spread) * clean + spread * noise, noise - clean, weight
    if min_snr:
        weight = min_snr_weight(scheduler, time, min_snr, objective)
    noisy = scheduler.add_noise(clean, noise, time)
    if objective == "v_prediction":
        return noisy, scheduler.get_velocity(clean, noise, time), weight
    return noisy, noise if objective == "epsilon" else clean, weight


def squared_error(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of answers (B, C, h, w), each row as often as it weighs."""
    return (weight * (predicted.float() - target).square().mean((1, 2, 3))).mean()


def draw_times(generator: np.random.Generator, scheduler: Any, rows: int) -> Tensor:
    """Times (B,): logit-normal of the flow, as in Esser et al. 2024; else any step of the schedule."""
    if objective_of(scheduler) == FLOW:
        return torch.from_numpy(generator.standard_normal(rows, dtype=np.float32)).sigmoid() * 1000
    return torch.from_numpy(generator.integers(0, scheduler.config.num_train_timesteps, rows))


def coloured(noise: Tensor, key: Sequence[int], recipe: DenoisingRecipe) -> Tensor:
    """White noise (B, C, h, w) with the recipe's pyramid and offset noise, drawn from the seeds `key`.

    Pyramid: level k has blocks of 2^k x 2^k latents and pyramid_noise^k of the amplitude; the sum is scaled
    to unit variance. Offset: a number per row and channel is added, so that the mean of a picture is learned
    as well (Guttenberg 2023).
    """
    if not (recipe.pyramid_noise or recipe.offset_noise):
        return noise
    generator = np.random.default_rng([*key, 3])

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    rows, channels, *sides = noise.shape
    variance, side, level = 1.0, min(sides), 1
    while recipe.pyramid_noise and side // 2**level >= COARSEST:
        share = recipe.pyramid_noise**level
        coarse = drawn(rows, channels, *(-(-whole // 2**level) for whole in sides))
        blocks = functional.interpolate(coarse, scale_factor=2**level, mode="nearest")
        noise = noise + share * blocks[..., : sides[0], : sides[1]]
        variance, level = variance + share**2, level + 1
    return noise / variance**0.5 + recipe.offset_noise * drawn(rows, channels, 1, 1)
