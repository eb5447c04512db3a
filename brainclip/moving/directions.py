"""Directions of image embeddings along which a structure grows, among people of one age and sex.

Captions of the bundled model hardly tell its text tower how large a structure is, but its image embeddings
show it. So the effect of a structure's size is read from the embeddings of real and simulated slices, by
least squares, and kept in a file: directions.safetensors in the model's folder, or a file of this package
by the hash of the CLIP. Unit: a standard deviation of the size at a given age and sex; the study of moves
makes them so long that the pictures' ventricles differ by as much as people's (brainclip.moving_study.sizes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from brainclip.errors import PairsError, WeightsError
from brainclip.model import BrainCLIP
from brainclip.weights import read_weights

if TYPE_CHECKING:
    from brainclip.data import PairDataset

FILE = "directions.safetensors"
BUNDLED = Path(__file__).parent / "weights"
SIZES = {"small": -1.4, "normal": 0.0, "enlarged": 1.4}  # the mean of a normal's outer fifth, in deviations
KNOT_MM = 12.0  # between places at which a structure's effect is kept; in between it is linear
PLACES_MM = {"axial": (-60.0, 72.0), "coronal": (-96.0, 60.0), "sagittal": (-60.0, 60.0)}  # first, last
RIDGE = 0.003  # a slice; with all training slices, validation people's embeddings are told best by about this
BATCH = 64
LEAST = 60  # slices of a plane and contrast


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


def fit(
    model: BrainCLIP, data: Mapping[str, PairDataset], structures: Sequence[str], *, most: int = 4000
) -> dict[str, Tensor]:
    """ "plane/contrast/structure" -> (K, D) at the knots, of each contrast's training pairs, see `solved`.

    data: contrast -> pairs, of which at most `most` slices of a plane are taken, by a fixed draw.
    PairsError where too few slices say the size.
    """
    found = {}
    for modality, pairs in tqdm(data.items(), desc="directions", unit="contrast"):
        for plane in PLACES_MM:
            rows = [
                row
                for row, pair in enumerate(pairs.pairs)
                if (pair.facts.plane, pair.facts.modality) == (plane, modality)
                and set(structures) <= set(pair.facts.percentiles)
                and {"age", "sex"} <= set(pair.facts.known)
            ]
            rows = np.random.default_rng(0).permutation(rows)[:most].tolist()
            facts = [pairs.pairs[row].facts for row in rows]
            if len(rows) < LEAST:
                raise PairsError(f"{len(rows)} {plane} {modality} slices whose people's sizes are known")
            with torch.inference_mode():
                parts = [
                    model.clip.encode_image(pairs.images(rows[at : at + BATCH]))
                    for at in range(0, len(rows), BATCH)
                ]
            places = np.array([float(fact.position_mm or 0) for fact in facts])
            ages = np.array([fact.known["age"] for fact in facts], dtype=float)
            male = np.array([fact.known["sex"] == "male" for fact in facts])
            for structure in structures:
                scores = normal_scores(np.array([fact.percentiles[structure] for fact in facts]))
                effect = solved(torch.cat(parts).numpy(), plane, places, ages, male, scores)
                found[f"{plane}/{modality}/{structure}"] = torch.from_numpy(effect).float()
    return found


def solved(
    embeddings: np.ndarray,
    plane: str,
    places_mm: np.ndarray,
    ages: np.ndarray,
    male: np.ndarray,
    scores: np.ndarray,
) -> np.ndarray:
    """(K, D) by how much embeddings (N, D) move with a standard deviation of a size at the knots.

    scores: (N,) normal scores of the sizes among people of that age and sex. By least squares: embedding =
    at each knot a mean, an effect of age, its square, sex, and the size; RIDGE on the last.
    """
    at = hats(places_mm, plane)
    decades = ages / 10 - 5
    rest = [at * column[:, None] for column in (np.ones_like(decades), decades, decades**2, male)]
    table = np.concatenate([at * scores[:, None], *rest], 1)
    penalty = np.full(table.shape[1], 1e-6)
    penalty[: at.shape[1]] = RIDGE
    normal = table.T @ table + len(table) * np.diag(penalty)
    return np.asarray(np.linalg.solve(normal, table.T @ embeddings)[: at.shape[1]])


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
