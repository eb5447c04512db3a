"""Adherence: does the picture show what was asked? Said by the judge, beside its word on true slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainclip.config import Recipe
from brainclip.data import PairDataset
from brainclip.evaluate.confusion import confusions
from brainclip.evaluate.figures import Figure, average, proportion, spearman
from brainclip.evaluate.judge import Judge, Verdicts, judge_dataset, judged_position
from brainclip.evaluate.pictures import generated, nearest, tables_of
from brainclip.evaluate.prompts import RANGE_MM, VENTRICLES_MM, Asked, prompts
from brainclip.evaluate.wanted import Wanted, wanted_of
from brainclip.model import BrainCLIP
from brainclip.weights import read_json

NEAR_MM = 8.0
ADAPTER_SEED = 21  # other prompts than those of the adherence
SEEDS = 16  # different noises; the prompts of one seed are made together


def scores(verdicts: Verdicts, wanted: Wanted) -> dict[str, Figure]:
    """Figures of what was judged against what was wanted.

    position: share judged within 8 mm, a wrong plane counting as a miss; sagittal positions are distances
    from the midline. age_order: Spearman of wanted against judged age on axial slices at the ventricles,
    age_error the mean absolute error in years there.
    """
    who = wanted.subject
    plane_right = verdicts.plane == wanted.plane
    places = [judged_position(p, mm) for p, mm in zip(wanted.plane, wanted.position_mm, strict=True)]
    near = plane_right & (np.abs(verdicts.position_mm - np.array(places)) <= NEAR_MM)
    figures = {
        "plane": proportion(plane_right, who),
        "contrast": proportion(verdicts.modality == wanted.modality, who),
        "position": proportion(near, who),
    }
    for modality in np.unique(wanted.modality):
        rows = wanted.modality == modality
        right = (verdicts.modality == modality)[rows]
        figures[f"contrast_{modality}"] = proportion(right, None if who is None else who[rows])
    for plane in np.unique(wanted.plane):
        rows = wanted.plane == plane
        figures[f"position_{plane}"] = proportion(near[rows], None if who is None else who[rows])
    low, high = VENTRICLES_MM
    at_ventricles = (wanted.position_mm >= low) & (wanted.position_mm <= high)
    aged = (wanted.plane == "axial") & at_ventricles & np.isfinite(wanted.age)
    people = None if who is None else who[aged]
    figures["age_order"] = spearman(wanted.age[aged], verdicts.age[aged], people)
    figures["age_error"] = average(np.abs(wanted.age - verdicts.age)[aged], people)
    known = np.isfinite(wanted.female)
    said = (verdicts.female[known] > 0.5) == (wanted.female[known] == 1)
    figures["sex"] = proportion(said, None if who is None else who[known])
    return figures


def judge_scores(judge: Judge, data: PairDataset) -> dict[str, dict[str, Any]]:
    """The judge's own held-out scores, "scores" and "confusion" for each pairs folder by its name.

    On every slice at a position that the prompts may ask for (RANGE_MM): beyond there is hardly any brain.
    """
    verdicts = judge_dataset(judge, data)
    wanted = wanted_of([pair.facts for pair in data.pairs], [pair.subject for pair in data.pairs])
    low, high = np.array([RANGE_MM[plane] for plane in wanted.plane]).T
    asked_for = (wanted.position_mm >= low) & (wanted.position_mm <= high)
    result: dict[str, dict[str, Any]] = {"scores": {}, "confusion": {}}
    for number, folder in enumerate(data.folders):
        rows = np.flatnonzero((data.folder_of == number) & asked_for)
        said, true = verdicts.take(rows), wanted.take(rows)
        result["scores"][folder.name] = scores(said, true)
        result["confusion"][folder.name] = confusions(said, true)
    return result


def seeds_of(asked: Sequence[Asked]) -> list[int]:
    """The seed of each prompt's picture."""
    return [k % SEEDS for k in range(len(asked))]


def adherence(
    model: BrainCLIP,
    judge: Judge,
    recipe: Recipe,
    data: PairDataset,
    asked: Sequence[Asked],
    folder: Path,
    *,
    adapter: str | None = "auto",
) -> dict[str, Any]:
    """Scores of pictures for the prompts ("generated") and of the nearest held-out slices ("held_out").

    A held-out slice is compared with its own facts. "adapters" counts the pictures that each made. "records":
    what was asked and judged, one a prompt. Pictures are kept in `folder`.
    """
    seeds = seeds_of(asked)
    pictures = generated(model, [row.text for row in asked], seeds, folder, adapter=adapter)
    verdicts = judge.verdicts(pictures.images)
    rows = []
    for row, adapter in zip(asked, pictures.adapters, strict=True):
        rows.append(nearest(data, row, [recipe.pairs_folder(name) for name in tables_of(recipe, adapter)]))
    found = np.array([row for row in rows if row >= 0], dtype=int)
    true = wanted_of([data.pairs[i].facts for i in found], [data.pairs[i].subject for i in found])
    records = []
    for k, row in enumerate(asked):
        judged = {key: value[k].item() for key, value in vars(verdicts).items()}
        judged |= {key: round(judged[key], 2) for key in ("position_mm", "age", "female")}
        off = abs(judged["position_mm"] - judged_position(row.plane, row.position_mm)) > NEAR_MM
        missed = judged["plane"] != row.plane or judged["modality"] != row.modality or off
        record = {"asked": vars(row), "seed": seeds[k], "adapter": pictures.adapters[k]}
        records.append(record | {"judged": judged, "missed": missed})
    by_place = {}
    for name, kept in (("level", True), ("mm", False)):
        part = np.array([k for k, row in enumerate(asked) if (row.level is not None) == kept], dtype=int)
        if len(part):
            figures = scores(verdicts.take(part), wanted_of([asked[k] for k in part]))
            by_place[f"position_asked_by_{name}"] = figures["position"]
    return {
        "generated": scores(verdicts, wanted_of(asked)) | by_place,
        "held_out": scores(judge.verdicts(data.images(found)), true) if len(found) else {},
        "confusion": confusions(verdicts, wanted_of(asked)),
        "held_out_distinct": len(np.unique(found)),
        "adapters": dict(Counter(str(name) for name in pictures.adapters)),
        "records": records,
    }


def compare_adapters(
    model: BrainCLIP, judge: Judge, recipe: Recipe, data: PairDataset, folder: Path, *, n: int
) -> dict[str, dict[str, Any]]:
    """For each adapter, the scores of base and adapter on n prompts for the contrasts it was made for."""
    result = {}
    for name in model.adapters:
        card = read_json(model.folder / "decoder" / "adapters" / name / "adapter.json")
        asked = prompts(n, modalities=card["modalities"], seed=ADAPTER_SEED)
        figures = {}
        for side, adapter in (("base", None), ("adapter", name)):
            judged = adherence(model, judge, recipe, data, asked, folder, adapter=adapter)
            figures[side] = judged["generated"]
        result[name] = figures | {"default": card["default"]}
    return result
