"""PairDataset: the only torch Dataset. Slices and facts of one or more pairs folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from atlas.pairs import Pair, read_dataset, read_pairs
from brainclip.config import Recipe, TrainingRecipe
from brainclip.errors import PairsError


class PairDataset(Dataset[tuple[Tensor, Pair]]):
    """The pairs of one split of several folders.

    pairs: list of Pair; folder_of: (N,) index of each pair's folder; shares: (folders,) share of each batch.
    Images are read once and kept as 8-bit grey in memory (16 KB a slice at 128 x 128).
    """

    def __init__(self, folders: Sequence[Path], split: str, shares: Sequence[float] | None = None) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.datasets = [read_dataset(folder) for folder in self.folders]
        geometries = [dataset["geometry"] for dataset in self.datasets]
        if any(geometry != geometries[0] for geometry in geometries):
            raise PairsError(
                f"pairs folders differ in geometry: {geometries}; rebuild them with one size and spacing"
            )
        self.geometry = geometries[0]
        self.size = int(self.geometry["size"])
        self.split = split
        self.pairs: list[Pair] = []
        starts = [0]
        for folder in self.folders:
            found = read_pairs(folder, split)
            if not found:
                raise PairsError(
                    f"{folder}: no pairs in the split {split!r}; use more subjects or another seed"
                )
            self.pairs += found
            starts.append(len(self.pairs))
        self.folder_of = np.repeat(np.arange(len(self.folders)), np.diff(starts))
        self.starts = starts
        share = np.asarray(shares if shares is not None else np.diff(starts), dtype=float)
        self.shares = share / share.sum()
        self._cache = torch.zeros(len(self.pairs), self.size, self.size, dtype=torch.uint8)
        self._cached = np.zeros(len(self.pairs), dtype=bool)

    @property
    def hash(self) -> str:
        """The content hashes of the folders, joined."""
        return "+".join(str(dataset["content_sha256"]) for dataset in self.datasets)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Pair]:
        return self.images([index])[0], self.pairs[index]

    def images(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Slices (B, 1, H, W) float32 in [0, 1]."""
        for index in indices:
            if not self._cached[index]:
                self._cache[index] = self._read(int(index))
                self._cached[index] = True
        return self._cache[torch.as_tensor(np.asarray(indices))][:, None].float() / 255

    def _read(self, index: int) -> Tensor:
        path = self.folders[self.folder_of[index]] / self.pairs[index].file_name
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("L"))
        except (OSError, UnidentifiedImageError) as error:
            raise PairsError(f"{path}: cannot be read ({error}); run `brainclip pairs` again") from None
        if pixels.shape != (self.size, self.size):
            raise PairsError(f"{path}: {pixels.shape} pixels, the dataset says {self.size} x {self.size}")
        return torch.from_numpy(pixels)

    def draw(self, batch: int, seed: int, step: int) -> np.ndarray:
        """Indices (batch,) of step `step`: a function of (seed, step) alone. Each folder fills its share,
        without repeats as long as it has enough pairs."""
        generator = np.random.default_rng([seed, step])
        counts = generator.multinomial(batch, self.shares)
        parts = []
        for folder, count in enumerate(counts):
            size = self.starts[folder + 1] - self.starts[folder]
            parts.append(self.starts[folder] + generator.choice(size, size=count, replace=count > size))
        return generator.permutation(np.concatenate(parts))


def training_data(recipe: Recipe, stage: TrainingRecipe, split: str = "train") -> PairDataset:
    """The dataset of a stage: the pairs tables named in its `mix`, with their shares."""
    folders = [recipe.pairs_folder(name) for name in stage.mix]
    return PairDataset(folders, split, list(stage.mix.values()))
