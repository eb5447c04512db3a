"""Slices to measure detectors on: of held-out people, as they are and with simulated lesions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from atlas.facts import Facts
from atlas.lesions import lesion_in_slice, random_lesion
from atlas.slices import PLANES, Geometry
from brainclip.anomaly.covariates import covariates
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError

# positions (mm) between which slices are taken: there is a place for every lesion; sagittal on either side
BETWEEN = {"axial": (-12.0, 42.0), "coronal": (-60.0, 30.0), "sagittal": (10.0, 42.0)}
LEAST_MM2 = 30.0  # of a lesion in its slice
TRIES = 6


@dataclass(frozen=True)
class Sweep:
    """Sizes (mm) at full contrast and contrasts at the middle size, of one kind of lesion."""

    sizes: tuple[float, ...]
    contrasts: tuple[float, ...] = ()

    def settings(self) -> list[tuple[float, float]]:
        """(size, contrast) of every step."""
        middle = self.sizes[len(self.sizes) // 2]
        return [(size, 1.0) for size in self.sizes] + [(middle, contrast) for contrast in self.contrasts]


@dataclass(frozen=True)
class Case:
    """One slice. source: the pairs it is from, or "real case"; kind: of lesion, "" for a healthy slice."""

    source: str
    split: str
    subject: str
    facts: Facts
    kind: str = ""
    size_mm: float = 0.0
    contrast: float = 0.0

    @property
    def group(self) -> tuple[str, str]:
        """Contrast and plane."""
        return str(self.facts.modality), str(self.facts.plane)


@dataclass(frozen=True)
class Cases:
    """rows: N cases; images (N, H, W) float32 in [0, 1]; masks (N, H, W) bool of their lesions."""

    rows: tuple[Case, ...]
    images: np.ndarray
    masks: np.ndarray

    def of(self, chosen: np.ndarray) -> Cases:
        """Those of a mask or of row numbers."""
        numbers = np.arange(len(self.rows))[chosen]
        return Cases(tuple(self.rows[i] for i in numbers), self.images[numbers], self.masks[numbers])

    @property
    def covariates(self) -> np.ndarray:
        return covariates([row.facts for row in self.rows])

    def column(self, name: str) -> np.ndarray:
        """(N,) an attribute of the cases, such as "kind"."""
        return np.array([getattr(row, name) for row in self.rows])


def save_cases(cases: Cases, path: Path) -> None:
    """Write cases whole or not at all; grey values are rounded to 8 bits, as those of pairs are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(replace(row, facts=replace(row.facts, volumes={}, regions={}))) for row in cases.rows]
    partial = path.with_suffix(".part.npz")
    images = (cases.images * 255).round().astype(np.uint8)
    np.savez_compressed(partial, rows=json.dumps(rows), images=images, masks=cases.masks)
    partial.replace(path)


def read_cases(path: Path) -> Cases:
    """What save_cases has written."""
    with np.load(path) as kept:
        rows = json.loads(str(kept["rows"]))
        made = tuple(Case(**(row | {"facts": Facts.from_dict(row["facts"])})) for row in rows)
        return Cases(made, kept["images"].astype(np.float32) / 255, kept["masks"])


def together(parts: Sequence[Cases]) -> Cases:
    """All cases in a row."""
    return Cases(
        tuple(row for part in parts for row in part.rows),
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.masks for part in parts]),
    )


def make_cases(
    data: PairDataset,
    source: str,
    sweep: dict[str, Sweep],
    *,
    modalities: Sequence[str],
    slices: int,
    people: int,
    seed: int,
) -> Cases:
    """`slices` healthy slices of these contrasts of each of the first `people` (0: all), and a lesioned slice
    for every step of the sweep, drawn into one of them; the same for equal arguments. Planes and contrasts
    take turns.
    """
    geometry = Geometry(data.size, float(data.geometry["spacing_mm"]))
    names = sorted({pair.subject for pair in data.pairs})
    names = names[: people or len(names)]
    rows: list[Case] = []
    images, masks = [], []
    for number, name in enumerate(names):
        chosen = _healthy_slices(data, name, modalities, slices, seed + number)
        healthy = data.images(chosen)[:, 0].numpy()
        for image, index in zip(healthy, chosen, strict=True):
            rows.append(Case(source, data.split, name, data.pairs[index].facts))
            images.append(image)
            masks.append(np.zeros(image.shape, dtype=bool))
        steps = [(kind, *step) for kind, one in sweep.items() for step in one.settings()]
        for turn, (kind, size, contrast) in enumerate(steps):
            found = None
            for attempt in range(TRIES):
                i = (turn + number + attempt) % len(chosen)
                facts = data.pairs[chosen[i]].facts
                found = _lesioned(healthy[i], facts, kind, size, contrast, geometry, seed=number * 997 + turn)
                if found is not None:
                    break
            if found is not None:
                rows.append(Case(source, data.split, name, facts, kind, size, contrast))
                images.append(found[0])
                masks.append(found[1])
    return Cases(tuple(rows), np.stack(images), np.stack(masks))


def _healthy_slices(
    data: PairDataset, name: str, modalities: Sequence[str], count: int, seed: int
) -> np.ndarray:
    """Row numbers of slices of a person, planes and contrasts in turn, at random within BETWEEN."""
    generator = np.random.default_rng(seed)
    own = [i for i, p in enumerate(data.pairs) if p.subject == name and p.facts.modality in modalities]
    kinds: dict[tuple[str, str], list[int]] = {}
    for i in own:
        facts = data.pairs[i].facts
        low, high = BETWEEN[str(facts.plane)]
        place = float(facts.position_mm or 0)
        if low <= (abs(place) if facts.plane == "sagittal" else place) <= high:
            kinds.setdefault((str(facts.modality), str(facts.plane)), []).append(i)
    order = sorted(kinds, key=lambda kind: (kind[0], PLANES.index(kind[1])))
    pools = [list(generator.permutation(kinds[kind])) for kind in order]
    chosen: list[int] = []
    while len(chosen) < count and any(pools):
        chosen += [int(pool.pop()) for pool in pools if pool][: count - len(chosen)]
    if not chosen:
        raise BrainclipError(f"{name} has no slices through the middle of the brain")
    return np.array(chosen)


def _lesioned(
    image: np.ndarray, facts: Facts, kind: str, size: float, contrast: float, geometry: Geometry, *, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Slice and mask, or None where too little of such a lesion can be seen in it."""
    plane, place, modality = str(facts.plane), float(facts.position_mm or 0), str(facts.modality)
    try:
        lesion = random_lesion(kind, size_mm=size, contrast=contrast, seed=seed, near=(plane, place))
    except BrainclipError:
        return None
    made, mask = lesion_in_slice(
        image, lesion, modality=modality, plane=plane, position_mm=place, geometry=geometry
    )
    enough = LEAST_MM2 if kind != "atrophy" else 1.0
    return (made, mask) if mask.sum() * geometry.spacing_mm**2 >= enough else None
