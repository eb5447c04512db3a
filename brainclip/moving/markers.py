"""Markers: a simulated lesion of given kind, place and size in a synthetic healthy slice, with its mask.

A controlled set for tests of detectors. Lesion and slice are drawn, and every file says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from brainclip.errors import BrainclipError, PromptError
from brainclip.model import load
from brainclip.moving.redraw import blended, feathered
from brainclip.picture import Picture

STRENGTH = 0.1  # one of 12 steps; at two plaques of multiple sclerosis fade, at three they are healed
CHANGED = 0.02  # of the grey scale; where a lesion moves or changes the slice by more, it is drawn anew
FEATHER_MM = 6.0


@dataclass(frozen=True)
class Marked:
    """A slice with a simulated lesion, its mask (H, W) bool, and the same slice without it."""

    picture: Picture
    mask: np.ndarray
    healthy: Picture

    def save(self, path: Path | str) -> Path:
        """Write the picture as Picture.save does, and the mask beside it: x.png and x_mask.png."""
        path = self.picture.save(path)
        ending = next(end for end in (".nii.gz", ".nii", ".png") if path.name.endswith(end))
        beside = path.with_name(f"{path.name.removesuffix(ending)}_mask{ending}")
        settings = self.picture.settings | {"shows": "mask of the simulated lesion"}
        replace(self.picture, pixels=self.mask.astype(np.float32), settings=settings).save(beside)
        return path


def mark(
    picture: Any,
    kind: str,
    *,
    size_mm: float | Sequence[float] = 20.0,
    at_mm: tuple[float, float, float] | None = None,
    contrast: float = 1.0,
    seed: int = 0,
    strength: float = STRENGTH,
    prompt: str | None = None,
    model: str | Path = "mini",
) -> list[Marked]:
    """A healthy slice with a simulated lesion, for each size: several sizes are a sequence in time.

    picture: a Picture, its file, or with a prompt any healthy slice. kind, size_mm, contrast, seed: as
    atlas.lesions.Lesion has them; the shape is that of the seed and grows with the size. at_mm: MNI x, y, z
    of its middle; None: a place where such a lesion may occur, in this slice. strength: share of the
    decoder's steps by which the lesion is made to fit its surroundings, 0: not at all; more than a few
    steps heal it, as the decoder knows healthy brains alone. Beyond FEATHER_MM around what the lesion
    changes, the slice stays the same bits. BrainclipError for a slice without a contrast, and for a lesion
    that does not reach it.
    """
    from atlas.lesions import Lesion, lesion_in_slice, random_lesion
    from atlas.slices import Geometry
    from brainclip.moving import points

    brain = load(model)
    given = points.opened(brain, picture, prompt)
    modality = given.facts.modality
    if modality is None:
        raise PromptError(f"{given.prompt!r} names no contrast; say for example 'axial FLAIR slice'")
    if not 0 <= strength <= 1:
        raise BrainclipError(f"strength = {strength:g}: give a number from 0 to 1")
    sizes = [float(size_mm)] if isinstance(size_mm, int | float) else [float(size) for size in size_mm]
    geometry = Geometry(brain.size, given.spacing_mm)
    if at_mm is None:
        here = (given.plane, given.position_mm)
        at_mm = random_lesion(kind, size_mm=max(sizes), contrast=contrast, seed=seed, near=here).centre_mm
    drawn, masks = [], []
    for size in sizes:
        slice_, mask = lesion_in_slice(
            given.pixels,
            Lesion(kind, at_mm, size, contrast, seed),
            modality=modality,
            plane=given.plane,
            position_mm=given.position_mm,
            geometry=geometry,
        )
        drawn.append(slice_.astype(np.float32))
        masks.append(mask)
    if not any(mask.any() for mask in masks):
        raise BrainclipError(
            f"a {kind} of {max(sizes):g} mm at {at_mm} does not show in this slice "
            f"({given.plane} {given.position_mm:+.0f} mm); give another place or size"
        )
    pixels = _fitted(brain, given, drawn, strength)
    marked = []
    for row, mask in enumerate(masks):
        move = {
            "kind": "mark",
            "lesion": kind,
            "simulated": True,
            "size_mm": sizes[row],
            "at_mm": list(at_mm),
            "contrast": contrast,
            "lesion_seed": seed,
            "strength": strength,
            "from": points.source(given),
        }
        made = replace(given, pixels=pixels[row], settings=given.settings | {"move": move}, embedding=None)
        marked.append(Marked(made, mask, given))
    return marked


def _fitted(brain: Any, given: Picture, drawn: Sequence[np.ndarray], strength: float) -> list[np.ndarray]:
    """The slices with lesions (H, W), noised and drawn again from their own embeddings around the lesions."""
    import torch

    from brainclip.moving import points

    if strength == 0:
        return list(drawn)
    own = points.of_picture(brain, given)
    start = torch.from_numpy(np.stack(drawn))[:, None]
    embeddings = brain.embed_image(drawn)
    again = points.draw(
        brain,
        [replace(own, embedding=row) for row in embeddings],
        [{}] * len(drawn),
        guidance=1.0,  # more drives the lesion out
        start=start,
        strength=strength,
    )
    fitted = []
    for slice_, made in zip(drawn, again, strict=True):
        changed = np.abs(slice_ - given.pixels) > CHANGED
        fitted.append(blended(slice_, made.pixels, feathered(changed, FEATHER_MM / given.spacing_mm)))
    return fitted
