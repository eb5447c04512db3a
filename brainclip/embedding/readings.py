"""Sizes of structures read from image embeddings, for what captions ask for but hardly tell the text tower.

For each plane, contrast and structure: ridge regression of the size, as a normal score among people of the
same age and sex, on what is left of the embedding when the mean at its place is taken off. Learned from
training people; only at places where the structure is seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from atlas.facts import Facts
from atlas.structures import summed
from brainclip.embedding.rows import Cohort
from brainclip.model import BrainCLIP
from brainclip.weights import read_weights, write_weights

KNOWN = Path(__file__).parent / "known"
DEGREE = 4  # of the polynomial of the place
UNIT_MM = 50.0
PENALTY = 0.1  # of the mean variance of a dimension; 0.01 to 1 differ little on validation people, see LOG.md
SEEN_MM2 = 100.0  # area from which a structure is seen, in half of the slices of a place
STEP_MM = 6.0  # of those places
FEWEST = 200  # slices
SIGNS = {"enlarged": 1.0, "small": -1.0}


@dataclass(frozen=True)
class Reading:
    """places: (DEGREE + 1, D) mean embedding as a polynomial of the place; weights: (D,); between: the first
    and last place in mm."""

    places: np.ndarray
    weights: np.ndarray
    between: tuple[float, float]

    def of(self, embeddings: np.ndarray, position_mm: np.ndarray) -> np.ndarray:
        """(N,) normal scores of the size, nan where the structure is not seen; embeddings: (N, D)."""
        read = (embeddings - powers(position_mm) @ self.places) @ self.weights
        low, high = self.between
        return np.where((position_mm >= low) & (position_mm <= high), read, np.nan)


@dataclass(frozen=True)
class Readings:
    """ "plane/contrast/structure" -> Reading."""

    known: Mapping[str, Reading] = field(default_factory=dict)

    @classmethod
    def load(cls, model: BrainCLIP) -> Readings:
        """Those of a model, from its folder or the bundled ones; none if there are none."""
        for path in (model.folder / "readings.safetensors", KNOWN / f"{model.clip.hash}.safetensors"):
            if path.is_file():
                return cls.read(path)
        return cls()

    @classmethod
    def read(cls, path: Path) -> Readings:
        """Those of a file that save() has written. WeightsError where it is missing or damaged."""
        found = {key: value.double().numpy() for key, value in read_weights(path).items()}
        names = sorted({key.rpartition("/")[0] for key in found})
        return cls(
            {
                name: Reading(
                    found[f"{name}/places"],
                    found[f"{name}/weights"],
                    (float(found[f"{name}/between"][0]), float(found[f"{name}/between"][1])),
                )
                for name in names
            }
        )

    def save(self, path: Path) -> None:
        """Write what load() reads."""
        state = {}
        for name, one in self.known.items():
            state[f"{name}/places"] = torch.from_numpy(one.places).float()
            state[f"{name}/weights"] = torch.from_numpy(one.weights).float()
            state[f"{name}/between"] = torch.tensor(one.between)
        write_weights(state, path)

    def scores(
        self,
        sizes: Mapping[str, str],
        columns: Mapping[str, np.ndarray],
        rows: np.ndarray,
        embeddings: np.ndarray,
    ) -> np.ndarray:
        """(N,) how well slices have the sizes asked for, larger is better; nan where one is not read there.

        sizes: structure -> "small", "normal" or "enlarged". columns: of a cohort; rows: (N,) which of them;
        embeddings: (N, D) of these.
        """
        place = columns["position_mm"][rows].astype(float)
        kinds = np.array([f"{columns['plane'][row]}/{columns['contrast'][row]}" for row in rows])
        total = np.zeros(len(rows))
        for structure, size in sizes.items():
            read = np.full(len(rows), np.nan)
            for kind in np.unique(kinds):
                known = self.known.get(f"{kind}/{structure}")
                here = kinds == kind
                if known is not None:
                    read[here] = known.of(embeddings[here].astype(np.float64), place[here])
            total += SIGNS[size] * read if size in SIGNS else -np.abs(read)
        return total


def fit(cohort: Cohort, seen: Mapping[str, tuple[float, float]], structures: Sequence[str]) -> Readings:
    """The readings of a cohort's people, for each plane and contrast with FEWEST slices of known sizes.

    seen: "plane/structure" -> the places in mm between which it is seen, as seen_between says.
    """
    columns = cohort.columns
    place = columns["position_mm"].astype(float)
    percentiles = [json.loads(text) if text else {} for text in columns["percentiles"]]
    found = {}
    for plane, contrast in sorted(set(zip(columns["plane"], columns["contrast"], strict=True))):
        for structure in structures:
            if f"{plane}/{structure}" not in seen:
                continue
            low, high = seen[f"{plane}/{structure}"]
            size = np.array([known.get(structure, np.nan) for known in percentiles])
            of_kind = (columns["plane"] == plane) & (columns["contrast"] == contrast)
            kept = np.flatnonzero(of_kind & (place >= low) & (place <= high) & np.isfinite(size))
            if len(kept) >= FEWEST:
                found[f"{plane}/{contrast}/{structure}"] = _solved(
                    cohort.embeddings[kept].astype(np.float64), place[kept], size[kept], (low, high)
                )
    return Readings(found)


def _solved(
    embeddings: np.ndarray, place: np.ndarray, percentiles: np.ndarray, between: tuple[float, float]
) -> Reading:
    places, *_ = np.linalg.lstsq(powers(place), embeddings, rcond=None)
    rest = embeddings - powers(place) @ places
    score = stats.norm.ppf(np.clip(percentiles, 1, 99) / 100)
    square = rest.T @ rest / len(rest)
    ridge = PENALTY * np.trace(square) / len(square) * np.eye(len(square))
    weights = np.linalg.solve(square + ridge, rest.T @ (score - score.mean()) / len(rest))
    return Reading(places, weights, between)


def seen_between(facts: Sequence[Facts], structures: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The first and last place (mm, in steps of STEP_MM) at which half of the slices show SEEN_MM2 of a
    structure, by "plane/structure"; left out where there is none."""
    areas: dict[tuple[str, float], list[Mapping[str, float]]] = {}
    for fact in facts:
        place = round(float(fact.position_mm or 0) / STEP_MM) * STEP_MM
        areas.setdefault((str(fact.plane), place), []).append(summed(fact.regions))
    found: dict[str, tuple[float, float]] = {}
    for structure in structures:
        for plane in sorted({plane for plane, _ in areas}):
            places = [
                place
                for (name, place), rows in areas.items()
                if name == plane and np.median([row.get(structure, 0.0) for row in rows]) >= SEEN_MM2
            ]
            if places:
                found[f"{plane}/{structure}"] = (min(places), max(places))
    return found


def powers(position_mm: np.ndarray) -> np.ndarray:
    """(N, DEGREE + 1) powers of the place."""
    return np.stack([(position_mm / UNIT_MM) ** power for power in range(DEGREE + 1)], axis=1)
