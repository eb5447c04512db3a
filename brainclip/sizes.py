"""Sizes of structures in the space of image embeddings: a direction for each, and prompts that ask for them.

Captions of the bundled model hardly tell its text tower how large a structure is, but its image embeddings
show it. So the effect of a structure's size is read from the embeddings of real and simulated slices (see
brainclip.moving.directions), and kept in a file: directions.safetensors in the model's folder, or a file of
this package by the hash of the CLIP. Unit: a standard deviation of the size at a given age and sex.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from brainclip.errors import WeightsError
from brainclip.weights import read_weights

if TYPE_CHECKING:
    from atlas.prompt import Prompt
    from brainclip.model import BrainCLIP

FILE = "directions.safetensors"
BUNDLED = Path(__file__).parent / "moving" / "weights"
SIZES = {"small": -1.4, "normal": 0.0, "enlarged": 1.4}  # the mean of a normal's outer fifth, in deviations
KNOT_MM = 12.0  # between places at which a structure's effect is kept; in between it is linear
PLACES_MM = {"axial": (-60.0, 72.0), "coronal": (-96.0, 60.0), "sagittal": (-60.0, 60.0)}  # first, last
ASKED = ("lateral ventricles",)  # structures whose pictures were measured to follow


def sized(model: BrainCLIP, prompts: Sequence[Prompt], embeddings: Tensor) -> tuple[Tensor, list[list[str]]]:
    """Image embeddings (B, D) of unit length, each moved to the sizes that its prompt asks for, and the
    structures that were moved; those without a direction for the plane and contrast stay as they are."""
    moved, structures = embeddings.clone(), []
    for row, prompt in enumerate(prompts):
        known = []
        for structure, size in prompt.facts.sizes.items():
            if structure not in ASKED:
                continue
            plane, place, _ = model.place(prompt, embeddings[row])
            along = direction(model, plane, prompt.facts.modality, structure, place)
            if along is not None:
                moved[row] = functional.normalize(moved[row] + SIZES[size] * along, dim=0)
                known.append(structure)
        structures.append(known)
    return moved, structures


def direction(
    model: BrainCLIP,
    plane: str | None,
    modality: str | None,
    structure: str,
    position_mm: float,
    *,
    file: Path | None = None,
) -> Tensor | None:
    """(D,) by how much an image embedding moves with a standard deviation of a structure's size; None where
    that was not fitted for this CLIP, plane and contrast. file: in place of the model's own."""
    found = read_weights(file) if file else _read(model)
    key = f"{plane}/{modality}/{structure}"
    if key not in found:
        return None
    weights = torch.from_numpy(hats(np.array([position_mm]), plane)).float()[0]
    if found[key].shape[0] != len(weights):
        raise WeightsError(f"{key} is of an older kind; fit again with `brainclip moving --part sizes`")
    return weights @ found[key].float()


def hats(places_mm: np.ndarray, plane: str | None) -> np.ndarray:
    """(N, K) weights of the K knots of a plane, linear in between; beyond the ends that of the end."""
    low, high = PLACES_MM[str(plane)]
    knots = np.arange(low, high + 1, KNOT_MM)
    away = np.abs(np.clip(places_mm, low, high)[:, None] - knots) / KNOT_MM
    return np.maximum(0.0, 1.0 - away)


def directions_of(model: BrainCLIP) -> Path | None:
    """Where the directions of a model are; None where it has none."""
    paths = model.folder / FILE, BUNDLED / f"{model.clip.hash}.safetensors"
    return next((path for path in paths if path.is_file()), None)


def _read(model: BrainCLIP) -> dict[str, Tensor]:
    """The directions of a model; empty where it has none."""
    path = directions_of(model)
    return read_weights(path) if path else {}
