"""Stacks: consecutive slices of one synthetic person as a 3-D volume, and how consistent slices are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainclip.errors import BrainclipError, PromptError
from brainclip.inversion import with_tokens
from brainclip.model import load
from brainclip.picture import Picture, write

if TYPE_CHECKING:
    from torch import Tensor

SMOOTH_MM = 4.0  # standard deviation along which embeddings of neighbours are averaged
WORDINGS = 3  # of each place; neighbours are averaged as well
NOISE_MM = 2.7  # over which the decoder's noise changes: as validation people's slices do, see docs/moving
REACH = 4  # widths of the kernel of slow noise beyond which nothing counts
RIM, LEAST = 3, 200  # pixels: from the edge of the brain, and of brain in two slices that are compared
ENDS_MM = 10.0  # of what was trained that is left out: slices there show a few pixels of brain, or none


@dataclass(frozen=True)
class Stack:
    """Slices of one plane, ascending in position, all synthetic. pictures: as generate() makes them."""

    pictures: tuple[Picture, ...]
    every_mm: float

    @property
    def pixels(self) -> np.ndarray:
        """(N, H, W) float32 in [0, 1]."""
        return np.stack([picture.pixels for picture in self.pictures])

    def nifti(self) -> Any:
        """A 3-D RAS+ nibabel.Nifti1Image in MNI space, as thick as its slices lie apart."""
        from atlas.slices import AXIS

        slices = [picture.nifti() for picture in self.pictures]
        axis, first = AXIS[self.pictures[0].plane], slices[0]
        affine = first.affine.copy()
        affine[axis, axis] = self.every_mm
        whole = type(first)(np.concatenate([np.asanyarray(one.dataobj) for one in slices], axis), affine)
        whole.set_sform(affine, code="mni")
        whole.set_qform(affine, code="mni")
        whole.header["descrip"] = first.header["descrip"]
        return whole

    @property
    def provenance(self) -> dict[str, Any]:
        """What the file's .json says: that it is synthetic, how it was made, and the place of each slice."""
        first = self.pictures[0].provenance
        kept = {key: first[key] for key in first if key not in ("position_mm", "position_from", "caption")}
        return kept | {
            "every_mm": self.every_mm,
            "positions_mm": [picture.position_mm for picture in self.pictures],
        }

    def save(self, path: Path | str) -> Path:
        """Write a .nii or .nii.gz, with a .json beside it."""
        from atlas.volume import check_ending, save_volume

        path = Path(path)
        ending = check_ending(path)
        save_volume(self.nifti(), path)
        text = json.dumps(self.provenance, indent=2, ensure_ascii=False) + "\n"
        write(path.with_name(path.name.removesuffix(ending) + ".json"), text.encode())
        return path


def stack(
    prompt: str,
    *,
    from_mm: float | None = None,
    to_mm: float | None = None,
    every_mm: float | None = None,
    seed: int = 0,
    smooth_mm: float = SMOOTH_MM,
    noise_mm: float = NOISE_MM,
    adapter: Any = "auto",
    model: str | Path = "mini",
) -> Stack:
    """Consecutive slices of one synthetic person, in the plane that the prompt names.

    Every slice is asked for by its place in millimetres and its level, with one noise for the prior. The
    embeddings are then averaged among neighbours (Gaussian of smooth_mm), as captions change by leaps from
    level to level. The decoder's noise changes slowly from slice to slice: of slices noise_mm apart it is
    correlated by 0.61 (0: not at all, inf: one noise). from_mm, to_mm: MNI; None: what was trained, but for
    ENDS_MM. every_mm: None: a pixel, so that voxels are cubes. A place in the prompt is not used.
    PromptError for a prompt without a plane.
    """
    import torch
    from torch.nn import functional

    from atlas.caption import restate
    from atlas.facts import AXIS
    from brainclip.moving import points

    brain = load(model)
    read, tokens = brain.read(prompt)
    plane = read.facts.plane
    if plane is None:
        raise PromptError(f"{prompt!r} names no plane; say for example 'axial T1 slice'")
    spacing = float(brain.card["spacing_mm"])
    every = spacing if every_mm is None else every_mm
    places = _places(brain.card["positions"][plane], from_mm, to_mm, every)
    stated = {key: value for key, value in read.mentioned.items() if key not in ("level", "position_mm")}
    captions = [
        restate(stated | {"position_mm": float(place)}, seed=seed + k).text
        for place in places
        for k in range(WORDINGS)
    ]
    drawn = points.embedded(brain, captions, [seed] * len(captions)).unflatten(0, (len(places), -1)).mean(1)
    apart = torch.from_numpy(places[:, None] - places[None]).float()
    weights = torch.exp(-0.5 * (apart / max(smooth_mm, 1e-6)) ** 2)
    embeddings = functional.normalize(weights / weights.sum(1, keepdim=True) @ drawn, dim=1)
    chosen = brain.adapter_for(read, adapter)
    made = []
    for place, embedding in zip(places.tolist(), embeddings, strict=True):
        at = brain.read(f"{AXIS[plane]} = {place:.1f} mm, {prompt}")[0]
        at = replace(at, unknown=read.unknown, suggestions=read.suggestions, text=prompt)
        said = with_tokens(brain.caption(at, seed), tokens)
        made.append(points.Point(at, tokens, said, embedding, seed, chosen))
    noise = slow_noise(places, brain.decoder.layout.shape, seed=seed, noise_mm=noise_mm)
    made = [replace(point, noise=one) for point, one in zip(made, noise, strict=True)]
    move = {
        "kind": "stack",
        "smooth_mm": smooth_mm,
        "noise_mm": noise_mm if np.isfinite(noise_mm) else "one for all",
    }
    pictures = points.draw(brain, made, [move] * len(made))
    return Stack(
        tuple(
            replace(picture, position_mm=place, position_asked=True)
            for picture, place in zip(pictures, places.tolist(), strict=True)
        ),
        every,
    )


