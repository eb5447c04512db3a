"""Fits the directions of brainclip.sizes to training people's slices, by least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from brainclip.errors import PairsError
from brainclip.model import BrainCLIP
from brainclip.sizes import PLACES_MM, hats

if TYPE_CHECKING:
    from brainclip.data import PairDataset

RIDGE = 0.003  # a slice; with all training slices, validation people's embeddings are told best by about this
BATCH = 64
LEAST = 60  # slices of a plane and contrast


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
