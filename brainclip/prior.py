"""Prior: diffusers' PriorTransformer from caption to whitened image embedding, predicting the clean one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.transformers.prior_transformer import PriorTransformer
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from brainclip.clip import Clip
from brainclip.config import PriorRecipe
from brainclip.errors import WeightsError
from brainclip.weights import DIFFUSERS_WEIGHTS, load_weights, read_json, save_weights, write_json


class Prior(nn.Module):
    """Image embeddings sampled for captions.

    The transformer's clip_mean and clip_std hold the whitening statistics of the CLIP it was trained with
    (both are 0 in a fresh PriorTransformer, which would decode everything to 0). contract: the hash of that
    CLIP.
    """

    def __init__(
        self, transformer: PriorTransformer, scheduler: DDIMScheduler, contract: dict[str, str]
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.transformer.clip_mean.requires_grad_(False)
        self.transformer.clip_std.requires_grad_(False)
        self.scheduler = scheduler
        self.contract = contract

    @classmethod
    def new(cls, recipe: PriorRecipe, clip: Clip) -> Prior:
        """A prior with random weights for this CLIP, with its whitening statistics.

        WeightsError where states and embeddings differ in width, which a PriorTransformer cannot take.
        """
        if clip.states_width != clip.embedding_width:
            raise WeightsError(
                f"this CLIP has text states of {clip.states_width} numbers and embeddings of "
                f"{clip.embedding_width}; a prior needs a CLIP in which both are the same"
            )
        transformer = PriorTransformer(
            num_attention_heads=recipe.heads,
            attention_head_dim=recipe.head_width,
            num_layers=recipe.layers,
            embedding_dim=clip.states_width,
            embedding_proj_dim=clip.embedding_width,
            clip_embed_dim=clip.embedding_width,
            num_embeddings=clip.context,
        )
        transformer.clip_mean.data.copy_(clip.embedding_mean[None])
        transformer.clip_std.data.copy_(clip.embedding_std[None])
        scheduler = DDIMScheduler(
            num_train_timesteps=recipe.timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=False,  # standardised embeddings exceed +-1
            timestep_spacing="trailing",
        )
        return cls(transformer, scheduler, {"clip": clip.hash})

    @classmethod
    def load(cls, folder: Path, clip: Clip, *, retrain: bool = False) -> Prior:
        """The prior saved in `folder`. WeightsError for one trained with another CLIP, or missing keys.

        retrain: take it whatever CLIP it was trained with, and this CLIP's whitening, to train it further.
        """
        contract = read_json(folder / "contract.json")
        if contract["clip"] != clip.hash and not retrain:
            raise WeightsError(
                f"{folder}: this prior was trained with CLIP {contract['clip']}, not with CLIP {clip.hash}"
            )
        transformer = PriorTransformer.from_config(read_json(folder / "config.json"))
        load_weights(transformer, folder / DIFFUSERS_WEIGHTS)
        if not bool((transformer.clip_std > 0).all()):
            raise WeightsError(f"{folder}: clip_std is 0; the prior would decode everything to 0")
        scheduler = DDIMScheduler.from_config(read_json(folder / "scheduler_config.json"))
        if retrain:
            if transformer.clip_std.shape[1] != len(clip.embedding_std):
                raise WeightsError(
                    f"{folder}: a prior of {transformer.clip_std.shape[1]}-d embeddings cannot go on with a "
                    f"CLIP of {len(clip.embedding_std)}"
                )
            transformer.clip_mean.data.copy_(clip.embedding_mean[None])
            transformer.clip_std.data.copy_(clip.embedding_std[None])
            contract = {"clip": clip.hash}
        return cls(transformer, scheduler, contract).eval()

    def save(self, folder: Path, *, dtype: torch.dtype | None = torch.float16) -> None:
        """Write the folder that load() and PriorTransformer.from_pretrained read; contract.json last."""
        save_weights(self.transformer, folder / DIFFUSERS_WEIGHTS, dtype=dtype)
        self.transformer.save_config(folder)
        self.scheduler.save_config(folder)
        write_json(folder / "contract.json", self.contract)

    def forward(self, x: Tensor, timestep: Tensor, embedding: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Predicted clean whitened embedding (B, D). mask: (B, 77) bool, True on a caption's tokens."""
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
    ) -> Tensor:
        """Whitened image embeddings (B, D), one per text and seed. DDIM, eta 0; row k depends on its own
        seed alone.

        guidance: 1 follows the caption as trained; more moves away from the empty caption.
        """
        tokens = clip.tokenize([*texts, *([""] * len(texts) if guidance != 1 else [])])
        embedding, states = clip.encode_text(tokens)
        mask = tokens != 0
        x = torch.stack(
            [torch.randn(embedding.shape[1], generator=torch.Generator().manual_seed(s)) for s in seeds]
        )
        self.scheduler.set_timesteps(steps)
        for timestep in self.scheduler.timesteps:
            times = timestep.expand(len(tokens))
            predicted = self(x if guidance == 1 else torch.cat([x, x]), times, embedding, states, mask)
            if guidance != 1:
                asked, empty = predicted.chunk(2)
                predicted = empty + guidance * (asked - empty)
            x = self.scheduler.step(predicted, timestep, x).prev_sample
        return x
