"""PairDataset: the only torch Dataset. Slices and facts of pairs folders, whether files or shards."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from atlas.facts import Facts, mirrored
from atlas.records import Pair, read_dataset, read_pairs, read_picture
from brainclip.config import Recipe, TrainingRecipe, digest
from brainclip.config_pairs import AugmentRecipe
from brainclip.errors import PairsError

GROUP = 16  # slices that are alike in a batch
CELL_MM = 6.0


class PairDataset(Dataset[tuple[Tensor, Pair]]):
    """The pairs of one split of several folders.

    pairs: list of Pair; folder_of: (N,) index of each pair's folder; shares: (folders,) share of each batch.
    slices: of each folder the first so many of `nested`, 0: all. Images are read once and kept as 8-bit grey
    in memory (16 KB a slice at 128 x 128).
    """

    def __init__(
        self, folders: Sequence[Path], split: str, shares: Sequence[float] | None = None, *, slices: int = 0
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.datasets = [read_dataset(folder) for folder in self.folders]
        geometries = [dataset["geometry"] for dataset in self.datasets]
        if any(geometry != geometries[0] for geometry in geometries):
            raise PairsError(
                f"pairs folders differ in geometry: {geometries}; rebuild them with one size and spacing"
            )
        self.geometry = geometries[0]
        self.size = int(self.geometry["size"])
        self.split, self.slices = split, slices
        self.pairs: list[Pair] = []
        starts = [0]
        for folder in self.folders:
            found = read_pairs(folder, split)
            if not found:
                raise PairsError(
                    f"{folder}: no pairs in the split {split!r}; use more subjects or another seed"
                )
            if slices > len(found):
                raise PairsError(f"{folder}: {len(found)} slices in the split {split!r}, {slices} are wanted")
            self.pairs += nested(found)[:slices] if slices else found
            starts.append(len(self.pairs))
        self.folder_of = np.repeat(np.arange(len(self.folders)), np.diff(starts))
        self.starts = starts
        share = np.asarray(shares if shares is not None else np.diff(starts), dtype=float)
        self.shares = share / share.sum()
        self._cache = torch.zeros(len(self.pairs), self.size, self.size, dtype=torch.uint8)
        self._cached = np.zeros(len(self.pairs), dtype=bool)

    @property
    def contents(self) -> list[str]:
        """Of each folder the hash of its content, and "@n" where n of its slices were chosen."""
        chosen = f"@{self.slices}" if self.slices else ""
        return [f"{dataset['content_sha256']}{chosen}" for dataset in self.datasets]

    @property
    def hash(self) -> str:
        """The contents, joined."""
        return "+".join(self.contents)

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
        folder = self.folders[self.folder_of[index]]
        path = folder / self.pairs[index].file_name
        try:
            with Image.open(io.BytesIO(read_picture(folder, self.pairs[index]))) as image:
                pixels = np.array(image.convert("L"))
        except (OSError, UnidentifiedImageError) as error:
            raise PairsError(f"{path}: cannot be read ({error}); run `brainclip pairs` again") from None
        if pixels.shape != (self.size, self.size):
            raise PairsError(f"{path}: {pixels.shape} pixels, the dataset says {self.size} x {self.size}")
        return torch.from_numpy(pixels)

    def augmented(
        self, indices: Sequence[int] | np.ndarray, how: AugmentRecipe, *, seed: int, step: int
    ) -> tuple[Tensor, list[Facts]]:
        """Slices (B, 1, H, W) in [0, 1] changed in their geometry, and the facts that are true of them.

        Each slice's change is a function of (seed, step, index) alone. Areas of regions are left as they are.
        """
        images, rows = self.images(indices), [self.pairs[index].facts for index in indices]
        if how == AugmentRecipe():
            return images, rows
        pixels_per_mm = 1 / float(self.geometry["spacing_mm"])
        changed = []
        for row, index in enumerate(indices):
            generator = np.random.default_rng([seed, step, int(index), 2])
            image = images[row : row + 1]
            if generator.random() < how.mirror:
                image = mirror(image) if rows[row].plane != "sagittal" else image
                rows[row] = mirrored(rows[row])
            changed.append(warp(image, how, generator, pixels_per_mm=pixels_per_mm))
        return torch.cat(changed), rows

    def draw(self, batch: int, seed: int, step: int, *, alike: float = 0.0) -> np.ndarray:
        """Indices (batch,) of step `step`: a function of (seed, step) alone. Each folder fills its share,
        without repeats as long as it has enough pairs.

        alike: share of the batch in groups of 16 slices that have plane, contrast and place in common, so
        that only the person tells them apart.
        """
        generator = np.random.default_rng([seed, step])
        groups = min(round(alike * batch / GROUP), batch // GROUP)
        counts = generator.multinomial(batch - groups * GROUP, self.shares)
        parts = []
        for folder, count in enumerate(counts):
            size = self.starts[folder + 1] - self.starts[folder]
            parts.append(self.starts[folder] + generator.choice(size, size=count, replace=count > size))
        for folder in generator.choice(len(self.shares), size=groups, p=self.shares):
            first = generator.integers(self.starts[folder], self.starts[folder + 1])
            near = self._neighbours[int(self.cells[first])]
            parts.append(generator.choice(near, size=GROUP, replace=len(near) < GROUP))
        return generator.permutation(np.concatenate(parts))

    @cached_property
    def cells(self) -> np.ndarray:
        """(N,) the cell of each slice: folder, plane, contrast and place on a grid of 6 mm."""
        places = [
            (
                self.folder_of[i],
                pair.facts.plane,
                pair.facts.modality,
                (pair.facts.position_mm or 0) // CELL_MM,
            )
            for i, pair in enumerate(self.pairs)
        ]
        numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
        return np.array([numbers[place] for place in places])

    @cached_property
    def _neighbours(self) -> list[np.ndarray]:
        """The slices of each cell."""
        order = np.argsort(self.cells, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.cells))[:-1])


def nested(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs in a fixed order in which kinds (plane and contrast) take turns, and in each kind people.

    So the first n are about balanced, and are among the first of any larger n.
    """
    kinds: dict[tuple[str, str], dict[str, list[Pair]]] = {}
    for pair in sorted(pairs, key=lambda pair: digest([pair.file_name])):
        kind = str(pair.facts.plane), str(pair.facts.modality)
        kinds.setdefault(kind, {}).setdefault(pair.subject, []).append(pair)
    return _turns([_turns(list(kinds[kind].values())) for kind in sorted(kinds)])


