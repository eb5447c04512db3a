"""Tissues: held-out and training slices with the tissue of every pixel, kept beside the run's pairs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import atlas
from atlas.files import subject_path
from atlas.reference import tissue_slices
from atlas.sources import Scan, find_scans
from brainclip.config import Recipe, digest
from brainclip.data import PairDataset
from brainclip.errors import RecipeError
from brainclip.weights import hash_file

SEED = 41


class TissueData:
    """The slices of some people of one split whose tissues are known.

    data: PairDataset of the tables in the segmenter's `mix`. rows: (N,) indices in it. tissues: (N, H, W)
    uint8, numbers in atlas.reference.TISSUES. table: (N,) index of each row's pairs table.
    """

    def __init__(self, recipe: Recipe, split: str, *, people: int = 0) -> None:
        """people: at most so many of each table, drawn by a fixed seed; 0: all."""
        names = list(recipe.segmenter.mix)
        shares = list(recipe.segmenter.mix.values())
        self.data = PairDataset([recipe.pairs_folder(name) for name in names], split, shares)
        rows, tissues = [], []
        for number, name in enumerate(names):
            own = np.flatnonzero(self.data.folder_of == number)
            found = sorted({self.data.pairs[i].subject for i in own})
            if people:
                order = np.random.default_rng(SEED).permutation(len(found))[:people]
                found = sorted(found[i] for i in order)
            known = tissues_of(recipe, name, found)
            for i in own:
                if self.data.pairs[i].file_name in known:
                    rows.append(i)
                    tissues.append(known[self.data.pairs[i].file_name])
        self.names, self.rows = names, np.array(rows, dtype=int)
        self.tissues = torch.from_numpy(np.stack(tissues))
        self.table = self.data.folder_of[self.rows]
        self.subjects = np.array([self.data.pairs[i].subject for i in self.rows])

    def draw(self, batch: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Slices (B, 1, H, W) in [0, 1] and tissues (B, H, W) of step `step`, from (seed, step) alone."""
        generator = np.random.default_rng([seed, step])
        counts = generator.multinomial(batch, self.data.shares)
        parts = [
            generator.choice(np.flatnonzero(self.table == number), count)
            for number, count in enumerate(counts)
        ]
        chosen = np.concatenate(parts)
        return self.data.images(self.rows[chosen]), self.tissues[torch.from_numpy(chosen)]


def tissues_of(recipe: Recipe, name: str, subjects: Iterable[str]) -> dict[str, np.ndarray]:
    """File name -> tissues (H, W) uint8 of the slices of these subjects of the pairs table `name`.

    Cut again from scans and labels by atlas.reference, some seconds a person, and kept in
    <folder>/tissues/<name>; what a subject was made from is part of the key. RecipeError for a table without
    labels, PairsError and SourceError as there.
    """
    folder, place = recipe.pairs_folder(name), Path(recipe.folder) / "tissues" / name
    labels = recipe.segmenter.labels.get(name, "")
    scans: dict[str, list[Scan]] = {}
    found: dict[str, np.ndarray] = {}
    for subject in tqdm(subjects, desc=f"tissues, {name}", unit="subject"):
        key = tissue_key(folder, subject, labels)
        path = place / f"{subject}-{key}.npz"
        if not path.is_file():
            scans = scans or _scans_of(recipe, name)
            slices = tissue_slices(folder, subject, scans[subject], labels)
            place.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.savez_compressed(
                    file, names=np.array(list(slices)), tissues=np.stack(list(slices.values()))
                )
            temporary.replace(path)
        with np.load(path) as kept:
            found |= dict(zip(kept["names"].tolist(), kept["tissues"], strict=True))
    return found


def tissue_key(folder: Path, subject: str, labels: str) -> str:
    """What the tissues of a subject depend on: its scans, as its file in the pairs tells, and how they are
    made of `labels`."""
    package = Path(atlas.__file__).parent
    code = [hash_file(package / name) for name in ("reference.py", "tables/tissues.tsv")]
    return digest([labels, subject_path(folder, subject).read_text(encoding="utf-8"), code])


def _scans_of(recipe: Recipe, name: str) -> dict[str, list[Scan]]:
    """Subject -> scans of a pairs table."""
    table = recipe.pairs[name]
    place = Path(table.input) if table.input else Path(recipe.folder) / "cohort"
    masks = Path(table.masks) if table.masks else None
    scans, _ = find_scans(table.source, place, masks=masks, keep=table.keep)
    if name not in recipe.segmenter.labels and any(scan.labels is None for scan in scans):
        raise RecipeError(
            f"[segmenter] mix names {name!r}, whose scans have no true labels; say how the ids of its masks "
            f'are named, as in labels = {{ {name} = "muse" }}'
        )
    found: dict[str, list[Scan]] = {}
    for scan in scans:
        found.setdefault(scan.subject, []).append(scan)
    return found
