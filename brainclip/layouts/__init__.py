"""The kinds of decoders: mini's own, and those of published models in diffusers' layout.

A folder with a model_index.json is of a published kind, and the configuration of its UNet says which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brainclip.clip import Clip
from brainclip.config import DecoderRecipe
from brainclip.errors import WeightsError
from brainclip.layouts.kandinsky import Kandinsky
from brainclip.layouts.layout import Layout
from brainclip.layouts.mini import Mini
from brainclip.layouts.parts import base_folder
from brainclip.layouts.pretrained import INDEX, Pretrained
from brainclip.layouts.stable_diffusion import StableDiffusion, StableDiffusionXL
from brainclip.weights import read_json

__all__ = [
    "Layout",
    "StableDiffusion",
    "StableDiffusionXL",
    "base_folder",
    "kind_of",
    "layout_files",
    "layout_kind",
    "load_layout",
    "new_layout",
]

PUBLISHED: tuple[type[Pretrained], ...] = (Kandinsky, StableDiffusion, StableDiffusionXL)


def new_layout(
    recipe: DecoderRecipe, clip: Clip, vae: Any = None, *, folder: Path | None = None, size: int = 0
) -> Layout:
    """What a recipe begins with: mini with random weights, or the base in `folder` with a fresh projection.

    vae: a trained autoencoder; None: the base's own. size: pixels along a side of a slice; 0, for mini alone:
    the autoencoder's. WeightsError for a base of none of the kinds, or whose folder is not complete.
    """
    if folder is None:
        return Mini.new(recipe, len(clip.embedding_mean), vae, size=size)
    return kind_of(folder).begin(folder, recipe, clip, size=size, vae=vae)


def load_layout(folder: Path, contract: dict[str, Any]) -> Layout:
    """The layout of a decoder saved in `folder`. WeightsError when a file or key is missing."""
    return layout_kind(folder).load(folder, contract)


def kind_of(folder: Path) -> type[Pretrained]:
    """The kind of a folder in diffusers' layout. WeightsError when it is none of PUBLISHED."""
    index = read_json(folder / INDEX)
    classes = {name: found[1] for name, found in index.items() if isinstance(found, list) and found[1]}
    unet = read_json(folder / "unet" / "config.json") if "unet" in classes else {}
    for kind in PUBLISHED:
        if kind.fits(classes, unet):
            return kind
    parts = ", ".join(f"{name} {found}" for name, found in classes.items())
    raise WeightsError(
        f"{folder}: {index.get('_class_name')} of {parts or 'no parts'}; possible bases are "
        f"{', '.join(kind.title for kind in PUBLISHED)}"
    )


def layout_kind(folder: Path) -> type[Mini] | type[Pretrained]:
    """The kind of a decoder saved in `folder`."""
    return kind_of(folder) if (folder / INDEX).is_file() else Mini


def layout_files(folder: Path) -> tuple[str, ...]:
    """What a decoder saved in `folder` consists of, besides its contract and its scheduler."""
    return layout_kind(folder).files(folder)
