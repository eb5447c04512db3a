"""Captions for a UNet that was pretrained with text: the base's tokenizers and frozen text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brainclip.errors import PromptError, WeightsError
from brainclip.layouts.parts import read_part

TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")


def tokenizer_of(encoder: str) -> str:
    """The folder of a text encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer")


class Tokenizers:
    """The tokenizers of a Stable Diffusion, one per text encoder, by the names of their folders."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        from transformers import CLIPTokenizer

        self.all: dict[str, Any] = {}
        self.added: dict[str, str] = {}  # new word -> the words for each of its embeddings
        for name in names:
            if not (folder / name).is_dir():
                raise WeightsError(
                    f"{folder / name}: no such folder; the base's text path needs its tokenizer"
                )
            self.all[name] = CLIPTokenizer.from_pretrained(folder / name, local_files_only=True)

    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Token ids (B, 77) by tokenizer. PromptError for a caption that does not fit: nothing is cut
        silently."""
        ids = {}
        for token, spelled in self.added.items():
            captions = [text.replace(token, spelled) for text in captions]
        for name, tokenizer in self.all.items():
            rows = tokenizer(
                list(captions), padding="max_length", max_length=tokenizer.model_max_length
            ).input_ids
            longest = max(range(len(rows)), key=lambda row: len(rows[row]))
            if len(rows[longest]) > tokenizer.model_max_length:
                raise PromptError(
                    f"caption of {len(rows[longest])} tokens for the base's text encoder; at most "
                    f"{tokenizer.model_max_length} fit, shorten it or train with text = false: "
                    f"{captions[longest][:60]!r}"
                )
            ids[name] = torch.tensor(rows)
        return ids

    def add(self, token: str, vectors: int) -> None:
        """Take up a new word with so many embeddings, each a token, which diffusers calls <x>, <x>_1 ..."""
        words = [token, *(f"{token}_{number}" for number in range(1, vectors))]
        for tokenizer in self.all.values():
            tokenizer.add_tokens(words)
        self.added[token] = " ".join(words)

    def ids(self, token: str, tokenizer: str) -> list[int]:
        """The ids of a new word's tokens."""
        found: list[int] = self.all[tokenizer].convert_tokens_to_ids(self.added[token].split())
        return found

    def save(self, folder: Path) -> None:
        """Write each into its folder."""
        for name, tokenizer in self.all.items():
            tokenizer.save_pretrained(folder / name)


class NewTokens(nn.Module):
    """A text encoder's embedding of tokens, which stays as it is; learned rows for ids from `first` on."""

    def __init__(self, known: nn.Embedding, first: int) -> None:
        super().__init__()
        self.known, self.first = known, first
        self.learned = nn.Parameter(known.weight.new_empty(0, known.embedding_dim), requires_grad=False)

    def append(self, rows: Tensor) -> None:
        """Rows (n, W) for the next n ids."""
        self.learned = nn.Parameter(torch.cat([self.learned, rows.to(self.learned)]), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        new = ids >= self.first
        rows = self.learned[(ids - self.first).clamp(min=0)]
        return torch.where(new[..., None], rows, self.known(ids.masked_fill(new, 0)))


def read_text_encoders(folder: Path, index: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The text encoders of these names, frozen, strictly loaded. WeightsError when the folder has none."""
    import transformers

    encoders = {}
    for name in names:
        kind = index.get(name, [None, None])[1]
        if kind not in TEXT_ENCODERS:
            raise WeightsError(
                f"{folder}: {name} is {kind or 'not there'}, and text = true needs a "
                f"{' or '.join(TEXT_ENCODERS)}; use the published base"
            )
        encoders[name] = read_part(getattr(transformers, kind), folder / name).requires_grad_(False)
    return encoders


def text_states(encoder: Any, ids: Tensor, *, last: bool) -> tuple[Tensor, Tensor | None]:
    """States (B, 77, W) and, of an encoder with a projection, the pooled embedding (B, P) of token ids.

    last: the states of the last layer (Stable Diffusion 1), else those before it (SDXL).
    """
    found = encoder(ids, output_hidden_states=not last)
    states = found.last_hidden_state if last else found.hidden_states[-2]
    return states, getattr(found, "text_embeds", None)
