"""How much each noise level counts in a diffusion loss."""

from __future__ import annotations

from typing import Any

from diffusers.training_utils import compute_snr
from torch import Tensor

from brainclip.errors import RecipeError

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def min_snr_weight(scheduler: Any, timesteps: Tensor, gamma: float, prediction: str) -> Tensor:
    """Weights (B,) of squared errors of what is predicted: that of the clean sample weighs min(snr, gamma).

    scheduler: of diffusers, with alphas_cumprod; timesteps (B,); prediction: one of PREDICTIONS, as diffusers
    names it. With no signal left (snr 0, zero terminal SNR) the error of epsilon weighs 1, as gamma >= snr
    there. Hang et al. 2023, section 3.4.
    """
    if prediction not in PREDICTIONS:
        raise RecipeError(f"prediction {prediction!r}: possible are {', '.join(PREDICTIONS)}")
    snr = compute_snr(scheduler, timesteps)
    capped = snr.clamp(max=gamma)
    if prediction == "sample":
        return capped
    if prediction == "v_prediction":
        return capped / (snr + 1)
    return (capped / snr).nan_to_num(1.0)  # 0 / 0
