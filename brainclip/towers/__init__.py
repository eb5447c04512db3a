"""The CLIPs of other libraries behind one face: how each is opened, run and written, and its parts."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

Towers = Any  # a library's own nn.Module, with whatever that library gives it
# what the libraries say of a folder or file that is not what it should be
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError),
    *(SafetensorError, pickle.UnpicklingError, EOFError),
)


@dataclass(frozen=True)
class Side:
    """One tower: all its parameters, the blocks of its transformer from first to last, what follows these up
    to the pooling, and the projection from there to the embedding."""

    parameters: list[nn.Parameter]
    blocks: list[nn.Module]
    ends: list[nn.Parameter]
    projection: list[nn.Parameter]


class Layout(ABC):
    """One library's CLIP: what it takes, how it is run and written. towers: that library's own model, with
    a parameter `logit_scale` and a `logit_bias`, which may be None.

    context: tokens of a text. size: height and width of the images. mean, std: of their three channels.
    padding: the id that the text tower was trained to see after the end of a text.
    """

    tokenizer: Any
    context: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    embedding_width: int

    @abstractmethod
    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with their start and end, not padded and not cut."""

    @abstractmethod
    def encode_text(self, towers: Towers, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) and states (B, L, W) of token ids (B, context), of which `lengths` (B,) count.
        L may be that of the longest text."""

    @abstractmethod
    def encode_image(self, towers: Towers, pixels: Tensor) -> Tensor:
        """Features (B, D) of what pixels() gives."""

    @abstractmethod
    def states_width(self, towers: Towers) -> int:
        """W of the states."""

    @abstractmethod
    def sides(self, towers: Towers) -> dict[str, Side]:
        """The image and the text side."""

    @abstractmethod
    def image_maps(self, towers: Towers) -> list[Tensor]:
        """Views of the weights of the image tower's last layer, their last axis the embedding's; empty where
        that layer is not linear."""

    @abstractmethod
    def extras(self, towers: Towers) -> dict[str, Tensor]:
        """Learned numbers for which the library's own files have no place."""

    @abstractmethod
    def save(self, towers: Towers, folder: Path, dtype: torch.dtype | None) -> None:
        """Write the folder that the library opens, weights in `dtype` (None: as they are); manifest last."""

    @staticmethod
    @abstractmethod
    def weights(folder: Path) -> list[Path]:
        """The weight files of a folder that save() has written."""

    def pixels(self, images: Tensor) -> Tensor:
        """Grey images (B, 1, H, W) in [0, 1] as the image tower takes them: (B, 3, *size), normalised."""
        mean, std = (images.new_tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return (fitted(images, self.size).expand(-1, 3, -1, -1) - mean) / std


def fitted(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) in [0, 1] cropped centrally to the aspect of `size` and resized to it, bicubic."""
    height, width = images.shape[-2:]
    if (height, width) == tuple(size):
        return images
    scale = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    cropped = images[..., top : top + rows, left : left + columns]
    resized = functional.interpolate(cropped, size, mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 1)


def lengths_of(tokens: Tensor) -> Tensor:
    """(B,) tokens of each text up to its end, in ids (B, context) with 0 after the end."""
    after = (tokens.flip(1) != 0).int().argmax(dim=1)
    return tokens.shape[1] - after


def padded_with(padding: int, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Token ids (B, L) with `padding` instead of whatever stands after the end of a text."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens.where(places < lengths[:, None], padding)


def all_parameters(*parts: nn.Module | nn.Parameter | None) -> list[nn.Parameter]:
    """The parameters of modules, and those given themselves; None has none."""
    found: list[nn.Parameter] = []
    for part in parts:
        if part is not None:
            found += [part] if isinstance(part, nn.Parameter) else part.parameters()
    return found


def shortly(error: Exception) -> str:
    """The beginning of what a library says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def unreachable(base: str, error: Exception) -> str:
    """A sentence for a base that is neither cached nor to be had from its hub."""
    return (
        f"clip.base = {base!r} is neither on this machine nor reachable ({type(error).__name__}); "
        "fetch it once with a network, or give a folder that holds it"
    )
