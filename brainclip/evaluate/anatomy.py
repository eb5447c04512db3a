"""Anatomy: areas of tissues, ventricles by age, symmetry and outline of pictures beside held-out slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from atlas.slices import Geometry
from brainclip.config import Recipe, load_recipe
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError
from brainclip.evaluate.age_sweep import age_sweep
from brainclip.evaluate.ageing import age_effect, slope_difference
from brainclip.evaluate.counterparts import Counterparts, counterparts
from brainclip.evaluate.figures import Figure, average, proportion
from brainclip.evaluate.outline import NEAR_MM, OUTLINE, asymmetry, implausible, outlines
from brainclip.evaluate.segmenter import (
    STRUCTURES,
    Segmenter,
    segmenter_scores,
    shares,
    train_segmenter,
)
from brainclip.evaluate.tissue_sheet import tissue_sheet
from brainclip.evaluate.tissues import tissues_of
from brainclip.evaluate.ventricles import ventricle_sizes
from brainclip.model import BrainCLIP
from brainclip.train.checks import check_stage

MEASURED = ("lateral ventricles", "cortex", "white matter", "cerebellum")
SPLITS = ("validation", "test")


def anatomy(
    model: BrainCLIP, recipe: Recipe, held_out: PairDataset, folder: Path, *, people: int = 24
) -> dict[str, Any]:
    """Anatomy of pictures asked for by the facts of held-out slices, by pairs table and contrast.

    Trains the segmenter of the recipe first if it is not there. held_out: of the tables in [segmenter] mix.
    folder: gets pictures/ and segmenter.png. segmenter: hash, what it was trained on, and `segmenter_scores`
    of both held-out splits. groups: see `_group`. sizes: see `ventricle_sizes`. ages: see `age_sweep`, beside
    training people. people: of each table at most so many.
    """
    train_segmenter(recipe)
    segmenter = Segmenter.load(Path(recipe.folder) / "segmenter")
    training = PairDataset(held_out.folders, "train")
    pairs = counterparts(model, recipe, held_out, training, folder / "pictures", people=people)
    known: dict[str, dict[str, np.ndarray]] = {}
    for name in recipe.segmenter.mix:
        own = [i for i in pairs.rows if held_out.folders[held_out.folder_of[i]] == recipe.pairs_folder(name)]
        known[name] = tissues_of(recipe, name, sorted({held_out.pairs[i].subject for i in own}))
    size = held_out.size
    nothing = np.zeros((size, size), np.uint8)
    tables = [name.rpartition(" ")[0] for name in pairs.group]
    true = np.stack(
        [known[t].get(held_out.pairs[i].file_name, nothing) for t, i in zip(tables, pairs.rows, strict=True)]
    )
    said = {
        "made": segmenter.tissues(pairs.made),
        "real": segmenter.tissues(held_out.images(pairs.rows)),
        "floor": segmenter.tissues(training.images(pairs.floor)),
        "true": true,
    }
    tissue_sheet(held_out, pairs, said, folder / "segmenter.png")
    groups = {
        str(name): _group(pairs, np.flatnonzero(pairs.group == name), said, held_out, training)
        for name in dict.fromkeys(pairs.group)
    }
    kinds = [(table, modality) for table, _, modality in (name.rpartition(" ") for name in groups)]
    return {
        "segmenter": {
            "hash": segmenter.hash,
            "trained_on": recipe.segmenter.mix,
            "people": recipe.segmenter.people,
            "held_out": {split: segmenter_scores(segmenter, recipe, split) for split in SPLITS},
        },
        "groups": groups,
        "sizes": ventricle_sizes(model, recipe, segmenter, pairs, held_out, training, folder / "pictures"),
        "ages": age_sweep(model, recipe, segmenter, training, kinds, folder / "pictures"),
    }


def _group(
    pairs: Counterparts,
    rows: np.ndarray,
    said: dict[str, np.ndarray],
    held_out: PairDataset,
    training: PairDataset,
) -> dict[str, Any]:
    """areas: of each of MEASURED percent of the brain, means of "made", "real" and "floor", and "difference",
    made less real at the same facts ("floor_difference": floor less real), intervals over people; "brain":
    ratio of the brain's area to the real slice's. age: `age_effect` of lateral ventricles in the axial slices
    at their level, "true" by the true labels. symmetry and outline: see below."""
    subjects = np.array([held_out.pairs[i].subject for i in pairs.rows[rows]])
    share = {kind: shares(tissues[rows]) for kind, tissues in said.items()}
    areas: dict[str, Any] = {}
    for structure in MEASURED:
        column = STRUCTURES.index(structure)
        values = {kind: share[kind][:, column] for kind in ("made", "real", "floor")}
        values["difference"] = values["made"] - values["real"]
        values["floor_difference"] = values["floor"] - values["real"]
        areas[structure] = {kind: _mean(value, subjects) for kind, value in values.items()}
    whole = {kind: (tissues[rows] > 0).sum((1, 2)) for kind, tissues in said.items()}
    areas["brain"] = {
        kind: _mean(whole[kind] / np.maximum(whole["real"], 1), subjects) for kind in ("made", "floor")
    }
    result: dict[str, Any] = {"pictures": len(rows), "areas": areas}
    aged = [
        k for k, row in enumerate(rows) if pairs.asked[row].at_ventricles and pairs.asked[row].age is not None
    ]
    if len(aged) > 1:
        ages = np.array([held_out.pairs[i].facts.known["age"] for i in pairs.rows[rows[aged]]])
        seen = {kind: share[kind][aged, 0] for kind in ("made", "real", "true")}
        result["age"] = {kind: age_effect(ages, value, subjects[aged]) for kind, value in seen.items()}
        result["age"]["difference"] = slope_difference(ages, seen["made"], seen["real"], subjects[aged])
    result["symmetry"] = _symmetry(pairs, rows, subjects, held_out, training)
    result["outline"] = _outline(pairs, rows, subjects, held_out, training)
    return result


def _symmetry(
    pairs: Counterparts, rows: np.ndarray, subjects: np.ndarray, held_out: PairDataset, training: PairDataset
) -> dict[str, Any]:
    """Mean `asymmetry` of axial and coronal slices, "grey" and "outline": "made", "real", "floor", and the
    "difference" made less real."""
    sided = np.array([k for k, row in enumerate(rows) if pairs.asked[row].plane != "sagittal"], dtype=int)
    chosen = rows[sided]
    images = {
        "made": pairs.made[chosen],
        "real": held_out.images(pairs.rows[chosen]),
        "floor": training.images(pairs.floor[chosen]),
    }
    found = {kind: asymmetry(image) for kind, image in images.items()}
    result = {}
    for number, name in enumerate(("grey", "outline")):
        values = {kind: value[number] for kind, value in found.items()}
        values["difference"] = values["made"] - values["real"]
        result[name] = {kind: _mean(value, subjects[sided]) for kind, value in values.items()}
    return result


def _outline(
    pairs: Counterparts, rows: np.ndarray, subjects: np.ndarray, held_out: PairDataset, training: PairDataset
) -> dict[str, Any]:
    """Of each of OUTLINE and of "any" of them: the share of pictures ("made") outside the range of 99 % of
    training slices of the same table, plane and contrast within 6 mm, and that of the held-out slices
    ("real"), which is the rate of false alarms. "mean": the mean of each, made and real."""
    geometry = Geometry(**held_out.geometry)
    facts = [pair.facts for pair in training.pairs]
    folder = held_out.folder_of[pairs.rows[rows[0]]]
    kind = pairs.asked[rows[0]].modality
    own = np.array(
        [i for i, fact in enumerate(facts) if fact.modality == kind and training.folder_of[i] == folder]
    )
    planes = np.array([str(facts[i].plane) for i in own])
    places = np.array([float(facts[i].position_mm or 0.0) for i in own])
    asked = [pairs.asked[row] for row in rows]
    near = [
        np.flatnonzero((planes == row.plane) & (np.abs(places - row.position_mm) <= NEAR_MM)) for row in asked
    ]
    needed = np.unique(np.concatenate(near))
    reference = np.zeros((len(own), len(OUTLINE)))
    reference[needed] = outlines(training.images(own[needed]), planes[needed], places[needed], geometry)
    at = np.array([row.plane for row in asked]), np.array([row.position_mm for row in asked])
    found = {
        "made": outlines(pairs.made[rows], *at, geometry),
        "real": outlines(held_out.images(pairs.rows[rows]), *at, geometry),
    }
    off = {kind: implausible(found[kind], [reference[k] for k in near]) for kind in found}
    result: dict[str, Any] = {"any": {kind: _share(off[kind].max(1), subjects) for kind in off}}
    for number, name in enumerate(OUTLINE):
        result[name] = {kind: _share(off[kind][:, number], subjects) for kind in off}
        result[name]["mean"] = {kind: _mean(found[kind][:, number], subjects) for kind in found}
    return result


def _mean(values: np.ndarray, subjects: np.ndarray) -> Figure:
    """Mean of those that are known, interval over people."""
    known = np.isfinite(values)
    return average(values[known], subjects[known])


def _share(hits: np.ndarray, subjects: np.ndarray) -> Figure:
    """Share of ones among those that are known, interval over people."""
    known = np.isfinite(hits)
    return proportion(hits[known] > 0, subjects[known])


def run_anatomy(
    recipe_path: Path | str, overrides: list[str], *, split: str, model: str = "", dry_run: bool = False
) -> str:
    """A line of result: the segmenter trained, and anatomy.json, .md, .html and segmenter.png in
    <folder>/anatomy, of a model on a held-out split. model: a name or folder; empty: <folder>/model."""
    from brainclip.evaluate.page import write_page
    from brainclip.evaluate.report import SYNTHETIC
    from brainclip.evaluate.sections.anatomy import section
    from brainclip.model import load
    from brainclip.weights import write_json

    recipe = load_recipe(recipe_path, overrides)
    if split not in SPLITS:
        raise BrainclipError(f"split {split!r}; a model is evaluated on: {', '.join(SPLITS)}")
    check_stage(recipe, "segmenter")
    folder = Path(recipe.folder) / "anatomy"
    if dry_run:
        return f"anatomy: would write {folder} on the {split} split; segmenter of {recipe.segmenter.mix}"
    loaded = load(model or Path(recipe.folder) / "model")
    held_out = PairDataset([recipe.pairs_folder(name) for name in recipe.segmenter.mix], split)
    part = anatomy(loaded, recipe, held_out, folder)
    about = "Value (95 % interval over people, n). " + SYNTHETIC
    made = section({"anatomy": part})
    assert made is not None
    write_page(f"Anatomy of {loaded.name}, {split} split", about, [made], folder, "anatomy")
    write_json(folder / "anatomy.json", part)
    scores = part["segmenter"]["held_out"][split]
    line = ", ".join(f"{name} {found['lateral ventricles']['value']:.2f}" for name, found in scores.items())
    return f"anatomy: {folder / 'anatomy.md'} (Dice of lateral ventricles: {line})"
