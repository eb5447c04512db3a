"""Slices with known lesions: marked synthetic ones, held-out people's with drawn ones, and real patients'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import Nifti1Image
from tqdm import tqdm

from atlas.facts import Facts
from atlas.lesions import lesion_in_slice, random_lesion
from atlas.prepare import Settings
from atlas.register import to_atlas
from atlas.slices import Geometry, cut, working_grid
from atlas.sources import Scan
from atlas.visit import prepare_visit, slices_of
from atlas.volume import load_labels
from brainclip.anomaly.cases import Case, Cases, together
from brainclip.config import as_dict, digest
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError, VolumeError
from brainclip.model import BrainCLIP
from brainclip.moving.markers import mark
from brainclip.moving_study.kept import arrays, in_8_bits, key_of
from brainclip.moving_study.recipe import MarkersRecipe, MovingRecipe

_MADE = ("kinds", "marks", "drawn", "strength", "contrasts", "between_mm")  # keys that a slice depends on
APART_MM = 9.0  # between the slices of a held-out person


def marked(model: BrainCLIP, recipe: MovingRecipe) -> Cases:
    """Synthetic healthy slices, and each of them with every marker, made once."""
    asked = recipe.markers
    made = {key: value for key, value in as_dict(asked).items() if key in _MADE}
    folder = Path(recipe.folder) / "markers" / key_of(model, made, recipe.seed)
    parts = []
    for person in tqdm(range(asked.pictures), desc="markers", unit="person"):
        for modality in asked.modalities:

            def make(modality: str = modality, person: int = person) -> dict[str, np.ndarray]:
                return _marked_slices(model, recipe, modality, person)

            kept = arrays(folder / f"{modality}-{person}.npz", make)
            facts = Facts("axial", float(kept["position"]), modality)
            rows = [Case("synthetic", "", str(person), facts, str(kind)) for kind in kept["kinds"]]
            parts.append(Cases(tuple(rows), kept["grey"].astype(np.float32) / 255, kept["masks"]))
    return together(parts)


def _marked_slices(
    model: BrainCLIP, recipe: MovingRecipe, modality: str, person: int
) -> dict[str, np.ndarray]:
    """grey (N, H, W) uint8, masks, kinds of one synthetic person, the healthy slice first; its position."""
    asked = recipe.markers
    rng = np.random.default_rng([recipe.seed, person, sum(modality.encode())])
    age, who = rng.integers(20, 86), ("woman", "man")[person % 2]
    place = round(float(rng.uniform(min(asked.between_mm), max(asked.between_mm))))
    prompt = f"axial {modality} slice, z = {place} mm, healthy {age}-year-old {who}"
    healthy = model.generate(prompt, seed=recipe.seed + person)[0]
    grey, masks, kinds = [healthy.pixels], [np.zeros(healthy.pixels.shape, dtype=bool)], [""]
    for turn in range(asked.marks + asked.drawn):
        kind, size, contrast, seed = _any_lesion(asked, person + turn, rng)
        strength = asked.strength if turn < asked.marks else 0.0
        try:
            made = mark(
                healthy,
                kind,
                size_mm=size,
                contrast=contrast,
                seed=seed,
                strength=strength,
                model=model.folder,
            )[0]
        except BrainclipError:
            continue  # no place for it in this slice
        if made.mask.any():
            grey.append(made.picture.pixels)
            masks.append(made.mask)
            kinds.append(kind)
    return {
        "grey": in_8_bits(np.stack(grey)),
        "masks": np.stack(masks),
        "kinds": np.array(kinds),
        "position": np.array(float(place)),
    }


def _any_lesion(asked: MarkersRecipe, turn: int, rng: np.random.Generator) -> tuple[str, float, float, int]:
    """Kind, by turns, and size, contrast and seed at random within the recipe's."""
    kind = list(asked.kinds)[turn % len(asked.kinds)]
    size = float(rng.uniform(min(asked.kinds[kind]), max(asked.kinds[kind])))
    return (
        kind,
        size,
        float(rng.uniform(min(asked.contrasts), max(asked.contrasts))),
        int(rng.integers(2**31)),
    )


