"""Tissues of the drawn slices of toy pairs, put where the evaluation keeps those it has cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from toy_pairs import draw

from atlas.facts import Facts
from atlas.files import subject_path
from atlas.records import Pair, read_pairs
from atlas.reference import TISSUES
from brainclip.config import Recipe
from brainclip.evaluate.tissues import tissue_key

VENTRICLES, CORTEX, WHITE = (TISSUES.index(name) for name in ("lateral ventricles", "cortex", "white matter"))


def toy_tissues(facts: Facts) -> np.ndarray:
    """(32, 32) uint8: the box is white matter, the bright column cortex, the dark row ventricle."""
    image = draw(facts)
    tissues = np.where(image > 0, WHITE, 0)
    tissues[image == 1] = CORTEX
    tissues[(image > 0) & (image < 0.1)] = VENTRICLES
    return tissues.astype(np.uint8)


def write_toy_tissues(recipe: Recipe, name: str) -> None:
    """<folder>/tissues/<name> of all people of a folder of toy pairs."""
    folder, place = recipe.pairs_folder(name), Path(recipe.folder) / "tissues" / name
    (folder / "subjects").mkdir()
    place.mkdir(parents=True)
    people: dict[str, list[Pair]] = {}
    for pair in read_pairs(folder):
        people.setdefault(pair.subject, []).append(pair)
    for subject, pairs in people.items():
        path = subject_path(folder, subject)
        path.write_text(json.dumps({"subject": subject}))
        key = tissue_key(folder, subject, recipe.segmenter.labels.get(name, ""))
        np.savez(
            place / f"{subject}-{key}.npz",
            names=np.array([pair.file_name for pair in pairs]),
            tissues=np.stack([toy_tissues(pair.facts) for pair in pairs]),
        )