def slow_noise(places: np.ndarray, shape: Sequence[int], *, seed: int, noise_mm: float) -> Tensor:
    """(N, *shape) standard normal noise at places in mm, correlated by exp(-(d / noise_mm)^2 / 2).

    A function of seed and place alone: a stack of other places holds the same noise where they are equal.
    """
    import torch

    if noise_mm == float("inf"):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).expand(len(places), *shape)
    width = max(noise_mm / 2**0.5, 0.25)  # of the kernel, whose self-convolution is the correlation
    nodes = width * np.arange(
        np.floor(places.min() / width) - REACH, np.ceil(places.max() / width) + REACH + 1
    )
    drawn = []
    for node in nodes / width:
        own = torch.Generator().manual_seed((seed * 1_000_003 + round(node) + 500_000) % 2**63)
        drawn.append(torch.randn(shape, generator=own))
    weights = torch.from_numpy(np.exp(-0.5 * ((places[:, None] - nodes) / width) ** 2)).float()
    weights = weights / weights.square().sum(1, keepdim=True).sqrt()
    return torch.einsum("nk,kchw->nchw", weights, torch.stack(drawn))


def through_plane(pixels: np.ndarray, every_mm: float, spacing_mm: float) -> dict[str, float]:
    """How slices (N, H, W) of one person, every_mm apart, go together from slice to slice.

    correlation: mean over neighbours of Pearson's correlation where either shows brain. step: mean absolute
    change of grey a millimetre from slice to slice, over that within the slices at the same distance: 1
    where the brain is as smooth across as along, more where slices do not fit. A blurred stack has a high
    correlation; the step tells that apart, as blur lowers both its sides.
    """
    shift = max(1, round(every_mm / spacing_mm))
    correlations, across, along = [], [], []
    for first, second in pairwise(pixels):
        brain = (first > 0) | (second > 0)
        if brain.sum() < 2 or not (np.ptp(first[brain]) and np.ptp(second[brain])):
            continue
        correlations.append(np.corrcoef(first[brain], second[brain])[0, 1])
        across.append(np.abs(second - first)[brain].mean() / every_mm)
        inside = []
        for axis in (0, 1):
            moved = np.roll(first, shift, axis)
            inside.append(np.abs(moved - first)[brain].mean() / (shift * spacing_mm))
        along.append(np.mean(inside))
    if not correlations:
        raise BrainclipError("fewer than two neighbouring slices that show brain")
    return {"correlation": float(np.mean(correlations)), "step": float(np.mean(across) / np.mean(along))}


def correlation_at(pixels: np.ndarray, apart: int) -> float:
    """Mean of Pearson's correlation of slices (N, H, W) `apart` slices from each other, inside the brain.

    Where both show brain, RIM pixels from its edge: the outline alone makes any two brains alike, smooth
    ones more than others. BrainclipError where no two slices have enough in common.
    """
    from scipy import ndimage

    found = []
    for first, second in zip(pixels[:-apart], pixels[apart:], strict=True):
        inside = ndimage.binary_erosion((first > 0) & (second > 0), iterations=RIM)
        if inside.sum() >= LEAST and np.ptp(first[inside]) and np.ptp(second[inside]):
            found.append(np.corrcoef(first[inside], second[inside])[0, 1])
    if not found:
        raise BrainclipError(f"no two slices that show enough brain, {apart} from each other")
    return float(np.mean(found))


def _places(trained: Any, from_mm: float | None, to_mm: float | None, every_mm: float) -> np.ndarray:
    """(N,) positions in mm, ascending."""
    low = trained[0] + ENDS_MM if from_mm is None else from_mm
    high = trained[1] - ENDS_MM if to_mm is None else to_mm
    if every_mm <= 0 or high - low < every_mm:
        raise BrainclipError(f"from {low:g} to {high:g} mm every {every_mm:g} mm: fewer than two slices")
    return low + every_mm * np.arange(int((high - low) / every_mm + 1e-6) + 1)
