"""Decoders in the layouts of the hub, made with the real classes at toy size and random weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    KandinskyV22Pipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    VQModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from toy_pairs import some_facts, write_toy_pairs
from toys import toy_clip, toy_prior
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from atlas.caption import caption
from brainclip.clip import Clip
from brainclip.config import AdapterRecipe, DecoderRecipe, PriorRecipe, Recipe, VaeRecipe
from brainclip.config_pairs import PairsRecipe

BASES = ("kandinsky", "stable-diffusion", "stable-diffusion-xl")
WEIGHTS = "diffusion_pytorch_model.safetensors"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
UNET = {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}


def toy_base(kind: str, folder: Path, *, unet: dict[str, Any] | None = None) -> Path:
    """The folder of one of BASES, whose autoencoder and UNet halve a slice once each."""
    torch.manual_seed(10 + BASES.index(kind))
    {"kandinsky": _kandinsky, "stable-diffusion": _small, "stable-diffusion-xl": _large}[kind](
        folder, unet or {}
    )
    return folder


@dataclass(frozen=True)
class Lab:
    """Toy bases by kind, and a recipe's folder with pairs, a CLIP and a prior."""

    bases: dict[str, Path]
    folder: Path
    clip: Clip


def toy_lab(root: Path) -> Lab:
    """All of it, written into `root`."""
    bases = {kind: toy_base(kind, root / kind) for kind in BASES}
    write_toy_pairs(root / "run" / "pairs" / "toy")
    toy_clip().save(root / "run" / "clip")
    clip = Clip.load(root / "run" / "clip")
    toy_prior(clip).save(root / "run" / "prior")
    return Lab(bases, root / "run", clip)


def recipe_of(lab: Lab, folder: Path, *, vae: VaeRecipe | None = None, **decoder: Any) -> Recipe:
    """A recipe of two steps with these keys of [decoder]; `folder` becomes a copy of the lab's if there is
    none."""
    if not folder.exists():
        shutil.copytree(lab.folder, folder)
    running = {"mix": {"toy": 1.0}, "steps": 2, "batch": 4, "warmup": 0, "device": "cpu", "ema": 0.0}
    vae = vae or VaeRecipe()
    return Recipe(
        name="lab",
        folder=str(folder),
        size=32,
        spacing_mm=6.0,
        pairs={"toy": PairsRecipe()},
        prior=PriorRecipe(restate=False, sampling_steps=2),
        vae=replace(vae, **running, crop=16),
        decoder=DecoderRecipe(**running | {"rate": 1e-3, "sampling_steps": 2} | decoder),
        adapter={"site": AdapterRecipe(**running, rate=0.05, rank=2, alpha=6, targets=("cross-attention",))},
    )


def _kandinsky(folder: Path, unet: dict[str, Any]) -> None:
    network = UNet2DConditionModel(
        **UNET
        | {
            "out_channels": 8,  # mean and variance
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "resnet_time_scale_shift": "scale_shift",
            "cross_attention_dim": 24,
            "attention_head_dim": 8,
            "encoder_hid_dim": 32,
            "encoder_hid_dim_type": "image_proj",
            "addition_embed_type": "image",
        }
        | unet
    )
    movq = VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 32),  # its spatial norms have 32 groups whatever is asked for
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=12,
        norm_num_groups=8,
        norm_type="spatial",
    )
    scheduler = DDPMScheduler(
        beta_schedule="linear", variance_type="learned_range", clip_sample=False, **BETAS
    )
    KandinskyV22Pipeline(unet=network, scheduler=scheduler, movq=movq).save_pretrained(folder)


def toy_autoencoder() -> AutoencoderKL:
    """An AutoencoderKL of three channels that halves a picture."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def _small(folder: Path, unet: dict[str, Any]) -> None:
    network = UNet2DConditionModel(
        **UNET
        | {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 24,
            "attention_head_dim": 4,
        }
        | unet
    )
    StableDiffusionPipeline(
        vae=toy_autoencoder(),
        text_encoder=CLIPTextModel(toy_text(24)),
        tokenizer=toy_tokenizer(),
        unet=network,
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _large(folder: Path, unet: dict[str, Any]) -> None:
    network = UNet2DConditionModel(
        **UNET
        | {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "cross_attention_dim": 24 + 16,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 12,
        }
        | unet
    )
    StableDiffusionXLPipeline(
        vae=toy_autoencoder(),
        text_encoder=CLIPTextModel(toy_text(24)),
        text_encoder_2=CLIPTextModelWithProjection(toy_text(16, projection_dim=12)),
        tokenizer=toy_tokenizer(),
        tokenizer_2=toy_tokenizer(),
        unet=network,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading", **BETAS
        ),
    ).save_pretrained(folder)


def toy_text(width: int, **more: int) -> CLIPTextConfig:
    vocabulary = toy_tokenizer().vocab
    return CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        **more,
    )


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Words and merges learned from captions, so that these fit into 77 tokens."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    facts = [row for age in range(20, 85, 5) for row in some_facts(age, age, "female")]
    texts = [caption(row, seed=k).text.lower() for k, row in enumerate(facts)]
    tokenizer.train_from_iterator([word for text in texts for word in text.split()], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    words = dict(model["vocab"])
    for letter in pre_tokenizers.ByteLevel.alphabet():
        words.setdefault(f"{letter}</w>", len(words))
    for word in ("<|startoftext|>", "<|endoftext|>"):
        words[word] = len(words)
    return words, [(first, second) for first, second in model["merges"]]


def toy_tokenizer() -> CLIPTokenizer:
    words, merges = _vocabulary()
    return CLIPTokenizer(vocab=dict(words), merges=list(merges), model_max_length=77)
