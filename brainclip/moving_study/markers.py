"""Are marked synthetic slices of use? A detector trained on them alone, scored on real patients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from brainclip.anomaly.cases import Cases, together
from brainclip.anomaly.figures import auprc_difference, auroc_difference, pixel_figures, slice_figures
from brainclip.errors import RecipeError
from brainclip.model import BrainCLIP
from brainclip.moving_study.detector import Detector, trained
from brainclip.moving_study.marked import held_out, marked, patient
from brainclip.moving_study.recipe import MovingRecipe

HELD_OUT = 5  # every fifth synthetic person is not trained on
TOP = 0.002  # share of a slice's pixels, about 70 mm2, of which the mean is the slice's score
BINS = 4000  # of a map's values: of small plaques the brain holds less than 1 in 400 pixels
BLOCK = 5  # neighbouring slices of one patient that are drawn together for an interval


def run_markers(model: BrainCLIP, recipe: MovingRecipe) -> dict[str, Any]:
    """What a detector that has seen markers alone finds: in held-out markers, in held-out people's slices
    with drawn lesions, and in real patients.

    Beside it the grey level alone, bright in FLAIR and T2, dark in T1. The threshold of either is the best
    one of the held-out people's slices of that contrast. RecipeError without real cases.
    """
    if not recipe.real:
        raise RecipeError("the recipe names no [real.NAME]; a detector is measured on real patients")
    asked, seen = recipe.markers, marked(model, recipe)
    held = seen.column("subject").astype(int) % HELD_OUT == 0
    known = seen.of(~held)
    detector = trained(recipe, known)
    real = together([patient(model, recipe, name) for name in recipe.real])
    report: dict[str, Any] = {
        "detector": detector.hash,
        "trained_on": {"slices": len(known.rows), "steps": asked.steps, "batch": asked.batch},
        "people": len(np.unique(known.column("subject"))),
        "thresholds": {},
        "kinds": {},
        "sets": {},
    }
    for modality in asked.modalities:
        thresholds: dict[str, float] = {}
        own = _of(seen.of(held), modality)
        sets = {f"{modality}, held-out markers": own} if len(own.rows) else {}
        if modality in asked.held_out:
            sets = {f"{modality}, validation people, drawn lesions": held_out(recipe, modality)} | sets
        report["kinds"] |= {name: of_kinds(detector, cases) for name, cases in sets.items()}
        sets |= _patients(recipe, real, modality)
        for name, cases in sets.items():
            report["sets"][name] = measured(detector, cases, thresholds)
            if not thresholds:
                thresholds = {by: report["sets"][name][by]["pixel"]["threshold"] for by in BY}
                report["thresholds"][modality] = thresholds
    return report


BY = ("detector", "grey level")


def measured(detector: Detector, cases: Cases, thresholds: dict[str, float]) -> dict[str, Any]:
    """Figures of slices and pixels of both ways, and their difference. thresholds: by way;
    none: the best alone."""
    healthy = cases.column("kind") == ""
    found: dict[str, Any] = {"slices": len(cases.rows), "with": int((~healthy).sum())}
    found["people"] = len({row.subject.split("/")[0] for row in cases.rows})
    both = (detector.maps(cases.images), grey_maps(cases))
    found["difference"] = {
        "auroc": auroc_difference(slice_scores(both[0]), slice_scores(both[1]), cases),
        "auprc": auprc_difference(*both, cases, bins=BINS),
    }
    for by, maps in zip(BY, both, strict=True):
        fixed = np.array(thresholds[by]) if thresholds else None
        found[by] = {"slice": slice_figures(slice_scores(maps), cases)}
        found[by]["pixel"] = pixel_figures(maps, cases, fixed, bins=BINS)
    return found


def of_kinds(detector: Detector, cases: Cases) -> dict[str, Any]:
    """Kind -> pixel figures of both ways among the slices with it and the healthy ones."""
    kinds, both = cases.column("kind"), (detector.maps(cases.images), grey_maps(cases))
    found: dict[str, Any] = {}
    for kind in sorted(set(kinds.tolist()) - {""}):
        own = (kinds == kind) | (kinds == "")
        found[kind] = {"slices": int((kinds == kind).sum())}
        for by, maps in zip(BY, both, strict=True):
            found[kind][by] = pixel_figures(maps[own], cases.of(own), bins=BINS)
    return found


def _of(cases: Cases, modality: str) -> Cases:
    return cases.of(np.array([row.facts.modality == modality for row in cases.rows], dtype=bool))


def _patients(recipe: MovingRecipe, real: Cases, modality: str) -> dict[str, Cases]:
    """All patients of a contrast, then each; of one patient blocks of slices stand for people."""
    own = _of(real, modality)
    if not len(own.rows):
        return {}
    sets = {f"{modality}, patients": own}
    for name in recipe.real:
        one = own.of(own.column("subject") == name)
        if len(one.rows):
            rows = [replace(row, subject=f"{name}/{i // BLOCK}") for i, row in enumerate(one.rows)]
            sets[f"{modality}, {name}"] = replace(one, rows=tuple(rows))
    return sets


def slice_scores(maps: np.ndarray) -> np.ndarray:
    """(N,) mean of the highest TOP of each map (N, H, W)."""
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(TOP * flat.shape[1]))
    scores: np.ndarray = np.partition(flat, -count, axis=1)[:, -count:].mean(1)
    return scores


def grey_maps(cases: Cases) -> np.ndarray:
    """(N, H, W) the plainest detector: bright is abnormal, in T1 dark within the brain is."""
    dark = np.array([row.facts.modality == "T1" for row in cases.rows])[:, None, None]
    return np.where(dark & (cases.images > 0), 1 - cases.images, np.where(dark, 0, cases.images))
