"""Counterparts: pictures that are asked for by the facts of held-out slices, each beside its slice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atlas.facts import AXIS, Facts
from brainclip.config import Recipe
from brainclip.data import PairDataset
from brainclip.evaluate.pictures import generated, nearest
from brainclip.evaluate.prompts import RANGE_MM, Asked
from brainclip.evaluate.sheet import NOUN
from brainclip.model import BrainCLIP

SEED = 43
EACH = 2  # slices of each person and contrast at the ventricles, and as many elsewhere


@dataclass(frozen=True)
class Counterparts:
    """N held-out slices and what was made from their facts.

    rows: (N,) in the held-out data. made: (N, 1, H, W) pictures in [0, 1]. floor: (N,) rows in the training
    data of slices of other people with the nearest facts, from the same pairs table. group: (N,) pairs table
    and contrast.
    """

    rows: np.ndarray
    asked: tuple[Asked, ...]
    made: Tensor
    floor: np.ndarray
    group: np.ndarray


def asked_like(facts: Facts) -> Asked:
    """A prompt with a slice's plane, contrast, position in whole mm, age in whole years and sex."""
    age = round(facts.known["age"]) if "age" in facts.known else None
    sex = facts.known.get("sex")
    place = float(facts.position_mm or 0.0)
    who = NOUN.get(str(sex), "adult")
    who = f"healthy {who}" if age is None else f"healthy {age}-year-old {who}"
    text = f"{facts.plane} {facts.modality} slice at {AXIS[str(facts.plane)]} = {round(place)} mm, {who}"
    return Asked(text, str(facts.plane), str(facts.modality), place, None, age, sex)


def chosen_rows(data: PairDataset, modalities: list[str], people: int) -> np.ndarray:
    """Indices of held-out slices: of each person and contrast two axial ones at the ventricles and two
    others, of changing planes. people: of each folder at most so many. Drawn by a fixed seed."""
    generator = np.random.default_rng(SEED)
    own: dict[tuple[int, str, str], list[int]] = {}
    seen: dict[int, list[str]] = {}
    for i, pair in enumerate(data.pairs):
        facts, folder = pair.facts, int(data.folder_of[i])
        low, high = RANGE_MM[str(facts.plane)]
        if facts.modality in modalities and low <= float(facts.position_mm or 0.0) <= high:
            own.setdefault((folder, pair.subject, str(facts.modality)), []).append(i)
            seen.setdefault(folder, []).append(pair.subject)
    kept = set()
    for folder, names in seen.items():
        unique = sorted(set(names))
        kept |= {(folder, unique[k]) for k in generator.permutation(len(unique))[:people]}
    rows: list[int] = []
    for turn, ((folder, subject, _), found) in enumerate(sorted(own.items())):
        if (folder, subject) not in kept:
            continue
        order = generator.permutation(found)
        at = [i for i in order if asked_like(data.pairs[i].facts).at_ventricles]
        planes = ("axial", "coronal", "sagittal")
        rows += at[:EACH]
        for k in range(EACH):
            plane = planes[(EACH * turn + k) % len(planes)]
            rows += [
                i for i in order if data.pairs[i].facts.plane == plane and i not in at and i not in rows
            ][:1]
    return np.array(rows, dtype=int)


def counterparts(
    model: BrainCLIP,
    recipe: Recipe,
    held_out: PairDataset,
    training: PairDataset,
    folder: Path,
    *,
    people: int = 24,
) -> Counterparts:
    """The Counterparts of held-out slices by `chosen_rows`; pictures are kept in `folder`.

    A picture is made with the adapter that was trained on the slice's pairs table and contrast, where the
    model has one, else by the base. held_out, training: of the same pairs tables, by name of the recipe.
    """
    rows = chosen_rows(held_out, list(model.card["modalities"]), people)
    asked = [asked_like(held_out.pairs[i].facts) for i in rows]
    names = {recipe.pairs_folder(name): name for name in recipe.pairs}
    tables = [names[held_out.folders[held_out.folder_of[i]]] for i in rows]
    adapters = [
        adapter_of(model, recipe, name, row.modality) for name, row in zip(tables, asked, strict=True)
    ]
    made: dict[int, Tensor] = {}
    for adapter in dict.fromkeys(adapters):
        own = [k for k, name in enumerate(adapters) if name == adapter]
        texts, seeds = [asked[k].text for k in own], [k % 16 for k in own]
        pictures = generated(model, texts, seeds, folder, adapter=adapter)
        made |= dict(zip(own, pictures.images, strict=True))
    floor = [
        nearest(training, row, [recipe.pairs_folder(name)]) for name, row in zip(tables, asked, strict=True)
    ]
    return Counterparts(
        rows,
        tuple(asked),
        torch.stack([made[k] for k in range(len(rows))]),
        np.array(floor),
        np.array([f"{name} {row.modality}" for name, row in zip(tables, asked, strict=True)]),
    )


def adapter_of(model: BrainCLIP, recipe: Recipe, table: str, modality: str) -> str | None:
    """The model's adapter that was trained on a pairs table and contrast; None: the base."""
    for name, stage in recipe.adapter.items():
        if name in model.adapters and table in stage.mix and modality in stage.modalities:
            return name
    return None
