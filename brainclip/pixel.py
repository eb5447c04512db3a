"""Pixel-space diffusion: unconditional models of whole slices, without CLIP, prior or latents.

What a latent chain is to be compared with: diffusers' UNet2DModel in four sizes and U-ViT (Bao et al. 2023)
in two, predicting the noise of a DDPM with 1,000 steps and linear betas.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional

from brainclip.errors import WeightsError
from brainclip.pixel_sizes import TIMESTEPS, UNETS, UVITS, check_model, patch_of
from brainclip.schedules import denoised, load_scheduler
from brainclip.weights import DIFFUSERS_WEIGHTS, load_weights, read_json, save_weights, write_json


class UViT(ModelMixin, ConfigMixin):
    """A transformer over patches and a time token, with long skips from its first half to its second.

    blocks: half before and half after one in the middle. size: pixels along a side, patch: of a patch.
    """

    @register_to_config
    def __init__(
        self, size: int = 256, patch: int = 16, width: int = 512, heads: int = 8, blocks: int = 12
    ) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, width, patch, stride=patch)
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.places = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        nn.init.trunc_normal_(self.places, std=0.02)
        self.rising = nn.ModuleList(_block(width, heads) for _ in range(blocks // 2))
        self.middle = _block(width, heads)
        self.falling = nn.ModuleList(_block(width, heads) for _ in range(blocks // 2))
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks // 2))
        self.norm = nn.LayerNorm(width)
        self.paint = nn.Linear(width, patch * patch)
        self.smooth = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> UNet2DOutput:
        """sample (B, 1, H, W), timestep (B,) -> .sample, the predicted noise (B, 1, H, W)."""
        config: Any = self.config
        patches = self.cut(sample)  # (B, width, h, w)
        time = self.time(get_timestep_embedding(timestep, config.width).to(patches.dtype))
        x = (
            torch.cat([time[:, None], patches.flatten(2).transpose(1, 2)], 1) + self.places
        )  # (B, 1 + h w, width)
        skips = []
        for block in self.rising:
            x = block(x)
            skips.append(x)
        x = self.middle(x)
        for join, block in zip(self.joins, self.falling, strict=True):
            x = block(join(torch.cat([x, skips.pop()], -1)))
        pixels = self.paint(self.norm(x[:, 1:])).transpose(1, 2)  # (B, patch^2, h w)
        side = sample.shape[-2:]
        return UNet2DOutput(
            sample=self.smooth(functional.fold(pixels, side, config.patch, stride=config.patch))
        )


def _block(width: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


class PixelDiffusion(nn.Module):
    """A model that predicts noise, and its schedule; grey slices (B, 1, H, W) in [0, 1]."""

    def __init__(self, model: UNet2DModel | UViT, scheduler: DDIMScheduler, size: int) -> None:
        super().__init__()
        self.model, self.scheduler, self.size = model, scheduler, size

    @classmethod
    def new(cls, name: str, size: int) -> PixelDiffusion:
        """Random weights for slices of `size` pixels a side.

        RecipeError for an unknown name or a size that does not fit the model.
        """
        check_model(name, size)
        scheduler = DDIMScheduler(
            TIMESTEPS, beta_start=1e-4, beta_end=0.02, clip_sample=True, timestep_spacing="trailing"
        )
        return cls(_unet(name, size) if name in UNETS else _uvit(name, size), scheduler, size)

    @classmethod
    def load(cls, folder: Path) -> PixelDiffusion:
        """What save() wrote. WeightsError when a file or key is missing."""
        card = read_json(folder / "pixel.json")
        kinds: dict[str, Any] = {"UNet2DModel": UNet2DModel, "UViT": UViT}
        config = read_json(folder / "config.json")
        kind = kinds.get(config.get("_class_name", ""))
        if kind is None:
            raise WeightsError(f"{folder}: of class {config.get('_class_name')!r}, not {' or '.join(kinds)}")
        model = kind.from_config(config)
        load_weights(model, folder / DIFFUSERS_WEIGHTS)
        return cls(model, load_scheduler(folder), int(card["size"])).eval()

    def save(self, folder: Path) -> None:
        """Write a folder that the model's own from_pretrained opens; pixel.json last."""
        save_weights(self.model, folder / DIFFUSERS_WEIGHTS, dtype=None)
        self.model.save_config(folder)
        self.scheduler.save_config(folder)
        write_json(folder / "pixel.json", {"size": self.size})

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], *, steps: int) -> Tensor:
        """Grey slices (B, 1, H, W) in [0, 1], one per seed, each from its own seed alone: DDIM, eta 0."""
        device = next(self.model.parameters()).device
        shape = (1, self.size, self.size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            answer: Tensor = self.model(noisy, timestep.expand(len(noisy)).to(device)).sample
            return answer.float()

        x = denoised(self.scheduler, noise.to(device), predict, steps=steps, generators=generators)
        return ((x + 1) / 2).clamp(0, 1).cpu()


def _unet(name: str, size: int) -> UNet2DModel:
    channels, attention = UNETS[name]
    levels = len(channels)
    down, up = ["DownBlock2D"] * levels, ["UpBlock2D"] * levels
    if attention:
        down[-2], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    return UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        norm_num_groups=min(32, channels[0]),
    )


def _uvit(name: str, size: int) -> UViT:
    width, heads, blocks = UVITS[name]
    return UViT(size, patch_of(size), width, heads, blocks)
