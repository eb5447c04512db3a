"""Textual inversion: new words for a decoder that reads captions, each with embeddings of its own.

Gal et al. 2022, arXiv 2208.01618. The files are those of diffusers; a prompt uses a word by its token, such
as <clinic>.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from brainclip.errors import WeightsError
from brainclip.weights import read_weights, write_weights

FILES = {"text_encoder": "learned_embeds.safetensors", "text_encoder_2": "learned_embeds_2.safetensors"}


def with_tokens(caption: str, tokens: Iterable[str]) -> str:
    """A caption as the decoder reads it: new tokens stand behind it, in training and afterwards."""
    return ", ".join([caption, *tokens])


def split_tokens(prompt: str, tokens: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """A prompt without these new tokens, and those that it holds; case does not matter."""
    held = tuple(token for token in tokens if token in prompt.lower())
    for token in held:
        prompt = re.sub(rf"\s*,?\s*{re.escape(token)}", "", prompt, flags=re.IGNORECASE).lstrip(" ,")
    return prompt, held


def write_vectors(folder: Path, token: str, vectors: Mapping[str, Tensor]) -> None:
    """Write a token's embeddings (n, W) by text encoder, as diffusers' load_textual_inversion reads them."""
    for encoder, rows in vectors.items():
        write_weights({token: rows.detach().cpu().contiguous()}, folder / FILES[encoder])


def read_vectors(folder: Path, token: str, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The same again; widths: W of each text encoder. WeightsError for what is missing or does not fit."""
    vectors = {}
    for encoder, width in widths.items():
        path = folder / FILES[encoder]
        found = read_weights(path)
        if set(found) != {token} or found[token].ndim != 2 or found[token].shape[1] != width:
            there = ", ".join(f"{key} {tuple(value.shape)}" for key, value in found.items())
            raise WeightsError(
                f"{path}: holds {there}; this decoder's {encoder} takes rows of {width} numbers for {token}"
            )
        vectors[encoder] = found[token]
    return vectors
