"""Drawings that begin with a picture: image to image under another prompt, and inpainting in a mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from brainclip.errors import BrainclipError
from brainclip.model import load
from brainclip.picture import Picture, as_pixels

FEATHER_MM = 4.5  # around a mask, in which what was drawn goes over into what was there


def redraw(
    picture: Any,
    prompt: str,
    *,
    strength: float = 0.5,
    seed: int | None = None,
    model: str | Path = "mini",
) -> Picture:
    """A Picture of the prompt, the drawing of which begins with another (image to image, Meng et al. 2022).

    picture: a Picture, its file, or any slice (file or array). strength: share of the decoder's steps that
    are gone, from just above 0, the picture as the autoencoder gives it back, to 1, the prompt alone. seed:
    None: the picture's. PromptError for a prompt that is empty or too long.
    """
    from brainclip.moving import points

    brain = load(model)
    given = _any(brain, picture, prompt)
    point = points.of_prompt(brain, prompt, seed=given.seed if seed is None else seed)
    move = {"kind": "redraw", "from": points.source(given)}
    return points.draw(brain, [point], [move], start=points.pixels(given), strength=strength)[0]


def inpaint(
    picture: Any,
    mask: Any,
    *,
    prompt: str | None = None,
    seed: int | None = None,
    strength: float = 1.0,
    model: str | Path = "mini",
) -> Picture:
    """The picture with the inside of a mask drawn anew, and the outside as it was.

    picture: as redraw() takes it. mask: (H, W), true or above half where to draw, an array or a file of the
    slice's size. prompt: what to draw there; None: what the picture shows as a whole, by its own embedding. A
    slice that does not say what it shows needs one. Within FEATHER_MM outside the mask both go over into each
    other; the decoder draws whole patches (12 mm of the bundled model) and sees what is kept around them.
    strength: below 1, what was inside is kept in part.
    """
    import torch

    from brainclip.moving import points

    brain = load(model)
    given = points.opened(brain, picture) if prompt is None else _any(brain, picture, prompt)
    inside = _mask(mask, brain.size, given.spacing_mm)
    if not inside.any():
        raise BrainclipError("the mask is empty, so there is nothing to draw")
    chosen = given.seed if seed is None else seed
    own = points.of_picture(brain, given) if prompt is None else points.of_prompt(brain, prompt, seed=chosen)
    weight = feathered(inside, FEATHER_MM / given.spacing_mm)
    move = {"kind": "inpaint", "mm2": float(inside.sum() * given.spacing_mm**2), "from": points.source(given)}
    made = points.draw(
        brain,
        [replace(own, seed=chosen)],
        [move],
        start=points.pixels(given),
        strength=strength,
        keep=torch.from_numpy(weight == 0)[None, None],
    )[0]
    return replace(made, pixels=blended(given.pixels, made.pixels, weight))


def feathered(inside: np.ndarray, pixels: float) -> np.ndarray:
    """(H, W) float32: 1 in the mask, 0 from `pixels` outside on, even in between."""
    from scipy import ndimage

    away = ndimage.distance_transform_edt(~inside)
    return np.clip(1 - away / max(pixels, 1e-6), 0, 1).astype(np.float32)


def blended(before: np.ndarray, after: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pixels (H, W) of `after` by weight, else of `before`, which stay the same bits where it is 0."""
    return np.where(weight > 0, before + weight * (after - before), before).astype(np.float32)


def _any(brain: Any, picture: Any, prompt: str) -> Picture:
    """The Picture of a slice that may or may not say what it is."""
    from brainclip.moving import points

    if isinstance(picture, Picture):
        return points.opened(brain, picture)
    if isinstance(picture, str | Path):
        try:
            return points.opened(brain, picture)
        except BrainclipError:  # no picture of ours; a file that cannot be read is refused below
            pass
    return points.opened(brain, picture, prompt)


def _mask(mask: Any, size: int, spacing_mm: float) -> np.ndarray:
    """(H, W) bool of an array or file."""
    if not isinstance(mask, str | Path):
        mask = np.asarray(mask)
        mask = mask.astype(np.float32) if mask.dtype == bool else np.clip(mask.astype(np.float32), 0, 1)
    inside: np.ndarray = as_pixels(mask, size, spacing_mm) > 0.5
    return inside
