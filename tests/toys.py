"""Real classes at toy size, with random weights and planted statistics."""

from __future__ import annotations

import torch

from brainclip.clip import Clip, new_clip, train_tokenizer
from brainclip.config import ClipRecipe, DecoderRecipe, PriorRecipe
from brainclip.decoder import Decoder
from brainclip.prior import Prior
from brainclip.vae import PatchAutoencoder

SIZE = 32
TEXTS = [
    "axial T1 slice",
    "coronal T2 slice at the level of the thalamus, 70-year-old man",
    "sagittal PD image, x = -12 mm",
]
CLIP = ClipRecipe(embedding=32, vision_width=32, text_width=32, vision_layers=1, text_layers=1, head_width=16)
PRIOR = PriorRecipe(layers=1, heads=2, head_width=16)
DECODER = DecoderRecipe(channels=(16, 32), groups=8, expected_width=16, head_width=16)


def toy_clip(seed: int = 0) -> Clip:
    torch.manual_seed(seed)
    clip = new_clip(CLIP, SIZE, train_tokenizer(TEXTS * 20, 400)).eval()
    clip.embedding_mean.normal_(std=0.1)
    clip.embedding_std.fill_(0.1)
    return clip


def toy_vae() -> PatchAutoencoder:
    torch.manual_seed(1)
    vae = PatchAutoencoder(8, 8, (32, 24, 16), 1, SIZE).eval()
    vae.fit(smooth_images(60) * 2 - 1, whiten=0.5)
    return vae


def toy_decoder(clip: Clip) -> Decoder:
    torch.manual_seed(2)
    return Decoder.new(DECODER, clip, toy_vae()).eval()


def toy_prior(clip: Clip) -> Prior:
    torch.manual_seed(3)
    return Prior.new(PRIOR, clip).eval()


def smooth_images(n: int) -> torch.Tensor:
    """(n, 1, 32, 32) blobs in [0, 1]."""
    coarse = torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(n))
    return torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
