"""Directions of image embeddings along which a structure grows, among people of one age and sex.

Captions of the bundled model hardly tell its text tower how large a structure is, but its image embeddings
show it. So the effect of a structure's size is read from the embeddings of real and simulated slices, by
least squares, and kept in a file: directions.safetensors in the model's folder, or a file of this package
by the hash of the CLIP. Unit: a standard deviation of the size at a given age and sex.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from brainclip.errors import PairsError
from brainclip.model import BrainCLIP
from brainclip.weights import read_weights

if TYPE_CHECKING:
    from brainclip.data import PairDataset

FILE = "directions.safetensors"
BUNDLED = Path(__file__).parent / "weights"
SIZES = {"small": -1.4, "normal": 0.0, "enlarged": 1.4}  # the mean of a normal's outer fifth, in deviations
UNIT_MM = 50.0  # places are counted in this unit
DEGREE = 2  # of the polynomial of the place by which a structure's effect changes
BATCH = 64


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
    powers = (position_mm / UNIT_MM) ** torch.arange(DEGREE + 1)
    return powers @ found[key].float()


def fit(
    model: BrainCLIP, data: Mapping[str, PairDataset], structures: Sequence[str], *, most: int = 1200
) -> dict[str, Tensor]:
    """ "plane/contrast/structure" -> (DEGREE + 1, D): powers of the place, of each contrast's training pairs.

    data: contrast -> pairs, of which at most `most` slices of a plane are taken, by a fixed draw. Embedding
    = a polynomial of the place + age + sex + the structure's normal score among people of its age and sex
    (times the place), solved together. PairsError where too few slices say the size.
    """
    found = {}
    for modality, pairs in tqdm(data.items(), desc="directions", unit="contrast"):
        for plane in ("axial", "coronal", "sagittal"):
            rows = [
                row
                for row, pair in enumerate(pairs.pairs)
                if (pair.facts.plane, pair.facts.modality) == (plane, modality)
                and set(structures) <= set(pair.facts.percentiles)
                and {"age", "sex"} <= set(pair.facts.known)
            ]
            rows = np.random.default_rng(0).permutation(rows)[:most].tolist()
            facts = [pairs.pairs[row].facts for row in rows]
            place = np.array([float(fact.position_mm or 0) for fact in facts]) / UNIT_MM
            if len(rows) < 20 * (DEGREE + 1):
                raise PairsError(f"{len(rows)} {plane} {modality} slices whose people's sizes are known")
            with torch.inference_mode():
                parts = [
                    model.clip.encode_image(pairs.images(rows[at : at + BATCH]))
                    for at in range(0, len(rows), BATCH)
                ]
            known = np.array([[fact.known["age"] / 10 - 5, fact.known["sex"] == "male"] for fact in facts])
            for structure in structures:
                score = normal_scores(np.array([fact.percentiles[structure] for fact in facts]))
                effect = np.stack([score * place**power for power in range(DEGREE + 1)], 1)
                rest = np.stack([place**power for power in range(2 * DEGREE + 1)], 1)
                table = np.concatenate([effect, rest, known], 1)
                solved, *_ = np.linalg.lstsq(table, torch.cat(parts).numpy(), rcond=None)
                found[f"{plane}/{modality}/{structure}"] = torch.from_numpy(solved[: DEGREE + 1]).half()
    return found


def normal_scores(percentiles: np.ndarray) -> np.ndarray:
    """Standard deviations from the middle of percentiles from 0 to 100, the ends within 2.3."""
    from scipy import stats

    return np.asarray(stats.norm.ppf(np.clip(percentiles, 1, 99) / 100))


def _read(model: BrainCLIP) -> dict[str, Tensor]:
    """The directions of a model; empty where it has none."""
    for path in (model.folder / FILE, BUNDLED / f"{model.clip.hash}.safetensors"):
        if path.is_file():
            return read_weights(path)
    return {}
