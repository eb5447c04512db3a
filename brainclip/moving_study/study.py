"""The study of moves: figures and pictures, of which each part is kept and a stopped run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from atlas.begin import only_run
from atlas.files import write_whole
from brainclip.config import as_dict
from brainclip.errors import RecipeError
from brainclip.model import BrainCLIP, load
from brainclip.moving.markers import mark
from brainclip.moving_study import ageing, detector, marked, markers, pictures, sizes, stacks
from brainclip.moving_study.recipe import MovingRecipe
from brainclip.moving_study.report import markdown
from brainclip.weights import read_json, write_json

PARTS = ("ageing", "sizes", "stacks", "markers")
SHOWN = ("tumour", "sclerosis")  # of the markers' picture, with their sizes in mm
SIZES = {"tumour": (15.0, 25.0, 35.0, 45.0, 55.0), "sclerosis": (4.0, 7.0, 10.0, 13.0, 16.0)}


def run_moving(recipe: MovingRecipe, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """Measure the parts, keep moving.json, README.md and the pictures in the recipe's folder's report/.

    Parts that were measured before stay as they are. RecipeError for what cannot be run; PairsError while
    another run measures in this folder, whose report would be lost.
    """
    recipe.check()
    if unknown := sorted(set(parts) - set(PARTS)):
        raise RecipeError(f"part {unknown[0]!r}; possible are {', '.join(PARTS)}")
    with only_run(Path(recipe.folder)):
        return _measured(recipe, parts)


def _measured(recipe: MovingRecipe, parts: tuple[str, ...]) -> dict[str, Any]:
    model, out = load(recipe.model), Path(recipe.folder) / "report"
    path = out / "moving.json"
    report: dict[str, Any] = read_json(path) if path.is_file() else {}
    if report and report["model"] != model.name:
        raise RecipeError(f"{path}: of the model {report['model']}, not {model.name}; set another folder")
    report |= {"model": model.name, "recipe": as_dict(recipe)}
    for part in parts:
        report[part] = _MEASURED[part](model, recipe)
        _DRAWN[part](model, recipe, report[part], out)
        write_whole(out / "README.md", markdown(report))
        write_json(path, report)
    return report


def _draw_ageing(model: BrainCLIP, recipe: MovingRecipe, found: dict[str, Any], out: Path) -> None:
    rows = []
    for modality, pairs in recipe.ageing.modalities.items():
        made = ageing.trajectories(model, recipe, modality, recipe.ageing.by[0])
        cells = [(one, f"{age:.0f} years") for one, age in zip(made["grey"][0], made["ages"], strict=True)]
        rows.append((f"{modality}, one synthetic person", cells))
        cohort = ageing.cohort_slices(Path(recipe.pairs[pairs]), modality, recipe.ageing.position_mm)
        near = [int(np.abs(cohort["ages"] - age).argmin()) for age in made["ages"]]
        real = "real people" if pairs == "ixi" else f"different people of {pairs}"
        cells = [(cohort["grey"][i], f"{cohort['ages'][i]:.0f} years") for i in near]
        rows.append((f"{modality}, {real}", cells))
    place = f"axial, z = {recipe.ageing.position_mm:g} mm; subject's left at image left"
    pictures.sheet(rows, out / "ageing.png", place)
    pictures.curves(found, out / "curve.png")


def _draw_stacks(model: BrainCLIP, recipe: MovingRecipe, found: dict[str, Any], out: Path) -> None:
    asked, spacing = recipe.stacks, float(model.card["spacing_mm"])
    made = stacks.made_stacks(model, recipe, noise_mm=found["chosen"])
    columns = stacks.made_stacks(model, recipe, noise_mm=np.inf, people=1)
    real = stacks.real_stacks(Path(recipe.pairs[asked.pairs]), asked, "test")
    rows = [
        (name, pictures.three_planes(one / 255, asked.every_mm, spacing))
        for name, one in (
            ("synthetic, one stack", made[0]),
            ("synthetic, another", made[-1]),
            ("synthetic, one noise for all slices", columns[0]),
            ("real, a test person", real[0]),
            ("real, each slice another person's", stacks.mixed(real)[0]),
        )
    ]
    title = f"{asked.modality}, axial every {asked.every_mm:g} mm, between them linear"
    pictures.sheet(rows, out / "stack.png", title)


def _draw_markers(model: BrainCLIP, recipe: MovingRecipe, found: dict[str, Any], out: Path) -> None:
    rows = []
    for kind in SHOWN:
        prompt = "axial FLAIR slice, z = 22 mm, healthy 45-year-old woman"
        healthy = model.generate(prompt, seed=recipe.seed + 1)[0]
        made = mark(healthy, kind, size_mm=SIZES[kind], seed=4, model=model.folder)
        before = (healthy.pixels, "as it was, synthetic")
        labels = [f"{size:g} mm, simulated" for size in SIZES[kind]]
        grown = [(one.picture.pixels, label) for one, label in zip(made, labels, strict=True)]
        masks = [(pictures.outlined(one.picture.pixels, one.mask), "its mask") for one in made]
        rows += [(f"FLAIR, {kind} growing", [before, *grown]), ("", [before, *masks])]
    pictures.sheet(rows, out / "markers.png", "synthetic slices with simulated lesions")
    trained = detector.Detector.load(Path(recipe.folder) / "detector")
    shown = []
    for name in recipe.real:
        cases = marked.patient(model, recipe, name)
        levels = [found["thresholds"][row.facts.modality]["detector"] for row in cases.rows]
        called = trained.maps(cases.images) > np.array(levels)[:, None, None]
        shown += pictures.detections(cases, called, 3)
    title = "real patients; red: the mask given with the scan, yellow: the detector at its threshold"
    pictures.sheet(shown, out / "detections.png", title)


def _draw_sizes(model: BrainCLIP, recipe: MovingRecipe, found: dict[str, Any], out: Path) -> None:
    rows = []
    for modality in recipe.ageing.modalities:
        for person in (0, 2):
            made = sizes.drawn(model, recipe, modality, person)
            names = (
                "directions small",
                "before",
                "directions enlarged",
                "captions small",
                "captions enlarged",
            )
            labels = ("small", "as it was", "larger", "small, captions", "larger, captions")
            cells = [(made[name][0], label) for name, label in zip(names, labels, strict=True)]
            rows.append((f"{modality}, {sizes.AGES[person // 2 % 2]} years", cells))
    pictures.sheet(rows, out / "sizes.png", "synthetic; edits of the lateral ventricles")


_MEASURED = {
    "ageing": ageing.run_ageing,
    "sizes": sizes.run_sizes,
    "stacks": stacks.run_stacks,
    "markers": markers.run_markers,
}
_DRAWN = {"ageing": _draw_ageing, "sizes": _draw_sizes, "stacks": _draw_stacks, "markers": _draw_markers}
