"""Prior: diffusers' PriorTransformer from caption to image embedding, predicting the clean whitened one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.prior_transformer import PriorTransformer
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional

from brainclip.clip import Clip
from brainclip.config import PriorRecipe
from brainclip.errors import WeightsError
from brainclip.prior_base import (
    base_folder,
    check_widths,
    new_scheduler,
    read_scheduler,
    read_transformer,
    text_length,
)
from brainclip.weights import DIFFUSERS_WEIGHTS, read_json, save_weights, write_json

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


class Prior(nn.Module):
    """Image embeddings sampled for captions.

    It works in its own whitened space, (embedding - clip_mean) / clip_std, both kept in the transformer (and
    0 in a fresh PriorTransformer, which would decode everything to 0). They are those of the CLIP, but for a
    prior that began as a pretrained one: that keeps the statistics it was trained with.

    contract: clip, the hash of the CLIP. Of a pretrained one also base, its name; image_length and
    text_length, the lengths of the embeddings it was trained on, where the CLIP's are 1.
    """

    def __init__(
        self, transformer: PriorTransformer, scheduler: DDIMScheduler, contract: dict[str, Any]
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.transformer.clip_mean.requires_grad_(False)
        self.transformer.clip_std.requires_grad_(False)
        self.scheduler = scheduler
        self.contract = contract
        self.has_lora = False

    @classmethod
    def new(cls, recipe: PriorRecipe, clip: Clip) -> Prior:
        """A prior with random weights for this CLIP, with its whitening statistics."""
        transformer = PriorTransformer(
            num_attention_heads=recipe.heads,
            attention_head_dim=recipe.head_width,
            num_layers=recipe.layers,
            **_widths(clip, fill=True),
        )
        _take_statistics(transformer, clip)
        return cls(transformer, new_scheduler(recipe.timesteps), {"clip": clip.hash})

    @classmethod
    @torch.no_grad()
    def pretrained(cls, base: str, clip: Clip, texts: Sequence[str]) -> Prior:
        """The prior of a folder or hub id in Kandinsky 2.2's layout, for this CLIP.

        texts: captions, by which the length of its text embeddings is measured. WeightsError for a folder
        that is not complete or made for a CLIP of other widths.
        """
        folder = base_folder(base)
        transformer = read_transformer(folder / "prior")
        check_widths(folder / "prior", transformer, _widths(clip, fill=False))
        squares = transformer.clip_mean.square() + transformer.clip_std.square()  # their sum: E |e|^2
        contract = {
            "clip": clip.hash,
            "base": base,
            "image_length": float(squares.sum().sqrt()),
            "text_length": text_length(folder, texts),
        }
        scheduler = read_scheduler(folder / "scheduler" / "scheduler_config.json")
        return cls(transformer, scheduler, contract).eval()

    @classmethod
    def load(cls, folder: Path, clip: Clip, *, retrain: bool = False) -> Prior:
        """The prior saved in `folder`. WeightsError for one trained with another CLIP, or missing keys.

        retrain: take it whatever CLIP of its widths it was trained with, to train it further.
        """
        contract = read_json(folder / "contract.json")
        for key in ("clip", "image_length", "text_length") if "base" in contract else ("clip",):
            if key not in contract:
                raise WeightsError(
                    f"{folder / 'contract.json'}: key {key!r} is missing; copy or train the prior again"
                )
        if contract["clip"] != clip.hash and not retrain:
            raise WeightsError(
                f"{folder}: this prior was trained with CLIP {contract['clip']}, not with CLIP {clip.hash}"
            )
        transformer = read_transformer(folder)
        check_widths(folder, transformer, _widths(clip, fill="base" not in contract))
        if "base" not in contract:
            _take_statistics(transformer, clip)  # the file has them in half precision
        scheduler = DDIMScheduler.from_config(read_json(folder / "scheduler_config.json"))
        return cls(transformer, scheduler, contract | {"clip": clip.hash}).eval()

    def add_lora(self, rank: int, alpha: int, base: str) -> None:
        """Attach fresh LoRA layers (peft) to the attention; nothing else is trained from then on.

        base: the name of what they are added to, kept with them.
        """
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS))
        self.transformer = get_peft_model(self.transformer, lora)
        self.transformer.peft_config["default"].base_model_name_or_path = base
        self.has_lora = True

    def save(self, folder: Path, *, dtype: torch.dtype | None = torch.float16) -> None:
        """Write the folder that load() and PriorTransformer.from_pretrained read; contract.json last.

        LoRA layers are merged into these weights, and stand alone in adapter/, which peft reads.
        """
        transformer = self.transformer
        if self.has_lora:
            transformer.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
            transformer = copy.deepcopy(transformer).merge_and_unload()
        save_weights(transformer, folder / DIFFUSERS_WEIGHTS, dtype=dtype)
        transformer.save_config(folder)
        self.scheduler.save_config(folder)
        write_json(folder / "contract.json", self.contract)

    def from_clip(self, clip: Clip, whitened: Tensor) -> Tensor:
        """(B, D) as this prior whitens them, of embeddings as the CLIP does: the same bits where both have
        one mean and standard deviation."""
        length, mean, std = self._image_length, self.transformer.clip_mean, self.transformer.clip_std
        return whitened * (length * clip.embedding_std / std) + (length * clip.embedding_mean - mean) / std

    def unwhiten(self, x: Tensor) -> Tensor:
        """The unit-length embeddings (B, D) of this prior's whitened ones."""
        return functional.normalize(x * self.transformer.clip_std + self.transformer.clip_mean, dim=-1)

    @property
    def unit_std(self) -> Tensor:
        """(D,) what a unit of each whitened number is in the unit-length embedding."""
        return self.transformer.clip_std[0] / self._image_length

    @property
    def _image_length(self) -> float:
        return float(self.contract.get("image_length", 1.0))

    def forward(self, x: Tensor, timestep: Tensor, embedding: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Predicted clean whitened embedding (B, D), from the noisy one x and a caption's embedding and
        states as the CLIP gives them. mask: (B, 77) bool, True on a caption's tokens."""
        width = self.transformer.config["embedding_dim"]  # the narrower of x and states is filled up with 0
        x, states = (functional.pad(part, (0, width - part.shape[-1])) for part in (x, states))
        embedding = embedding * self.contract.get("text_length", 1.0)
        return self.transformer(x, timestep, embedding, states, mask).predicted_image_embedding

    @torch.no_grad()
    def sample(
        self,
        clip: Clip,
        texts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        age_guidance: float | None = None,
        candidates: int = 1,
    ) -> Tensor:
        """Image embeddings (B, D) of unit length, one per text and seed; row k depends on its own alone.

        guidance: 1 follows the caption as trained; more moves away from the empty caption. age_guidance: as
        much along the direction in which the CLIP shows the age; None: as in all others. candidates: of so
        many samples of a seed the one with the largest cosine to the text embedding is taken.
        """
        along = guidance if age_guidance is None else age_guidance
        tokens = clip.tokenize([*texts, *([""] * len(texts) if (guidance, along) != (1, 1) else [])])
        embedding, states = clip.encode_text(tokens)
        mask = tokens != 0
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = []
        for _ in range(candidates):
            noise = torch.stack([torch.randn(embedding.shape[1], generator=one) for one in generators])
            found = self._denoised(
                noise, embedding, states, mask, steps=steps, guidance=guidance, along=(clip.age_axis, along)
            )
            drawn.append(self.unwhiten(found))
        return nearest_to(embedding[: len(texts)], torch.stack(drawn))

    def _denoised(
        self,
        x: Tensor,
        embedding: Tensor,
        states: Tensor,
        mask: Tensor,
        *,
        steps: int,
        guidance: float,
        along: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        """Whitened embeddings (B, D) from noise x, by DDIM with eta 0. embedding, states and mask have B
        rows, or with guidance 2 B: those of the texts, then of the empty caption. along: a direction (D,) of
        the unit-length embeddings, and the guidance along it."""
        std = self.transformer.clip_std[0]
        self.scheduler.set_timesteps(steps)
        for timestep in self.scheduler.timesteps:
            times, guided = timestep.expand(len(embedding)), len(embedding) > len(x)
            predicted = self(torch.cat([x, x]) if guided else x, times, embedding, states, mask)
            if guided:
                asked, empty = predicted.chunk(2)
                predicted = empty + guidance * (asked - empty)
                if along is not None:
                    axis, own = along
                    shown = (asked - empty) @ (std * axis)  # (B,), in unit-length embeddings
                    predicted = predicted + (own - guidance) * torch.outer(shown, axis / std)
            x = self.scheduler.step(predicted, timestep, x, use_clipped_model_output=True).prev_sample
        return x


def nearest_to(text: Tensor, samples: Tensor) -> Tensor:
    """(B, D) of samples (S, B, D) of unit length the one with the largest cosine to each text (B, D)."""
    return samples[(samples * text).sum(2).argmax(0), torch.arange(len(text))]


def _widths(clip: Clip, *, fill: bool) -> dict[str, int]:
    """The sizes of a PriorTransformer for this CLIP, by their names in its config.

    It takes the noisy embedding and the states in one width. fill: in the larger one, the other filled up
    with 0, which a pretrained prior has not learned to take.
    """
    embedding, states = clip.embedding_width, clip.states_width
    return {
        "embedding_dim": max(embedding, states) if fill else states,
        "embedding_proj_dim": embedding,
        "clip_embed_dim": embedding,
        "num_embeddings": clip.context,
    }


def _take_statistics(transformer: PriorTransformer, clip: Clip) -> None:
    transformer.clip_mean.data.copy_(clip.embedding_mean[None])
    transformer.clip_std.data.copy_(clip.embedding_std[None])
