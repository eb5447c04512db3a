"""Age sweep: ventricles of pictures at ages from 20 to 85 beside those of the people of a pairs table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from atlas.facts import AXIS
from brainclip.config import Recipe
from brainclip.data import PairDataset
from brainclip.evaluate.ageing import age_effect
from brainclip.evaluate.counterparts import adapter_of
from brainclip.evaluate.figures import Figure, bootstrap
from brainclip.evaluate.pictures import generated
from brainclip.evaluate.segmenter import Segmenter, shares
from brainclip.evaluate.sheet import NOUN
from brainclip.model import BrainCLIP

AGES = tuple(range(20, 86, 5))
EACH = 4  # pictures of an age, half of them women
PLACE_MM = 17.0  # z, through the bodies of the lateral ventricles
NEAR_MM = 3.0  # of people's slices
READ_AT = (30, 80)  # years at which the line of shares on ages is read
FEWEST = 10  # people


def age_sweep(
    model: BrainCLIP,
    recipe: Recipe,
    segmenter: Segmenter,
    data: PairDataset,
    groups: list[tuple[str, str]],
    folder: Path,
) -> dict[str, dict[str, Any]]:
    """Pairs table and contrast -> "made" and "people": the age_effect of the lateral ventricles in percent of
    the brain at z = 17 mm, by the segmenter, with "at": its line at READ_AT.

    data: the people, one slice of each, of the tables in groups, (table, contrast) each. Pictures have each
    a seed of their own and are kept in `folder`. Groups with fewer than FEWEST people are left out.
    """
    found = {}
    ages = np.repeat(AGES, EACH)
    sexes = np.tile(list(NOUN), len(ages))[: len(ages)]
    for table, modality in groups:
        rows = _slice_of_each(data, recipe.pairs_folder(table), modality)
        if len(rows) < FEWEST:
            continue
        asked = [
            f"axial {modality} slice at {AXIS['axial']} = {PLACE_MM:g} mm, healthy {age}-year-old {NOUN[sex]}"
            for age, sex in zip(ages, sexes, strict=True)
        ]
        adapter = adapter_of(model, recipe, table, modality)
        made = generated(model, asked, list(range(len(asked))), folder, adapter=adapter).images
        people = np.array([data.pairs[i].facts.known["age"] for i in rows], dtype=float)
        found[f"{table} {modality}"] = {
            "made": _effect(ages.astype(float), segmenter, made),
            "people": _effect(people, segmenter, data.images(rows)),
        }
    return found


def _effect(ages: np.ndarray, segmenter: Segmenter, images: Tensor) -> dict[str, Any]:
    share = shares(segmenter.tissues(images))[:, 0]

    def read(at: float) -> Figure:
        def line(rows: np.ndarray) -> float:
            if np.ptp(ages[rows]) == 0:
                return float("nan")
            return float(np.polyval(np.polyfit(ages[rows], share[rows], 1), at))

        return bootstrap(line, len(ages))

    return age_effect(ages, share, np.arange(len(ages))) | {"at": {str(at): read(at) for at in READ_AT}}


def _slice_of_each(data: PairDataset, folder: Path, modality: str) -> np.ndarray:
    """Rows: of each person of known age the axial slice of a contrast nearest to PLACE_MM, within NEAR_MM."""
    nearest: dict[str, tuple[float, int]] = {}
    for row, pair in enumerate(data.pairs):
        facts = pair.facts
        if data.folders[data.folder_of[row]] != folder or facts.modality != modality:
            continue
        if facts.plane != "axial" or "age" not in facts.known or facts.position_mm is None:
            continue
        away = abs(facts.position_mm - PLACE_MM)
        if away <= NEAR_MM:
            nearest[pair.subject] = min(nearest.get(pair.subject, (away, row)), (away, row))
    return np.array([row for _, row in nearest.values()], dtype=int)
