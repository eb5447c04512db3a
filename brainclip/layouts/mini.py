"""Mini: the decoder of the bundled model, from scratch.

Its UNet takes the image embedding as Kandinsky 2.2's decoder does: projected to tokens for cross-attention,
and added to the time embedding. Beside the noisy latents it sees the expected latents, a small network's
least-squares guess from the same embedding: registered brains have a strong mean, and the network then spends
its capacity on the individual.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from brainclip.config import DecoderRecipe
from brainclip.layouts.layout import SCALE, Layout, factor, read_scale, scale_of
from brainclip.layouts.parts import load_autoencoder
from brainclip.vae import PatchAutoencoder, ResidualBlock
from brainclip.weights import DIFFUSERS_WEIGHTS, load_weights, read_json


class ExpectedLatents(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The mean latents (B, C, size, size) given a whitened image embedding (B, D), by least squares."""

    @register_to_config
    def __init__(
        self, embedding: int = 192, latent_channels: int = 16, size: int = 16, width: int = 128
    ) -> None:
        super().__init__()
        self.start = size // 4
        self.linear_in = nn.Linear(embedding, 2 * width * self.start**2)
        self.coarse = nn.Sequential(
            ResidualBlock(2 * width), ResidualBlock(2 * width), nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        )
        self.middle = nn.Sequential(
            ResidualBlock(width), ResidualBlock(width), nn.Conv2d(width, 4 * width, 3, padding=1)
        )
        self.fine = nn.Sequential(
            ResidualBlock(width), nn.SiLU(), nn.Conv2d(width, latent_channels, 3, padding=1)
        )

    def forward(self, embedding: Tensor) -> Tensor:
        x = self.linear_in(embedding).unflatten(1, (-1, self.start, self.start))
        x = functional.pixel_shuffle(self.coarse(x), 2)
        x = functional.pixel_shuffle(self.middle(x), 2)
        return self.fine(x)


class Mini(Layout):
    """A UNet and a network of expected latents, over PatchAutoencoder or an AutoencoderKL."""

    title = "mini"
    lora = ("unet", "expected")
    trained = ("unet", "expected")

    @classmethod
    def new(cls, recipe: DecoderRecipe, embedding: int, vae: Any, *, size: int = 0) -> Mini:
        """With random weights over a trained autoencoder, for embeddings of this width."""
        size = size or vae.config["sample_size"]
        channels, side, levels = vae.config["latent_channels"], size // factor(vae), len(recipe.channels)
        unet = UNet2DConditionModel(
            sample_size=side,
            in_channels=2 * channels,
            out_channels=channels,
            block_out_channels=recipe.channels,
            layers_per_block=recipe.layers,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            cross_attention_dim=embedding,
            encoder_hid_dim=embedding,
            encoder_hid_dim_type="image_proj",
            addition_embed_type="image",
            attention_head_dim=tuple(max(1, c // recipe.head_width) for c in recipe.channels),
            norm_num_groups=recipe.groups,
        )
        expected = ExpectedLatents(
            embedding=embedding, latent_channels=channels, size=side, width=recipe.expected_width
        )
        parts = {"vae": vae, "unet": unet, "expected": expected}
        if not isinstance(vae, PatchAutoencoder):
            parts["scale"] = scale_of(vae)
        return cls(parts, size=size, decoded=size)

    @classmethod
    def load(cls, folder: Path, contract: dict[str, Any]) -> Mini:
        """As it was saved, strictly."""
        parts: dict[str, Any] = {"vae": load_autoencoder(folder / "vae")}
        for name, kind in (("unet", UNet2DConditionModel), ("expected", ExpectedLatents)):
            parts[name] = kind.from_config(read_json(folder / name / "config.json"))
            load_weights(parts[name], folder / name / DIFFUSERS_WEIGHTS)
        if not isinstance(parts["vae"], PatchAutoencoder):
            parts["scale"] = read_scale(folder, parts["vae"].config["latent_channels"])
        size = contract.get("size") or parts["vae"].config["sample_size"]
        return cls(parts, size=size, decoded=size)

    def contract(self) -> dict[str, Any]:
        return {} if isinstance(self.parts["vae"], PatchAutoencoder) else {"size": self.size}

    @staticmethod
    def files(folder: Path) -> tuple[str, ...]:
        """What one saved in `folder` consists of."""
        return ("vae", "unet", "expected", *([SCALE] if (folder / SCALE).is_file() else []))

    def conditions(self, whitened: Tensor, **tokens: Tensor) -> dict[str, Tensor]:
        whitened = whitened.to(self.device)
        return {"whitened": whitened, "expected": self.parts["expected"](whitened).float()}

    def predict(self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        """The expected latents are shown without a gradient: they have their own error."""
        shown = torch.cat([noisy, conditions["expected"].detach()], 1)
        embeds = {"image_embeds": conditions["whitened"]}
        return self.parts["unet"](shown, time, None, added_cond_kwargs=embeds).sample

    def further_losses(self, conditions: dict[str, Tensor], latents: Tensor) -> dict[str, Tensor]:
        return {"expected": functional.mse_loss(conditions["expected"], latents)}
