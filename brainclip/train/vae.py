"""Stage vae: our autoencoder, whose encoder is fitted and whose decoder is trained on crops; or a published
one, adapted to one channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from brainclip.config import Recipe, VaeRecipe, as_dict
from brainclip.data import PairDataset, training_data
from brainclip.layouts import base_folder
from brainclip.layouts.layout import factor
from brainclip.layouts.parts import read_part
from brainclip.train.checks import check_crop, check_vae
from brainclip.train.loop import Batch, Stage, train
from brainclip.vae import PatchAutoencoder
from brainclip.weights import DIFFUSERS_WEIGHTS, hash_file, save_weights

KL = 1e-6  # of the latents of an encoder that is trained as well, a pixel; Rombach et al. 2022, section G


class VaeObjective(nn.Module):
    """Absolute error of pixels and of their gradients, from latents with noise of random strength added.

    noise: its largest standard deviation, in the latents' own unit.
    """

    def __init__(self, vae: Any, noise: float) -> None:
        super().__init__()
        self.vae, self.noise = vae, noise

    def forward(self, images: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.vae.encode(images).latent_dist
        latents = found.mode()
        rebuilt = self.vae.decode(latents + self.noise * strength[:, None, None, None] * noise).sample
        pixels = (rebuilt - images).abs().mean()
        gradients = (
            (rebuilt - images).diff(dim=-1).abs().mean() + (rebuilt - images).diff(dim=-2).abs().mean()
        ) / 2
        loss = pixels + gradients
        if latents.requires_grad:  # else the encoder is fixed
            loss = loss + KL * found.kl().sum() / images.numel()
        return loss, {"pixels": pixels.detach()}


def one_channel(vae: AutoencoderKL) -> AutoencoderKL:
    """An autoencoder of grey pictures (B, 1, H, W) that does what `vae` does with three equal channels: the
    weights of the first convolution are summed, those of the last averaged."""
    config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    grey = AutoencoderKL.from_config(config | {"in_channels": 1, "out_channels": 1})
    state = vae.state_dict()
    state["encoder.conv_in.weight"] = state["encoder.conv_in.weight"].sum(1, keepdim=True)
    for key in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        state[key] = state[key].mean(0, keepdim=True)
    grey.load_state_dict(state)
    return grey.eval()


def _adapted(stage: VaeRecipe) -> tuple[AutoencoderKL, str]:
    """The base's autoencoder for one channel, what stays as it is frozen; and the hash of its weights."""
    folder = base_folder(stage.base, ("vae",))
    if (folder / "model_index.json").is_file():
        folder /= "vae"
    vae = one_channel(read_part(AutoencoderKL, folder))
    if stage.train == "decoder":
        for name, parameter in vae.named_parameters():
            parameter.requires_grad_(not name.startswith(("encoder.", "quant_conv.")))
    return vae, hash_file(folder / DIFFUSERS_WEIGHTS)


def _fitted(stage: VaeRecipe, data: PairDataset) -> PatchAutoencoder:
    """Our own, its encoder fitted on training slices."""
    vae = PatchAutoencoder(stage.patch, stage.latents, stage.widths, stage.blocks, data.size)
    indices = np.concatenate(
        [data.draw(256, stage.seed, 2**31 + k) for k in range(-(-stage.basis_slices // 256))]
    )
    vae.fit(data.images(indices[: stage.basis_slices]) * 2 - 1, whiten=stage.whiten)
    return vae


def train_vae(recipe: Recipe) -> dict[str, float]:
    """Train the vae stage of a recipe into <folder>/vae."""
    stage, run = recipe.vae, Path(recipe.folder) / "vae"
    check_vae(recipe)
    data = training_data(recipe, stage)
    inputs = {"pairs": data.hash}
    torch.manual_seed(stage.seed)
    vae: Any
    if stage.base:
        vae, inputs["base"] = _adapted(stage)
    else:
        vae = _fitted(stage, data)
    patch, channels = factor(vae), vae.config["latent_channels"]
    check_crop(stage.crop, patch, data.size)

    def batch(step: int) -> Batch:
        generator = np.random.default_rng([stage.seed, step, 1])
        images = data.images(data.draw(stage.batch, stage.seed, step)) * 2 - 1
        crops = []
        for image in images:  # corners on the patch grid, so that the latents are those of the whole slice
            top, left = generator.integers(0, (data.size - stage.crop) // patch + 1, size=2) * patch
            crops.append(image[:, top : top + stage.crop, left : left + stage.crop])
        side = stage.crop // patch
        noise = generator.standard_normal((len(images), channels, side, side), dtype=np.float32)
        strength = generator.random(len(images), dtype=np.float32)
        return {
            "images": torch.stack(crops),
            "noise": torch.from_numpy(noise),
            "strength": torch.from_numpy(strength),
        }

    def save(folder: Path) -> None:
        save_weights(vae, folder / DIFFUSERS_WEIGHTS)
        vae.save_config(folder)

    unit = 1 / vae.config["scaling_factor"] if stage.base else 1.0  # of the latents
    objective = VaeObjective(vae, stage.noise * unit)
    facts = {"recipe": as_dict(stage), "inputs": inputs}
    return train(Stage("vae", objective, batch, save), stage, run, facts)
