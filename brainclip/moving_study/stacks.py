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
from brainclip.moving.stacks import NOISE_MM, SMOOTH_MM, stack, through_plane
from brainclip.moving_study.kept import arrays, in_8_bits, key_of
from brainclip.moving_study.recipe import MovingRecipe, StacksRecipe

AGES = (25, 70)
FIGURES = ("correlation", "step")


def run_stacks(model: BrainCLIP, recipe: MovingRecipe) -> dict[str, Any]:
    """Consistency of synthetic stacks, as they are made and without their parts, and of real ones."""
    asked, spacing = recipe.stacks, float(model.card["spacing_mm"])
    pairs = Path(recipe.pairs[asked.pairs])
    real, made = real_stacks(pairs, asked, "test"), made_stacks(model, recipe)
    sets = {
        "real test people": real,
        "real validation people": real_stacks(pairs, asked, "validation"),
        "synthetic": made,
        **{
            f"synthetic, noise over {length:g} mm": made_stacks(model, recipe, noise_mm=length)
            for length in (*asked.noise_mm, np.inf)
            if length != NOISE_MM
        },
        "synthetic, captions not smoothed": made_stacks(model, recipe, smooth_mm=0.0),
        "synthetic, each slice another person's": mixed(made),
        "real test, each slice another person's": mixed(real),
    }
    report: dict[str, Any] = {}
    for name, grey in sets.items():
        values = [through_plane(one / 255.0, asked.every_mm, spacing) for one in grey]
        report[name] = {key: average(np.array([value[key] for value in values])) for key in FIGURES}
    if recipe.judge:
        from brainclip.evaluate.judge import Judge

        judge, places = Judge.load(Path(recipe.judge)), places_of(asked)
        for name in ("real test people", "synthetic"):
            images = torch.from_numpy(sets[name].astype(np.float32) / 255)
            said = [judge.verdicts(one[:, None]).position_mm for one in images]
            order = [rank_correlation(places, one) for one in said]
            report[name]["place_order"] = average(np.array(order))
            report[name]["place_error_mm"] = average(np.array([np.abs(one - places).mean() for one in said]))
    return report


def places_of(asked: StacksRecipe) -> np.ndarray:
    """(N,) positions in mm of a stack's slices."""
    count = int((asked.to_mm - asked.from_mm) / asked.every_mm + 1e-6) + 1
    return asked.from_mm + asked.every_mm * np.arange(count)


def made_stacks(
    model: BrainCLIP, recipe: MovingRecipe, *, smooth_mm: float = SMOOTH_MM, noise_mm: float = NOISE_MM
) -> np.ndarray:
    """(people, N, H, W) uint8 of synthetic people, made once."""
    asked = recipe.stacks
    folder = (
        Path(recipe.folder)
        / "stacks"
        / key_of(model, as_dict(asked) | {"people": 0, "noise_mm": 0}, recipe.seed, smooth_mm, str(noise_mm))
    )
    found = []
    for person in tqdm(range(asked.people), desc="stacks", unit="person"):
        age = round(AGES[0] + (AGES[1] - AGES[0]) * person / max(1, asked.people - 1))

        def make(person: int = person, age: int = age) -> dict[str, np.ndarray]:
            made = stack(
                f"axial {asked.modality} slice, healthy {age}-year-old {('woman', 'man')[person % 2]}",
                from_mm=asked.from_mm,
                to_mm=asked.to_mm,
                every_mm=asked.every_mm,
                seed=recipe.seed + person,
                smooth_mm=smooth_mm,
                noise_mm=noise_mm,
                model=model.folder,
            )
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
