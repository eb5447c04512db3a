"""Is a stack of synthetic slices one brain? Beside real people's slices, and slices of different people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from brainclip.config import as_dict
from brainclip.data import PairDataset
from brainclip.errors import PairsError
from brainclip.evaluate.figures import average, rank_correlation
from brainclip.model import BrainCLIP
from brainclip.moving.stacks import correlation_at, stack, through_plane
from brainclip.moving_study.kept import arrays, in_8_bits, key_of
from brainclip.moving_study.recipe import MovingRecipe, StacksRecipe

AGES = (25, 70, 45, 60, 35, 80)
DISTANCES_MM = (3.0, 6.0, 9.0, 12.0, 18.0, 24.0)  # between slices that are compared


def run_stacks(model: BrainCLIP, recipe: MovingRecipe) -> dict[str, Any]:
    """Consistency of synthetic stacks, as they are made and without their parts, and of real ones.

    chosen: the length of the noise, of those tried, whose stacks' correlations over DISTANCES_MM are nearest
    to those of the validation people, by mean absolute difference.
    """
    asked, pairs = recipe.stacks, Path(recipe.pairs[recipe.stacks.pairs])
    real = {split: real_stacks(pairs, asked, split) for split in ("test", "validation")}
    sets = {"real validation people": real["validation"], "real test people": real["test"]}
    tried = {
        length: made_stacks(model, recipe, noise_mm=length, people=asked.tried) for length in asked.noise_mm
    }
    wanted = curve(real["validation"], asked.every_mm).mean(0)
    away = {
        length: float(np.abs(curve(one, asked.every_mm).mean(0) - wanted).mean())
        for length, one in tried.items()
    }
    chosen = min(away, key=lambda length: away[length])
    made = made_stacks(model, recipe, noise_mm=chosen)
    sets[f"synthetic, noise over {chosen:g} mm (chosen)"] = made
    sets |= {f"synthetic, noise over {length:g} mm": one for length, one in tried.items() if length != chosen}
    sets["synthetic, one noise"] = made_stacks(model, recipe, noise_mm=np.inf, people=1)
    sets["synthetic (chosen), each slice another person's"] = mixed(made)
    sets["real test, each slice another person's"] = mixed(real["test"])
    report: dict[str, Any] = {
        "chosen": chosen,
        "away": {f"{length:g}": value for length, value in away.items()},
        "distances_mm": distances(asked.every_mm),
        "sets": {name: _figures(grey, asked, float(model.card["spacing_mm"])) for name, grey in sets.items()},
    }
    if recipe.judge:
        from brainclip.evaluate.judge import Judge

        judge, places = Judge.load(Path(recipe.judge)), places_of(asked)
        for name in list(sets)[1:3]:
            images = torch.from_numpy(sets[name].astype(np.float32) / 255)
            said = [judge.verdicts(one[:, None]).position_mm for one in images]
            order = [rank_correlation(places, one) for one in said]
            found = report["sets"][name]
            found["place_order"] = average(np.array(order))
            found["place_error_mm"] = average(np.array([np.abs(one - places).mean() for one in said]))
    return report


def _figures(grey: np.ndarray, asked: StacksRecipe, spacing_mm: float) -> dict[str, Any]:
    """Means over people of the correlations by distance and of the step; least and most of the former."""
    found, step = curve(grey, asked.every_mm), []
    for one in grey:
        step.append(through_plane(one / 255.0, asked.every_mm, spacing_mm)["step"])
    return {
        "correlation": [average(column) for column in found.T],
        "range": np.round([found.min(0), found.max(0)], 3).tolist(),
        "step": average(np.array(step)),
    }


def distances(every_mm: float) -> list[float]:
    """Those of DISTANCES_MM that slices every_mm apart have; PairsError for none."""
    found = [one for one in DISTANCES_MM if abs(one / every_mm - round(one / every_mm)) < 1e-6]
    if not found:
        raise PairsError(f"slices every {every_mm:g} mm lie at none of {DISTANCES_MM} mm; take 3 or 6")
    return found


def curve(grey: np.ndarray, every_mm: float) -> np.ndarray:
    """(people, distances) correlation of stacks (people, N, H, W) of slices that lie so far apart."""
    apart = [round(one / every_mm) for one in distances(every_mm)]
    apart = [one for one in apart if one < grey.shape[1]]
    return np.array([[correlation_at(one.astype(np.float32), k) for k in apart] for one in grey])


def places_of(asked: StacksRecipe) -> np.ndarray:
    """(N,) positions in mm of a stack's slices."""
    count = int((asked.to_mm - asked.from_mm) / asked.every_mm + 1e-6) + 1
    return asked.from_mm + asked.every_mm * np.arange(count)


def made_stacks(model: BrainCLIP, recipe: MovingRecipe, *, noise_mm: float, people: int = 0) -> np.ndarray:
    """(people, N, H, W) uint8 of synthetic people, 0: the recipe's, made once; each is kept as NIfTI, too."""
    asked = recipe.stacks
    same = as_dict(asked) | {"people": 0, "noise_mm": 0, "tried": 0}
    folder = (
        Path(recipe.folder) / "stacks" / f"{noise_mm:g}-{key_of(model, same, recipe.seed, str(noise_mm))}"
    )
    found = []
    for person in tqdm(range(people or asked.people), desc=f"stacks, {noise_mm:g} mm", unit="person"):
        age = AGES[person % len(AGES)]

        def make(person: int = person, age: int = age) -> dict[str, np.ndarray]:
            made = stack(
                f"axial {asked.modality} slice, healthy {age}-year-old {('woman', 'man')[person % 2]}",
                from_mm=asked.from_mm,
                to_mm=asked.to_mm,
                every_mm=asked.every_mm,
                seed=recipe.seed + person,
                noise_mm=noise_mm,
                model=model.folder,
            )
            made.save(folder / f"{person}.nii.gz")
            return {"grey": in_8_bits(made.pixels)}

        found.append(arrays(folder / f"{person}.npz", make)["grey"])
    return np.stack(found)


def real_stacks(folder: Path, asked: StacksRecipe, split: str) -> np.ndarray:
    """(people, N, H, W) uint8 of a split's people with a slice at every place. PairsError below two."""
    data, places = PairDataset([folder], split), places_of(asked)
    rows: dict[str, dict[float, int]] = {}
    for row, pair in enumerate(data.pairs):
        if pair.facts.plane == "axial" and pair.facts.modality == asked.modality:
            rows.setdefault(pair.subject, {})[float(pair.facts.position_mm or 0)] = row
    found = []
    for of_person in rows.values():
        own = np.array(sorted(of_person))
        nearest = [own[np.abs(own - place).argmin()] for place in places]
        if np.abs(np.array(nearest) - places).max() <= asked.every_mm / 2 and len(set(nearest)) == len(
            places
        ):
            found.append(in_8_bits(data.images([of_person[place] for place in nearest])[:, 0].numpy()))
    if len(found) < 2:
        raise PairsError(
            f"{folder}: {len(found)} {split} people with axial {asked.modality} slices at every place"
        )
    return np.stack(found)


def mixed(grey: np.ndarray) -> np.ndarray:
    """Stacks (people, N, H, W) of which each slice is of the person after the one of the slice below."""
    people, count = grey.shape[:2]
    return np.stack([grey[(first + np.arange(count)) % people, np.arange(count)] for first in range(people)])
