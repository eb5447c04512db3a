"""How near slices are to slices of other people: the measure by which copies are found.

Registered slices are alike in all that brains have in common. What makes one person's slice is its fine
pattern of folds and vessels, so slices are compared by the correlation of their details (structures of 1.5 to
6 mm at 128 pixels of 1.5 mm), each at its best shift of up to 3 mm. A smooth or average picture is near to
everybody, a copy to one person alone: what counts is the distance to the nearest person relative to the mean
distance to those that come next, as Carlini et al. 2023 (Extracting training data from diffusion models) do
with the nearest pictures. How well this and other measures find copies: LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from brainclip.data import PairDataset

SIDE = 128  # pixels; larger slices are averaged down to it
FINE, COARSE, SHIFT = 1 / 128, 4 / 128, 2 / 128  # of the side: widths of the two blurs, largest shift
NEXT = 50  # people that come after the nearest
FEWEST = 5  # of those, for a relative distance

Features = Callable[[Tensor], Tensor]  # (B, 1, H, W) in [0, 1] -> (B, D)


@dataclass(frozen=True)
class Slices:
    """N slices that can be compared. images: (N, 1, H, W) uint8; kind: plane and contrast; position_mm: MNI;
    subject: whose slice it is, each generated picture its own."""

    images: Tensor
    kind: np.ndarray
    position_mm: np.ndarray
    subject: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray | Sequence[int]) -> Slices:
        """The part at `rows`."""
        rows = np.asarray(rows, dtype=int)
        return Slices(self.images[rows], self.kind[rows], self.position_mm[rows], self.subject[rows])


def slices_of(data: PairDataset) -> Slices:
    """All slices of a dataset."""
    parts = [data.images(range(i, min(i + 512, len(data)))) for i in range(0, len(data), 512)]
    facts = [pair.facts for pair in data.pairs]
    return Slices(
        torch.cat([(part * 255).round().byte() for part in parts]),
        np.array([f"{fact.plane} {fact.modality}" for fact in facts]),
        np.array([float(fact.position_mm or 0.0) for fact in facts]),
        np.array(
            [
                f"{data.folders[k].name}/{pair.subject}"
                for k, pair in zip(data.folder_of, data.pairs, strict=True)
            ]
        ),
    )


def joined(parts: Sequence[Slices]) -> Slices:
    """Slices of several sets as one."""
    arrays = [
        np.concatenate([getattr(part, name) for part in parts]) for name in ("kind", "position_mm", "subject")
    ]
    return Slices(torch.cat([part.images for part in parts]), *arrays)


@dataclass(frozen=True)
class Nearest:
    """For N slices, each (N,): distance (1 - correlation, 0 to 2) to the nearest person's slice, whose row in
    the reference is `row`, and relative to the NEXT people's; nan and -1 where too few are comparable."""

    distance: np.ndarray
    relative: np.ndarray
    row: np.ndarray

    def take(self, rows: np.ndarray) -> Nearest:
        """The part at `rows`."""
        return Nearest(self.distance[rows], self.relative[rows], self.row[rows])


def details(images: Tensor) -> np.ndarray:
    """(N, h, w) float32 of unit length each: what lies between the two blurs of slices (N, 1, H, W)."""
    images = images.float()
    if images.shape[-1] > SIDE:
        images = functional.interpolate(images, size=(SIDE, SIDE), mode="area")
    pixels = images[:, 0].numpy()
    side = pixels.shape[-1]
    fine, coarse = (
        ndimage.gaussian_filter(pixels, (0, side * width, side * width)) for width in (FINE, COARSE)
    )
    return _unit((fine - coarse).reshape(len(pixels), -1)).reshape(pixels.shape)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(1, keepdims=True)
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def nearest(
    slices: Slices,
    reference: Slices,
    *,
    within_mm: float,
    features: Features | None = None,
    own: bool = False,
) -> Nearest:
    """Each slice's nearest person in `reference`, among slices of its kind at most `within_mm` away.

    features: distances are taken between these, standardised by the reference, instead of the details.
    own: people may be the same on both sides (pictures among themselves); then a slice's own are left out.
    """
    distance, relative = np.full(len(slices), np.nan), np.full(len(slices), np.nan)
    row = np.full(len(slices), -1)
    scale = None if features is None else _scale(features, reference)
    for kind in np.unique(slices.kind):
        theirs = np.flatnonzero(reference.kind == kind)
        theirs = theirs[np.argsort(reference.position_mm[theirs], kind="stable")]
        mine = np.flatnonzero(slices.kind == kind)
        if not len(theirs):
            continue
        place, people = reference.position_mm[theirs], reference.subject[theirs]
        flat, shifted = _compared(slices.images[mine], reference.images[theirs], features, scale)
        for k, views in zip(mine, shifted, strict=True):
            here = slices.position_mm[k]
            part = slice(*np.searchsorted(place, (here - within_mm - 1e-6, here + within_mm + 1e-6)))
            apart = 1 - (flat[part] @ views.T).max(1)  # (slices near it,)
            if own:
                apart[people[part] == slices.subject[k]] = np.inf
            names, person = np.unique(people[part], return_inverse=True)
            best = np.full(len(names), np.inf)
            np.minimum.at(best, person, apart)
            ranked = np.sort(best[np.isfinite(best)])
            if len(ranked):
                distance[k], row[k] = ranked[0], theirs[part][apart.argmin()]
            if len(ranked) > FEWEST:
                relative[k] = ranked[0] / max(float(ranked[1 : NEXT + 1].mean()), 1e-6)
    return Nearest(distance, relative, row)


def _compared(
    mine: Tensor, theirs: Tensor, features: Features | None, scale: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    """(M, P) of the reference and for each of mine (shifts, P), all of unit length."""
    if features is not None and scale is not None:
        both = [_unit((_features(features, images) - scale[0]) / scale[1]) for images in (mine, theirs)]
        return both[1], list(both[0][:, None])
    patterns, flat = details(mine), details(theirs)
    far = max(1, round(flat.shape[-1] * SHIFT))
    moves = [(down, right) for down in range(-far, far + 1) for right in range(-far, far + 1)]
    return flat.reshape(len(flat), -1), _Shifted(patterns, moves)


class _Shifted(Sequence[np.ndarray]):
    """(shifts, P) for each pattern, made when it is asked for: all at once would not fit into memory."""

    def __init__(self, patterns: np.ndarray, moves: Sequence[tuple[int, int]]) -> None:
        self.patterns, self.moves = patterns, moves

    def __len__(self) -> int:
        return len(self.patterns)

    def __getitem__(self, k: int) -> np.ndarray:  # type: ignore[override]
        return np.stack([np.roll(self.patterns[k], move, (0, 1)).ravel() for move in self.moves])


def _features(features: Features, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        parts = [features(images[i : i + 256].float() / 255) for i in range(0, len(images), 256)]
    return torch.cat(parts).float().numpy()


def _scale(features: Features, reference: Slices) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) of up to 4,000 slices of the reference."""
    rows = np.linspace(0, len(reference) - 1, min(4000, len(reference))).astype(int)
    found = _features(features, reference.images[rows])
    spread = found.std(0)
    return found.mean(0), np.maximum(
        spread, 0.1 * spread.mean()
    ) + 1e-6  # a number that hardly varies is noise
