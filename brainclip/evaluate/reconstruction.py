"""Reconstruction: what the autoencoder keeps of held-out slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity

from brainclip.data import PairDataset
from brainclip.decoder import Decoder
from brainclip.evaluate.figures import average
from brainclip.vae import PatchAutoencoder

SEED = 13
SLICES = 400


def psnr(true: np.ndarray, made: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, at most 99, of images (H, W) in [0, 1]; within a mask if given."""
    error = (np.asarray(true, dtype=np.float64) - made) ** 2
    mean = error.mean() if mask is None else error[mask].mean()
    return float(min(99.0, -10 * np.log10(max(mean, 1e-12))))


def ssim(true: np.ndarray, made: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity of images (H, W) in [0, 1], Gaussian window of 1.5 pixels (Wang et al. 2004)."""
    value, table = structural_similarity(
        true, made, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(value if mask is None else table[mask].mean())


@torch.no_grad()
def reconstruction(decoder: Decoder, data: PairDataset, *, slices: int = SLICES) -> dict[str, Any]:
    """PSNR and SSIM of at most `slices` held-out slices of each pairs folder, whole and within the brain.

    closed_form: of our own autoencoder, the encoder's components alone, without the trained part of its
    decoder. The brain: pixels above 0.
    """
    layout, result = decoder.layout, {}
    vae = layout.parts[layout.autoencoder]
    for number, folder in enumerate(data.folders):
        rows = np.flatnonzero(data.folder_of == number)
        rows = np.sort(np.random.default_rng(SEED).permutation(rows)[:slices])
        subjects = np.array([data.pairs[i].subject for i in rows])
        values: dict[str, list[float]] = {}
        for start in range(0, len(rows), 32):
            images = data.images(rows[start : start + 32])
            latents = layout.latents(images)
            kinds = {"": layout.pictures(latents)}
            if isinstance(vae, PatchAutoencoder):
                kinds["closed_form_"] = ((vae.linear_decode(latents) + 1) / 2).clamp(0, 1)
            for k, image in enumerate(images[:, 0].numpy()):
                brain = image > 0
                for name, made in kinds.items():
                    picture = made[k, 0].cpu().numpy()
                    for kind, score in (("psnr", psnr), ("ssim", ssim)):
                        values.setdefault(f"{name}{kind}", []).append(score(image, picture))
                        values.setdefault(f"{name}{kind}_brain", []).append(score(image, picture, brain))
        result[folder.name] = {name: average(np.array(numbers), subjects) for name, numbers in values.items()}
    return result
