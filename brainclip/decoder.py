"""Decoder: whitened image embedding to picture, by a rectified flow in the autoencoder's latents.

The UNet takes the image embedding as Kandinsky 2.2's decoder does: projected to tokens for cross-attention,
and added to the time embedding. Beside the noisy latents it sees the expected latents, a small network's
least-squares guess from the
same embedding: registered brains have a strong mean, and the flow then spends its capacity on the individual.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn import functional

from brainclip.clip import Clip
from brainclip.config import AdapterRecipe, DecoderRecipe
from brainclip.errors import WeightsError
from brainclip.vae import PatchAutoencoder, ResidualBlock
from brainclip.weights import DIFFUSERS_WEIGHTS, hash_file, load_weights, read_json, save_weights, write_json


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


class Decoder(nn.Module):
    """Pictures for whitened image embeddings.

    contract: hash of the CLIP whose embeddings it was trained on. hash: of the UNet's weights, the base of
    its adapters.
    """

    def __init__(
        self,
        vae: PatchAutoencoder,
        unet: UNet2DConditionModel,
        expected: ExpectedLatents,
        scheduler: FlowMatchEulerDiscreteScheduler,
        contract: dict[str, Any],
    ) -> None:
        super().__init__()
        self.vae, self.unet, self.expected = vae, unet, expected
        self.scheduler = scheduler
        self.contract = contract
        self.adapters: dict[str, dict[str, Any]] = {}
        self.hash = ""

    @classmethod
    def new(cls, recipe: DecoderRecipe, clip: Clip, vae: PatchAutoencoder) -> Decoder:
        """A decoder with random weights over a trained autoencoder, for the embeddings of this CLIP."""
        channels, width = vae.config["latent_channels"], len(clip.embedding_mean)
        size = vae.config["sample_size"] // vae.config["patch"]
        levels = len(recipe.channels)
        unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=2 * channels,
            out_channels=channels,
            block_out_channels=recipe.channels,
            layers_per_block=recipe.layers,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            cross_attention_dim=width,
            encoder_hid_dim=width,
            encoder_hid_dim_type="image_proj",
            addition_embed_type="image",
            attention_head_dim=tuple(max(1, c // recipe.head_width) for c in recipe.channels),
            norm_num_groups=recipe.groups,
        )
        expected = ExpectedLatents(
            embedding=width, latent_channels=channels, size=size, width=recipe.expected_width
        )
        return cls(vae, unet, expected, FlowMatchEulerDiscreteScheduler(), {"clip": clip.hash})

    @classmethod
    def load(cls, folder: Path, clip: Clip, *, retrain: bool = False) -> Decoder:
        """The decoder saved in `folder`, its adapters found but not active.

        WeightsError for one trained with another CLIP, or missing keys.
        retrain: take it whatever CLIP it was trained with, without adapters, to train it further.
        """
        contract = read_json(folder / "contract.json")
        if contract["clip"] != clip.hash and not retrain:
            raise WeightsError(
                f"{folder}: this decoder was trained with CLIP {contract['clip']}, not with CLIP {clip.hash}"
            )
        parts: dict[str, Any] = {}
        for name, kind in (
            ("vae", PatchAutoencoder),
            ("unet", UNet2DConditionModel),
            ("expected", ExpectedLatents),
        ):
            parts[name] = kind.from_config(read_json(folder / name / "config.json"))
            load_weights(parts[name], folder / name / DIFFUSERS_WEIGHTS)
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(
            read_json(folder / "scheduler" / "scheduler_config.json")
        )
        if retrain:
            return cls(**parts, scheduler=scheduler, contract={"clip": clip.hash}).eval()
        decoder = cls(**parts, scheduler=scheduler, contract=contract)
        decoder.hash = hash_file(folder / "unet" / DIFFUSERS_WEIGHTS)
        for path in sorted(folder.glob("adapters/*/adapter.json")):
            decoder.adapters[path.parent.name] = read_json(path) | {"folder": path.parent, "loaded": False}
        return decoder.eval()

    def save(self, folder: Path, *, dtype: torch.dtype | None = torch.float16) -> None:
        """Write the base decoder: each part loads with its own from_pretrained; contract.json last."""
        for name, part in (("vae", self.vae), ("unet", self.unet), ("expected", self.expected)):
            save_weights(part, folder / name / DIFFUSERS_WEIGHTS, dtype=dtype)
            part.save_config(folder / name)
        self.scheduler.save_config(folder / "scheduler")
        write_json(folder / "contract.json", self.contract)

    def add_adapter(self, name: str, recipe: AdapterRecipe) -> None:
        """Attach fresh LoRA layers (peft) to the UNet's attention and, if asked, to the expected latents."""
        from peft import LoraConfig

        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.unet.add_adapter(
            LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.targets)),
            adapter_name=name,
        )
        if recipe.expected:
            layers = [
                key for key, part in self.expected.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))
            ]
            self.expected.add_adapter(
                LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=layers), adapter_name=name
            )

    def save_adapter(self, name: str, folder: Path, facts: dict[str, Any]) -> None:
        """Write the LoRA weights in diffusers' form (load_lora_adapter reads them); adapter.json last."""
        for part_name, part in (("unet", self.unet), ("expected", self.expected)):
            if name in getattr(part, "peft_config", {}):
                part.save_lora_adapter(str(folder / part_name), adapter_name=name, safe_serialization=True)
        write_json(folder / "adapter.json", facts)

    def use_adapter(self, name: str | None) -> None:
        """Make one adapter active, or none. WeightsError for an unknown name or one made for another base."""
        if name is not None and name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise WeightsError(f"no adapter {name!r} in this model; it has: {known}")
        if name is not None and self.adapters[name]["base"] != self.hash:
            base = self.adapters[name]["base"]
            raise WeightsError(
                f"adapter {name!r} was trained on the decoder {base}, this model's decoder is {self.hash}"
            )
        for part_name, part in (("unet", self.unet), ("expected", self.expected)):
            if name is not None and not self.adapters[name]["loaded"]:
                _load_adapter(part, name, self.adapters[name]["folder"] / part_name)
            attached = getattr(part, "peft_config", {})
            if name is not None and name in attached:
                part.set_adapter(name)
                part.enable_adapters()
            elif attached:
                part.disable_adapters()
        if name is not None:
            self.adapters[name]["loaded"] = True

    def latents(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of grey images (B, 1, H, W) in [0, 1]."""
        return self.vae.encode(images * 2 - 1).latent_dist.mode()

    def velocity(self, x: Tensor, sigma: Tensor, whitened: Tensor, expected: Tensor) -> Tensor:
        """Predicted noise - latents at x = (1 - sigma) latents + sigma noise; sigma (B,) in [0, 1]."""
        conditions = {"image_embeds": whitened}
        return self.unet(torch.cat([x, expected], 1), sigma * 1000, None, added_cond_kwargs=conditions).sample

    @torch.no_grad()
    def sample(self, whitened: Tensor, seeds: Sequence[int], *, steps: int, guidance: float) -> Tensor:
        """Grey images (B, 1, H, W) in [0, 1], one per whitened embedding (B, D) and seed; Euler steps of
        the flow.

        Picture k depends on its own embedding and seed alone. guidance: 1 follows the embedding as trained.
        """
        shape = (
            self.vae.config["latent_channels"],
            *[self.vae.config["sample_size"] // self.vae.config["patch"]] * 2,
        )
        x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        conditions = whitened if guidance == 1 else torch.cat([whitened, torch.zeros_like(whitened)])
        expected = self.expected(conditions).float()
        self.scheduler.set_timesteps(steps)
        for timestep in self.scheduler.timesteps:
            doubled = x if guidance == 1 else torch.cat([x, x])
            velocity = self.velocity(
                doubled, (timestep / 1000).expand(len(doubled)), conditions, expected
            ).float()
            if guidance != 1:
                asked, free = velocity.chunk(2)
                velocity = free + guidance * (asked - free)
            x = self.scheduler.step(velocity, timestep, x).prev_sample
        return self.pictures(x)

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """Grey images (B, 1, H, W) in [0, 1] of latents."""
        return ((self.vae.decode(latents).sample.float() + 1) / 2).clamp(0, 1)


def _load_adapter(part: Any, name: str, folder: Path) -> None:
    """Load one part's LoRA; a part without a folder has none."""
    path = folder / "pytorch_lora_weights.safetensors"
    if not folder.is_dir():
        return
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file; the adapter folder is not complete")
    try:
        part.load_lora_adapter(str(folder), adapter_name=name, prefix=None, use_safetensors=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{folder}: this LoRA does not fit the base model ({str(error).splitlines()[0]})"
        ) from None
