"""Zero-shot: what CLIP says of a slice when it chooses among captions that differ in one fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.facts import Facts, age_band
from brainclip.clip import Clip
from brainclip.data import PairDataset
from brainclip.embedding.classes import BANDS, chosen, words
from brainclip.evaluate.figures import Figure, average, proportion, spearman
from brainclip.evaluate.prompts import VENTRICLES_MM
from brainclip.train.clip import embed_all

SEED = 13
POOL = 2000
AGES = tuple(range(20, 91, 5))
ASKED = ("plane", "modality", "level", "sex")


def zero_shot(clip: Clip, data: PairDataset) -> dict[str, dict[str, Figure]]:
    """For each pairs folder: share of slices whose plane, contrast, level and sex are right (the plane is
    given for the last three), and the order and error of age and the share of right age bands on axial slices
    at the ventricles, plane and contrast given. At most POOL slices of a folder are drawn."""
    result = {}
    for number, folder in enumerate(data.folders):
        rows = np.random.default_rng(SEED).permutation(np.flatnonzero(data.folder_of == number))
        result[folder.name] = _words(clip, data, np.sort(rows[:POOL])) | _ages(clip, data, np.sort(rows))
    return result


def _words(clip: Clip, data: PairDataset, rows: np.ndarray) -> dict[str, Figure]:
    """Shares of right words among `rows`."""
    image, facts = embed_all(clip, data, rows), _facts(data, rows)
    subjects = np.array([data.pairs[i].subject for i in rows])
    figures = {}
    for name in ASKED:
        true = [fact.known.get(name) if name == "sex" else getattr(fact, name) for fact in facts]
        known = np.flatnonzero([value is not None for value in true])
        said = _said(clip, image[torch.from_numpy(known)], [facts[k] for k in known], name)
        right = [word == true[k] for word, k in zip(said, known, strict=True)]
        figures[name] = proportion(np.array(right), subjects[known])
    return figures


def _said(clip: Clip, image: Tensor, facts: Sequence[Facts], name: str) -> list[str]:
    """CLIP's word for the fact `name` of each slice."""
    picked = chosen(
        clip, image, facts, lambda fact: [{"plane": fact.plane, name: word} for word in words(name, fact)]
    )
    return [words(name, fact)[k] for fact, k in zip(facts, picked, strict=True)]


def _ages(clip: Clip, data: PairDataset, rows: np.ndarray) -> dict[str, Figure]:
    """Of those rows that are axial slices at the ventricles: Spearman's correlation of true and chosen age,
    the mean error in years, and the share of right BANDS."""
    low, high = VENTRICLES_MM
    kept = [
        int(i)
        for i, fact in zip(rows, _facts(data, rows), strict=True)
        if fact.plane == "axial" and low <= (fact.position_mm or 0.0) <= high and fact.known.get("age")
    ]
    if not kept:
        return {}
    facts, subjects = _facts(data, kept), np.array([data.pairs[i].subject for i in kept])
    true = np.array([float(fact.known["age"]) for fact in facts])
    image = embed_all(clip, data, np.array(kept, dtype=int))

    def picked(name: str, values: Sequence[Any]) -> np.ndarray:
        """(N,) index of the value that CLIP chooses for each slice."""

        def candidates(fact: Facts) -> Sequence[Mapping[str, Any]]:
            place = {"plane": fact.plane, "modality": fact.modality, "level": fact.level}
            return [{**place, name: value} for value in values]

        return chosen(clip, image, facts, candidates)

    said = np.array(AGES, dtype=float)[picked("age", AGES)]
    low_of, end_of = np.array([age_band(band) for band in BANDS])[picked("age_band", BANDS)].T
    banded = true >= min(age_band(band)[0] for band in BANDS)
    return {
        "age_order": spearman(true, said, subjects),
        "age_error": average(np.abs(true - said), subjects),
        "age_band": proportion(((low_of <= true) & (true < end_of))[banded], subjects[banded]),
    }


def _facts(data: PairDataset, rows: Sequence[int] | np.ndarray) -> list[Facts]:
    return [data.pairs[i].facts for i in rows]
