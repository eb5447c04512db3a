"""Ventricle size: pictures asked for with small, normal or enlarged ventricles, judged by a segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from atlas.structures import SIZES
from brainclip.config import Recipe
from brainclip.data import PairDataset
from brainclip.evaluate.confusion import confusion
from brainclip.evaluate.counterparts import Counterparts, adapter_of, asked_like
from brainclip.evaluate.figures import average
from brainclip.evaluate.pictures import generated
from brainclip.evaluate.segmenter import Segmenter, shares
from brainclip.model import BrainCLIP

STRUCTURE = "lateral ventricles"
# percentiles between the words of atlas.structures, half way: every share is judged as one of them
BOUNDS = [(SIZES["small"][1] + SIZES["normal"][0]) / 2, (SIZES["normal"][1] + SIZES["enlarged"][0]) / 2]
FEWEST = 30  # training slices that say what is usual


class Usual:
    """The share of the brain that ventricles take in axial slices of one contrast, by age and place."""

    def __init__(self, ages: np.ndarray, places: np.ndarray, share: np.ndarray) -> None:
        """ages (N,) in years, places (N,) z in mm and shares (N,) in percent of people's slices."""
        self.weights = np.linalg.lstsq(_terms(ages, places), share, rcond=None)[0]
        self.rest = np.sort(share - _terms(ages, places) @ self.weights)

    def percentile(self, ages: np.ndarray, places: np.ndarray, share: np.ndarray) -> np.ndarray:
        """(M,) percent of those slices with less than this, for the age and the place."""
        found = np.searchsorted(self.rest, share - _terms(ages, places) @ self.weights)
        return 100 * found / len(self.rest)


def _terms(ages: np.ndarray, places: np.ndarray) -> np.ndarray:
    age, place = (np.asarray(ages) - 50) / 20, (np.asarray(places) - 17) / 5
    return np.stack([np.ones_like(age), age, age**2, place, place**2], axis=1)


def words_of(percentiles: np.ndarray) -> np.ndarray:
    """The word "small", "normal" or "enlarged" of each percentile (N,)."""
    return np.array(list(SIZES))[np.digitize(percentiles, BOUNDS)]


def ventricle_sizes(
    model: BrainCLIP,
    recipe: Recipe,
    segmenter: Segmenter,
    pairs: Counterparts,
    held_out: PairDataset,
    training: PairDataset,
    folder: Path,
) -> dict[str, dict[str, Any]]:
    """Pairs table and contrast -> "made" and "real": brainclip.evaluate.confusion of asked (known) and judged
    size; "shares": mean percent of the brain of the pictures that were asked for with each size.

    Pictures are asked for by the facts of one axial slice at the ventricles of each held-out person, with
    each size and one seed; they are kept in `folder`. Judged: the percentile of the segmenter's share among
    training people's for age and place. real: held-out people whose size is known to be one of the words.
    """
    found: dict[str, dict[str, Any]] = {}
    for group in dict.fromkeys(pairs.group):
        rows = _one_of_each(pairs, held_out, str(group))
        table, _, modality = str(group).rpartition(" ")
        number = held_out.folders.index(recipe.pairs_folder(table))  # training has the same folders
        usual = _usual(segmenter, training, modality, number)
        if usual is None or not rows:
            continue
        asked = [asked_like(held_out.pairs[i].facts) for i in rows for _ in SIZES]
        words = np.array(list(SIZES) * len(rows))
        texts = [f"{row.text}, {word} {STRUCTURE}" for row, word in zip(asked, words, strict=True)]
        seeds = [k // len(SIZES) % 16 for k in range(len(texts))]
        adapter = adapter_of(model, recipe, table, modality)
        images = generated(model, texts, seeds, folder, adapter=adapter).images
        share = shares(segmenter.tissues(images))[:, 0]
        ages = np.array([held_out.pairs[i].facts.known["age"] for i in rows for _ in SIZES])
        places = np.array([row.position_mm for row in asked])
        subjects = np.array([held_out.pairs[i].subject for i in rows for _ in SIZES])
        made = words_of(usual.percentile(ages, places, share))
        found[str(group)] = {
            "made": confusion(words, made, list(SIZES), subjects),
            "real": _of_people(segmenter, usual, held_out, modality, number),
            "shares": {word: average(share[words == word], subjects[words == word]) for word in SIZES},
        }
    return found


def _one_of_each(pairs: Counterparts, held_out: PairDataset, group: str) -> list[int]:
    """Rows in the held-out data: the first slice at the ventricles of each person of known age."""
    first: dict[str, int] = {}
    for row, name, asked in zip(pairs.rows, pairs.group, pairs.asked, strict=True):
        if name == group and asked.at_ventricles and asked.age is not None:
            first.setdefault(held_out.pairs[row].subject, int(row))
    return list(first.values())


def _at_ventricles(data: PairDataset, modality: str, number: int) -> np.ndarray:
    """Rows of axial slices of a contrast at the ventricles, of people whose age is known."""
    facts = [pair.facts for pair in data.pairs]
    return np.array(
        [
            i
            for i, fact in enumerate(facts)
            if fact.modality == modality
            and data.folder_of[i] == number
            and "age" in fact.known
            and asked_like(fact).at_ventricles
        ],
        dtype=int,
    )


def _measured(
    segmenter: Segmenter, data: PairDataset, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ages, places and shares of rows."""
    facts = [data.pairs[i].facts for i in rows]
    ages = np.array([fact.known["age"] for fact in facts], dtype=float)
    places = np.array([fact.position_mm for fact in facts], dtype=float)
    return ages, places, shares(segmenter.tissues(data.images(rows)))[:, 0]


def _usual(segmenter: Segmenter, training: PairDataset, modality: str, number: int) -> Usual | None:
    rows = _at_ventricles(training, modality, number)
    return Usual(*_measured(segmenter, training, rows)) if len(rows) >= FEWEST else None


def _of_people(
    segmenter: Segmenter, usual: Usual, data: PairDataset, modality: str, number: int
) -> dict[str, Any]:
    rows = _at_ventricles(data, modality, number)
    known = np.array([data.pairs[i].facts.sizes.get(STRUCTURE, "") for i in rows])
    rows, known = rows[known != ""], known[known != ""]
    subjects = np.array([data.pairs[i].subject for i in rows])
    if not len(rows):
        return confusion(known, known, list(SIZES))
    judged = words_of(usual.percentile(*_measured(segmenter, data, rows)))
    return confusion(known, judged, list(SIZES), subjects)
