"""Matched: generated pictures, and real slices of the same planes, contrasts and places beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from brainclip.data import PairDataset
from brainclip.evaluate.prompts import Asked
from brainclip.evaluate.wanted import Wanted, wanted_of

SEED = 32
NEAR_MM = 6.0  # slices that are nearer to the asked place than this are as good as each other
TIMES = 4  # held-out slices for a picture


@dataclass(frozen=True)
class Slices:
    """images (N, 1, H, W) in [0, 1], and what they show, or should; without subjects each is its own."""

    images: Tensor
    wanted: Wanted

    @property
    def modality(self) -> np.ndarray:
        """(N,) contrasts."""
        return self.wanted.modality

    @property
    def subjects(self) -> np.ndarray | None:
        """(N,) names of people, None of pictures."""
        return self.wanted.subject

    def take(self, rows: np.ndarray) -> Slices:
        """The part at `rows`."""
        return Slices(self.images[rows], self.wanted.take(rows))


@dataclass(frozen=True)
class Matched:
    """made: pictures. real: held-out slices that match them. floor: as many training slices as pictures, of
    other people than `real`, which match them as well: what is between these and `real` no model mends."""

    made: Slices
    real: Slices
    floor: Slices


def match(
    images: Tensor,
    asked: Sequence[Asked],
    folders: Sequence[Sequence[Path]],
    held_out: PairDataset,
    training: PairDataset,
) -> Matched:
    """The Matched of pictures (N, 1, H, W) of N prompts. folders: of each, the pairs folders its decoder has
    learned from, whose slices are taken where they have the plane and contrast."""
    made = Slices(images, wanted_of(asked))
    real = slices_at(held_out, matching_rows(held_out, asked, folders, times=TIMES))
    return Matched(made, real, slices_at(training, matching_rows(training, asked, folders, times=1)))


def slices_at(data: PairDataset, rows: np.ndarray) -> Slices:
    """The slices of a dataset at `rows`."""
    pairs = [data.pairs[i] for i in rows]
    return Slices(data.images(rows), wanted_of([p.facts for p in pairs], [p.subject for p in pairs]))


def matching_rows(
    data: PairDataset, asked: Sequence[Asked], folders: Sequence[Sequence[Path]], *, times: int
) -> np.ndarray:
    """Indices of different slices with the planes and contrasts of the prompts, `times` for each in turn.

    Within 6 mm of the asked place at random, else the nearest that is not taken yet. A prompt whose plane and
    contrast no slice has, or no further one, adds none.
    """
    generator = np.random.default_rng(SEED)
    kinds: dict[tuple[str, str, Path], list[int]] = {}
    for i, pair in enumerate(data.pairs):
        folder = data.folders[data.folder_of[i]]
        kinds.setdefault((str(pair.facts.plane), str(pair.facts.modality), folder), []).append(i)
    place = np.array([pair.facts.position_mm or 0.0 for pair in data.pairs])
    free = np.ones(len(data.pairs), dtype=bool)
    chosen = []
    for _ in range(times):
        for row, known in zip(asked, folders, strict=True):
            own = [i for folder in known for i in kinds.get((row.plane, row.modality, Path(folder)), [])]
            other = [i for folder in data.folders for i in kinds.get((row.plane, row.modality, folder), [])]
            order = generator.permutation(np.array(own or other, dtype=int))
            order = order[free[order]]
            if len(order):
                off = np.abs(place[order] - row.position_mm)
                best = int(order[np.argmin(np.maximum(off, NEAR_MM))])
                free[best] = False
                chosen.append(best)
    return np.array(chosen, dtype=int)
