"""Stage pixel: an unconditional diffusion model of whole slices, to compare the latent chain with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from brainclip.config import Recipe, as_dict
from brainclip.data import training_data
from brainclip.pixel import PixelDiffusion
from brainclip.train.loop import Batch, Stage, train

SHOWN = 8  # slices in a training sample


class PixelObjective(nn.Module):
    """Mean squared error of the predicted noise."""

    def __init__(self, pixels: PixelDiffusion) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """images (B, 1, H, W) in [0, 1]; timestep (B,)."""
        noisy = self.pixels.scheduler.add_noise(images * 2 - 1, noise, timestep)
        return functional.mse_loss(self.pixels.model(noisy, timestep).sample.float(), noise), {}


def train_pixel(recipe: Recipe) -> dict[str, float]:
    """Train the pixel stage of a recipe into <folder>/pixel."""
    stage, run = recipe.pixel, Path(recipe.folder) / "pixel"
    data = training_data(recipe, stage)
    torch.manual_seed(stage.seed)
    pixels = PixelDiffusion.new(stage.model, data.size)

    def batch(step: int) -> Batch:
        generator = np.random.default_rng([stage.seed, step, 1])
        images = data.images(data.draw(stage.batch, stage.seed, step))
        steps = pixels.scheduler.config["num_train_timesteps"]
        return {
            "images": images,
            "noise": torch.from_numpy(generator.standard_normal(tuple(images.shape), dtype=np.float32)),
            "timestep": torch.from_numpy(generator.integers(0, steps, len(images))),
        }

    def sample(run: Path, step: int) -> None:
        """samples/<step>.png: training slices above, made ones below."""
        shown = data.images(data.draw(SHOWN, stage.seed, 2**31))
        made = pixels.sample(list(range(SHOWN)), steps=stage.sampling_steps)
        path = run / "samples" / f"{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet = torch.cat([torch.cat(list(images[:, 0]), 1) for images in (shown, made)])
        Image.fromarray((sheet * 255).round().byte().numpy()).save(path)

    facts = {"recipe": as_dict(stage), "inputs": {"pairs": data.hash}}
    return train(Stage("pixel", PixelObjective(pixels), batch, pixels.save, sample), stage, run, facts)