def _turns(rows: Sequence[Sequence[Pair]]) -> list[Pair]:
    """The first of each row, then the second of each that has one, and so on."""
    return [pair for turn in zip_longest(*rows) for pair in turn if pair is not None]


def mirror(images: Tensor) -> Tensor:
    """Axial or coronal slices (B, 1, H, W) with the sides changed about x = 0, which is column W // 2."""
    flipped = images.flip(-1)
    return flipped if images.shape[-1] % 2 else flipped.roll(1, -1)


def warp(
    image: Tensor, how: AugmentRecipe, generator: np.random.Generator, *, pixels_per_mm: float
) -> Tensor:
    """A slice (1, 1, H, W) turned, scaled, shifted and bent within the bounds; outside it is black."""
    turn = np.deg2rad(generator.uniform(-how.rotate_degrees, how.rotate_degrees))
    scale = np.exp(generator.uniform(-1, 1) * np.log1p(how.scale))
    size = image.shape[-1]
    per_mm = 2 * pixels_per_mm / size  # grid_sample counts from -1 to 1
    shift = generator.uniform(-1, 1, 2) * how.shift_mm * per_mm
    bend = generator.uniform(-1, 1, (1, 2, 5, 5)) * how.elastic_mm * per_mm
    if not (turn or scale != 1 or shift.any() or bend.any()):
        return image  # sampling on the same grid would still round
    matrix = np.array([[np.cos(turn), -np.sin(turn), shift[0]], [np.sin(turn), np.cos(turn), shift[1]]])
    matrix[:, :2] /= scale
    grid = functional.affine_grid(
        torch.from_numpy(matrix)[None].float(), [1, 1, size, size], align_corners=False
    )
    field = functional.interpolate(
        torch.from_numpy(bend).float(), size=(size, size), mode="bicubic", align_corners=True
    )
    grid = grid + field.permute(0, 2, 3, 1)  # (1, 2, H, W) -> (1, H, W, 2)
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def training_data(recipe: Recipe, stage: TrainingRecipe, split: str = "train") -> PairDataset:
    """The dataset of a stage: the pairs tables named in its `mix`, with their shares."""
    folders = [recipe.pairs_folder(name) for name in stage.mix]
    slices = stage.slices if split == "train" else 0
    return PairDataset(folders, split, list(stage.mix.values()), slices=slices)
