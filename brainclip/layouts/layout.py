"""Layout: what the kinds of decoders have in common, from slices to latents and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainclip.errors import RecipeError
from brainclip.layouts.parts import write_part
from brainclip.vae import PatchAutoencoder
from brainclip.weights import load_weights, save_weights

SCALE = "latents.safetensors"


class LatentScale(nn.Module):
    """Standardised latents of a pretrained autoencoder: (z - mean) / std, per channel; mean, std: (C,).

    Which numbers: a UNet that keeps its pretrained weights (train = "projection", and LoRA over it) knows
    latents times the base's scaling_factor, so these stay, whatever the latents of grey slices look like:
    mean 0 (or the base's shift_factor), std 1 / scaling_factor. A UNet of which all weights are trained
    (train = "full", or mini's) gets those measured on the training slices: each channel then has the
    signal-to-noise ratios that the schedule says, whereas grey slices, of less variance than photographs,
    would be in noise too early. A base that goes on from an earlier run (start) keeps those of that run.
    PatchAutoencoder standardises its latents itself and has none.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def forward(self, latents: Tensor) -> Tensor:
        return (latents - self.mean[:, None, None]) / self.std[:, None, None]

    def undo(self, standardised: Tensor) -> Tensor:
        """Latents as the autoencoder knows them."""
        return standardised * self.std[:, None, None] + self.mean[:, None, None]

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Set mean and standard deviation per channel from latents (B, C, h, w)."""
        latents = torch.cat([batch.transpose(0, 1).flatten(1).double() for batch in batches], 1)
        self.mean.copy_(latents.mean(1))
        self.std.copy_(latents.std(1))


class Layout:
    """One kind of decoder: its parts, and how its network is fed.

    parts: modules by the name of their folder, in the order of their parameters; "unet" is one of them. size:
    pixels along a side of a slice; decoded: of the pictures that the autoencoder sees, to which slices are
    resized.
    """

    title: str  # what it is called in messages
    lora: tuple[str, ...] = ("unet",)  # parts that take LoRA
    text: tuple[str, ...] = ()  # text encoders that read the captions
    trained: tuple[str, ...] = ("unet", "projection")  # parts that full training changes
    autoencoder = "vae"

    def __init__(self, parts: dict[str, Any], *, size: int, decoded: int) -> None:
        self.parts = parts
        self.size, self.decoded = size, decoded or size
        unet, vae = self.parts["unet"], self.parts[self.autoencoder]
        wanted = factor(vae) * 2**unet.num_upsamplers
        if self.decoded % wanted:
            raise RecipeError(
                f"slices of {self.decoded} pixels: this decoder takes multiples of {wanted} (its autoencoder "
                f"makes {factor(vae)} times smaller, its UNet {2**unet.num_upsamplers} times); give "
                f"decoder.size, for example {-(-self.decoded // wanted) * wanted}"
            )
        self.shape = (vae.config["latent_channels"], *[self.decoded // factor(vae)] * 2)

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return next(self.parts["unet"].parameters()).device

    def networks(self) -> dict[str, nn.Module]:
        """The parts that take LoRA by name; of a text encoder with a projection what lies before it, so that
        the layers of all text encoders are called alike."""
        return {name: getattr(self.parts[name], "text_model", self.parts[name]) for name in self.lora}

    def text_layers(self, name: str) -> list[str]:
        """The layers of a text encoder that take LoRA: its attention's."""
        raise NotImplementedError

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        """The embedding (1, W) of a word by text encoder. RecipeError for one that is not a single token."""
        raise NotImplementedError

    def token_vectors(self, token: str) -> dict[str, Tensor]:
        """The embeddings (n, W) of a new word by text encoder."""
        raise NotImplementedError

    def add_token(self, token: str, vectors: dict[str, Tensor]) -> None:
        """Let captions hold a new word, with embeddings (n, W) by text encoder."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The autoencoder's own latents (B, C, h, w) of grey slices (B, 1, H, W) in [0, 1], computed where
        the parts are."""
        vae = self.parts[self.autoencoder]
        images = resized(images.to(self.device), self.decoded) * 2 - 1
        encoded = vae.encode(images.expand(-1, vae.config.get("in_channels", 1), -1, -1))
        latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents

    def standardised(self, latents: Tensor) -> Tensor:
        """The latents that the network knows, of the autoencoder's own."""
        return self.parts["scale"](latents) if "scale" in self.parts else latents

    def latents(self, images: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) of grey slices (B, 1, H, W) in [0, 1]."""
        return self.standardised(self.encode(images))

    def pictures(self, latents: Tensor) -> Tensor:
        """Grey slices (B, 1, H, W) in [0, 1] of standardised latents; the mean of three channels."""
        if "scale" in self.parts:
            latents = self.parts["scale"].undo(latents)
        images = self.decode(latents).float()
        if images.shape[1] > 1:
            images = images.mean(1, keepdim=True)
        return resized((images + 1) / 2, self.size).clamp(0, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, channels, H, W), about [-1, 1], of the autoencoder's own latents."""
        return self.parts[self.autoencoder].decode(latents).sample

    def tokens(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """What the layout's text encoders are given for captions, row by row; nothing where it has none."""
        return {}

    def conditions(self, whitened: Tensor, **tokens: Tensor) -> dict[str, Tensor]:
        """What `predict` needs, row by row, for whitened embeddings (B, D); zeros: without a condition."""
        raise NotImplementedError

    def predict(self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        """The network's answer (B, C, h, w) to noisy latents at times (B,) from 0, clean, to 1000."""
        raise NotImplementedError

    def further_losses(self, conditions: dict[str, Tensor], latents: Tensor) -> dict[str, Tensor]:
        """Errors that are trained beside the network's own, by name."""
        return {}

    def contract(self) -> dict[str, Any]:
        """What load() has to know beside the parts."""
        return {}

    def save(self, folder: Path, scheduler: Any, *, dtype: torch.dtype | None) -> None:
        """Write every part and the scheduler so that its own from_pretrained reads it."""
        scheduler.save_config(folder / "scheduler")
        for name, part in self.parts.items():
            if name == "scale":
                save_weights(part, folder / SCALE, dtype=None)  # what the data decided is not rounded
            else:
                write_part(part, folder / name, None if name == "projection" else dtype)


def factor(vae: Any) -> int:
    """How many times smaller than pictures an autoencoder's latents are along a side."""
    if isinstance(vae, PatchAutoencoder):
        return int(vae.config["patch"])
    return int(2 ** (len(vae.config["block_out_channels"]) - 1))


def resized(images: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) of `size` x `size` pixels."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def scale_of(vae: Any) -> LatentScale:
    """The LatentScale that a pretrained autoencoder's config states."""
    scale = LatentScale(vae.config["latent_channels"])
    scale.mean.fill_(vae.config.get("shift_factor") or 0.0)
    scale.std.fill_(1 / vae.config["scaling_factor"])
    return scale


def read_scale(folder: Path, channels: int) -> LatentScale:
    """The LatentScale that a decoder was saved with."""
    scale = LatentScale(channels)
    load_weights(scale, folder / SCALE)
    return scale
