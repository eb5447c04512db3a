"""Stage vae: the closed-form encoder is fitted, the residual decoder trained on crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from brainclip.config import Recipe, as_dict
from brainclip.data import training_data
from brainclip.train.loop import Batch, Stage, train
from brainclip.vae import PatchAutoencoder
from brainclip.weights import DIFFUSERS_WEIGHTS, load_weights, read_json, save_weights


class VaeObjective(nn.Module):
    """Absolute error of pixels and of their gradients, from latents with noise of random strength added."""

    def __init__(self, vae: PatchAutoencoder, noise: float) -> None:
        super().__init__()
        self.vae, self.noise = vae, noise

    def forward(self, images: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            latents = self.vae.encode(images).latent_dist.mode()
        rebuilt = self.vae.decode(latents + self.noise * strength[:, None, None, None] * noise).sample
        pixels = (rebuilt - images).abs().mean()
        gradients = (
            (rebuilt - images).diff(dim=-1).abs().mean() + (rebuilt - images).diff(dim=-2).abs().mean()
        ) / 2
        return pixels + gradients, {"pixels": pixels.detach()}


def load_vae(folder: Path) -> PatchAutoencoder:
    """The autoencoder saved in `folder`, strictly loaded."""
    vae = PatchAutoencoder.from_config(read_json(folder / "config.json"))
    load_weights(vae, folder / DIFFUSERS_WEIGHTS)
    return vae.eval()


def train_vae(recipe: Recipe) -> dict[str, float]:
    """Train the vae stage of a recipe into <folder>/vae."""
    stage, run = recipe.vae, Path(recipe.folder) / "vae"
    data = training_data(recipe, stage)
    torch.manual_seed(stage.seed)
    vae = PatchAutoencoder(stage.patch, stage.latents, stage.widths, stage.blocks, data.size)
    indices = np.concatenate(
        [data.draw(256, stage.seed, 2**31 + k) for k in range(-(-stage.basis_slices // 256))]
    )
    vae.fit(data.images(indices[: stage.basis_slices]) * 2 - 1, whiten=stage.whiten)

    def batch(step: int) -> Batch:
        generator = np.random.default_rng([stage.seed, step, 1])
        images = data.images(data.draw(stage.batch, stage.seed, step)) * 2 - 1
        crops = []
        for image in images:  # corners on the patch grid, so that the latents are those of the whole slice
            top, left = (
                generator.integers(0, (data.size - stage.crop) // stage.patch + 1, size=2) * stage.patch
            )
            crops.append(image[:, top : top + stage.crop, left : left + stage.crop])
        side = stage.crop // stage.patch
        noise = generator.standard_normal((len(images), stage.latents, side, side), dtype=np.float32)
        strength = generator.random(len(images), dtype=np.float32)
        return {
            "images": torch.stack(crops),
            "noise": torch.from_numpy(noise),
            "strength": torch.from_numpy(strength),
        }

    def save(folder: Path) -> None:
        save_weights(vae, folder / DIFFUSERS_WEIGHTS)
        vae.save_config(folder)

    facts = {"recipe": as_dict(stage), "inputs": {"pairs": data.hash}}
    return train(Stage("vae", VaeObjective(vae, stage.noise), batch, save), stage, run, facts)