def _drawn(
    pixels: np.ndarray, facts: Facts, what: tuple[str, float, float, int], geometry: Geometry
) -> tuple[np.ndarray, np.ndarray] | None:
    """An axial slice with a lesion (kind, size, contrast, seed) and its mask; None where it has no place."""
    kind, size, contrast, seed = what
    place, modality = float(facts.position_mm or 0), str(facts.modality)
    try:
        lesion = random_lesion(kind, size_mm=size, contrast=contrast, seed=seed, near=("axial", place))
    except BrainclipError:
        return None
    made, mask = lesion_in_slice(
        pixels, lesion, modality=modality, plane="axial", position_mm=place, geometry=geometry
    )
    return (made, mask) if mask.any() else None


def held_out(recipe: MovingRecipe, modality: str) -> Cases:
    """Axial slices of a contrast of validation people, APART_MM apart, each as it is and, where there is a
    place for one, with a drawn lesion of the recipe's kinds, sizes and contrasts; no decoder has seen it."""
    asked = recipe.markers
    data = PairDataset([Path(recipe.pairs[asked.held_out[modality]])], "validation")
    geometry = Geometry(data.size, float(data.geometry["spacing_mm"]))
    people = sorted({pair.subject for pair in data.pairs})[: asked.people]
    cases: list[tuple[Case, np.ndarray, np.ndarray]] = []
    turn = 0
    for number, name in enumerate(people):
        rng, last = np.random.default_rng([recipe.seed, number, 7]), -np.inf
        own = [row for row, pair in enumerate(data.pairs) if pair.subject == name]
        for row in sorted(own, key=lambda row: float(data.pairs[row].facts.position_mm or 0)):
            facts = data.pairs[row].facts
            place = float(facts.position_mm or 0)
            if (facts.plane, facts.modality) != ("axial", modality) or place < last + APART_MM:
                continue
            last, pixels = place, data.images([row])[0, 0].numpy()
            healthy = Case(asked.held_out[modality], "validation", name, facts)
            cases.append((healthy, pixels, np.zeros(pixels.shape, dtype=bool)))
            turn += 1
            what = _any_lesion(asked, turn, rng)
            found = _drawn(pixels, facts, what, geometry)
            if found is not None:
                sick = replace(healthy, kind=what[0], size_mm=what[1], contrast=what[2])
                cases.append((sick, *found))
    rows, images, masks = zip(*cases, strict=True)
    return Cases(rows, np.stack(images), np.stack(masks))


def patient(model: BrainCLIP, recipe: MovingRecipe, name: str) -> Cases:
    """Axial slices of a real patient's scans, prepared once as the training data is, with the mask.

    VolumeError for a scan that cannot be used.
    """
    one, every = recipe.real[name], recipe.markers.every_mm
    geometry = Geometry(model.size, float(model.card["spacing_mm"]))

    def make() -> dict[str, np.ndarray]:
        scans = [Scan("folder", name, "", modality, Path(path)) for modality, path in one.scans.items()]
        made, refused = prepare_visit(scans, Settings(geometry, every_mm=every, seed=0))
        if refused:
            raise VolumeError(f"{refused[0][0].path}: {refused[0][1]}")
        found: dict[str, list[Any]] = {"grey": [], "masks": [], "places": [], "modalities": []}
        mask, (affine, shape) = load_labels(Path(one.mask)), working_grid(geometry)
        lesion = Nifti1Image((np.asanyarray(mask.dataobj) > 0).astype(np.float32), mask.affine)
        for scan in made:
            inside = to_atlas(lesion, scan.registration, affine, shape)
            labels = Nifti1Image((np.asanyarray(inside.dataobj) > 0.5).astype(np.int32), affine)
            for plane, place, pixels in slices_of(scan.image, geometry, every):
                if plane == "axial":
                    found["grey"].append(in_8_bits(pixels))
                    found["masks"].append(cut(scan.image, labels, plane, place, geometry).labels > 0)
                    found["places"].append(place)
                    found["modalities"].append(scan.scan.modality)
        return {key: np.array(value) for key, value in found.items()}

    kept = arrays(Path(recipe.folder) / "real" / f"{name}-{digest([as_dict(one), every])}.npz", make)
    rows = []
    for place, modality, mask in zip(kept["places"], kept["modalities"], kept["masks"], strict=True):
        facts = Facts("axial", float(place), str(modality))
        rows.append(Case("real case", "", name, facts, one.kind if mask.any() else ""))
    return Cases(tuple(rows), kept["grey"].astype(np.float32) / 255, kept["masks"])
