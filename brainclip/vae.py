"""PatchAutoencoder: a closed-form encoder (principal components of patches) and a learned residual decoder.

Same calls as diffusers' AutoencoderKL: encode(x).latent_dist.mode(), decode(z).sample, save_pretrained,
from_pretrained. The encoder needs no training, so the latents exist at once; the decoder is trained on
latents with noise added, so that it forgives a diffusion model's small errors.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two normalised 3 x 3 convolutions with a skip; the last starts at 0, so a new block changes nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        last = self.layers[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Grey images (B, 1, H, W) in [-1, 1] to latents (B, C, H / patch, W / patch) and back."""

    basis: Tensor
    patch_mean: Tensor
    latent_mean: Tensor
    latent_scale: Tensor

    @register_to_config
    def __init__(
        self,
        patch: int = 8,
        latent_channels: int = 16,
        widths: tuple[int, ...] = (128, 96, 48),
        blocks: int = 2,
        sample_size: int = 128,
    ) -> None:
        super().__init__()
        self.register_buffer("basis", torch.zeros(latent_channels, patch * patch))
        self.register_buffer("patch_mean", torch.zeros(patch * patch))
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_scale", torch.ones(latent_channels))
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            layers += [ResidualBlock(width) for _ in range(blocks)]
            following = widths[level + 1] if level + 1 < len(widths) else 0
            factor = 2 if following else patch // 2 ** (len(widths) - 1)
            outputs = following if following else 1
            layers += [nn.Conv2d(width, outputs * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        self.residual = nn.Sequential(*layers)

    @torch.no_grad()
    def fit(self, images: Tensor, *, whiten: float) -> None:
        """Set the encoder from images (N, 1, H, W) in [-1, 1]: principal components of their patches.

        whiten: exponent of each component's standard deviation that is divided out; 0 keeps the spectrum, 1
        flattens it. After it the latents have mean 0 and overall standard deviation 1 on these images.
        """
        patch = self.config["patch"]
        patches = functional.pixel_unshuffle(images, patch).movedim(1, -1).reshape(-1, patch * patch).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        order = values.argsort(descending=True)[: self.config["latent_channels"]]
        self.basis.copy_(vectors[:, order].T)
        self.patch_mean.copy_(mean)
        std = values[order].clamp(min=1e-12).sqrt()
        scale = std**whiten
        scale = scale * ((std / scale) ** 2).mean().sqrt()
        self.latent_mean.zero_()
        self.latent_scale.copy_(scale)

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """latent_dist of images (B, 1, H, W) in [-1, 1]; deterministic, so mode() and sample() agree."""
        patches = functional.pixel_unshuffle(x, self.config["patch"])  # (B, patch^2, H / patch, W / patch)
        components = torch.einsum("cp,bphw->bchw", self.basis, patches - self.patch_mean[None, :, None, None])
        mean = (components - self.latent_mean[:, None, None]) / self.latent_scale[:, None, None]
        parameters = torch.cat([mean, torch.full_like(mean, -30.0)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(parameters, deterministic=True))

    def linear_decode(self, z: Tensor) -> Tensor:
        """The closed-form part of the decoder: images (B, 1, H, W) that the components alone span."""
        components = z * self.latent_scale[:, None, None] + self.latent_mean[:, None, None]
        patches = torch.einsum("cp,bchw->bphw", self.basis, components) + self.patch_mean[None, :, None, None]
        return functional.pixel_shuffle(patches, self.config["patch"])

    def decode(self, z: Tensor) -> DecoderOutput:
        """sample: images (B, 1, H, W), about [-1, 1], of latents (B, C, H / patch, W / patch)."""
        return DecoderOutput(sample=self.linear_decode(z) + self.residual(z).float())

    def forward(self, x: Tensor) -> DecoderOutput:
        """The reconstruction of images (B, 1, H, W)."""
        return self.decode(self.encode(x).latent_dist.mode())
