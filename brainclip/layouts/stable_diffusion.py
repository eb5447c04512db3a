"""Stable Diffusion 1 and SDXL: UNets pretrained with text, which get the image embedding as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from brainclip.clip import Clip
from brainclip.config import DecoderRecipe
from brainclip.errors import RecipeError
from brainclip.layouts.pretrained import Pretrained
from brainclip.layouts.projection import TokenProjection
from brainclip.layouts.text import NewTokens, text_states, tokenizer_of

TIME_IDS = 6  # of SDXL: height and width before cropping, its corner, height and width after


class StableDiffusion(Pretrained):
    """The cross-attention sees the caption's tokens, where text is asked for, and after them the image's."""

    title = "Stable Diffusion 1"
    vae_class = AutoencoderKL
    text_encoders: tuple[str, ...] = ("text_encoder",)
    addition: str | None = None  # what the UNet adds to the time embedding
    last_layer = True  # of the text encoder

    @classmethod
    def fits(cls, classes: Mapping[str, str], unet: Mapping[str, Any]) -> bool:
        parts = (classes.get("unet"), classes.get("vae")) == ("UNet2DConditionModel", "AutoencoderKL")
        takes = (unet.get("encoder_hid_dim_type"), unet.get("addition_embed_type"))
        return parts and takes == (None, cls.addition)

    @classmethod
    def projection(cls, recipe: DecoderRecipe, clip: Clip, unet: Mapping[str, Any]) -> TokenProjection:
        if not recipe.project:
            raise RecipeError(
                f"decoder.project = false: {cls.title} takes no image embedding as it is; give project = true"
            )
        return TokenProjection(
            len(clip.embedding_mean), unet["cross_attention_dim"], recipe.tokens, cls.pooled_width(unet)
        )

    @classmethod
    def pooled_width(cls, unet: Mapping[str, Any]) -> int:
        """Numbers in the pooled embedding that the UNet takes; 0: it takes none."""
        return 0

    def conditions(self, whitened: Tensor, **tokens: Tensor) -> dict[str, Tensor]:
        states, pooled = self.parts["projection"](whitened.to(self.device))
        if tokens:
            of_text, pooled_text = self.read(tokens)
            states = torch.cat([of_text, states], 1)
            pooled = None if pooled is None else pooled + pooled_text
        return {"states": states} | ({} if pooled is None else {"pooled": pooled})

    def read(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """States (B, 77, W) and pooled embedding of captions' token ids: of all text encoders, side by
        side."""
        found = [
            text_states(self.parts[name], tokens[tokenizer_of(name)].to(self.device), last=self.last_layer)
            for name in self.text_encoders
        ]
        return torch.cat([states for states, _ in found], -1), found[-1][1]

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        assert self.tokenizers
        found = {}
        for name in self.text:
            ids = self.tokenizers.all[tokenizer_of(name)](word, add_special_tokens=False).input_ids
            if len(ids) != 1:
                raise RecipeError(
                    f"word = {word!r}: {len(ids)} tokens of the base's {name}; give a word that is one, as "
                    "most short English ones are"
                )
            found[name] = self.parts[name].get_input_embeddings()(torch.tensor(ids, device=self.device))
        return found

    def add_token(self, token: str, vectors: dict[str, Tensor]) -> None:
        assert self.tokenizers
        self.tokenizers.add(token, len(next(iter(vectors.values()))))
        for name, rows in vectors.items():
            encoder, tokenizer = self.parts[name], tokenizer_of(name)
            embedding = encoder.get_input_embeddings()
            if not isinstance(embedding, NewTokens):
                embedding = NewTokens(embedding, self.tokenizers.ids(token, tokenizer)[0])
                encoder.set_input_embeddings(embedding)
                inner = getattr(encoder, "text_model", encoder)
                if inner.eos_token_id == 2:  # so say old files; the end is then sought by the highest id
                    inner.eos_token_id = self.tokenizers.all[tokenizer].eos_token_id
            embedding.append(rows)

    def token_vectors(self, token: str) -> dict[str, Tensor]:
        assert self.tokenizers
        vectors = {}
        for name in self.text:
            embedding = self.parts[name].get_input_embeddings()
            ids = torch.tensor(self.tokenizers.ids(token, tokenizer_of(name)))
            vectors[name] = embedding.learned[ids - embedding.first]
        return vectors

    def text_layers(self, name: str) -> list[str]:
        """A last layer of which nothing is read is left out: its LoRA would get no gradient."""
        layers = self.parts[name].config.num_hidden_layers
        pooled = hasattr(self.parts[name], "text_projection")
        read = layers if self.last_layer or pooled else layers - 1
        ends = ("q_proj", "k_proj", "v_proj", "out_proj")
        return [f"encoder.layers.{number}.self_attn.{end}" for number in range(read) for end in ends]

    def predict(self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        return self.parts["unet"](noisy, time, conditions["states"]).sample


class StableDiffusionXL(StableDiffusion):
    """Two text encoders, their states before the last layer, and a pooled embedding beside the picture's
    size."""

    title = "SDXL"
    text_encoders = ("text_encoder", "text_encoder_2")
    addition = "text_time"
    last_layer = False

    @classmethod
    def pooled_width(cls, unet: Mapping[str, Any]) -> int:
        return int(unet["projection_class_embeddings_input_dim"] - TIME_IDS * unet["addition_time_embed_dim"])

    def read(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        states, pooled = super().read(tokens)
        if self.index.get("force_zeros_for_empty_prompt") and self.tokenizers and pooled is not None:
            end = self.tokenizers.all["tokenizer"].eos_token_id
            said = (tokens["tokenizer"][:, 1] != end).to(self.device)  # (B,) whether the caption is not empty
            states, pooled = states * said[:, None, None], pooled * said[:, None]
        return states, pooled

    def predict(self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        side = self.decoded
        sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=noisy.dtype, device=noisy.device)
        added = {"text_embeds": conditions["pooled"], "time_ids": sizes.expand(len(noisy), -1)}
        return self.parts["unet"](noisy, time, conditions["states"], added_cond_kwargs=added).sample
