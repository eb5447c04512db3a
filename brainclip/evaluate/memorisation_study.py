"""Study: does a model copy the slices it was trained on? `brainclip memorisation RECIPE`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlas.files import write_whole
from brainclip.config import as_dict
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError, RecipeError
from brainclip.evaluate.figures import shown
from brainclip.evaluate.memorisation import memorisation
from brainclip.evaluate.nearness import Features, Slices, joined, slices_of
from brainclip.evaluate.pictures import MadePicture, generated, made_pictures
from brainclip.evaluate.prompts import prompts
from brainclip.evaluate.sheet import pair_cell, save_sheet
from brainclip.weights import read_json, write_json

COLUMNS = 4
HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class CheckRecipe:
    """Pictures of the base model or of one adapter, and the pairs folders that it was trained on."""

    pairs: tuple[str, ...] = ()
    adapter: str = "none"
    pictures: str = ""  # folder with such pictures; empty: they are made
    prompts: int = 200  # of the evaluation, when they are made
    modalities: tuple[str, ...] = ()  # of these prompts; empty: all that the model knows


@dataclass(frozen=True)
class MemorisationRecipe:
    """A model and what to compare its pictures with."""

    folder: str = "runs/memorisation"
    model: str = "mini"
    judge: str = ""  # folder of a judge, whose features are a second space; empty: none
    within_mm: float = 6.0  # between the positions of a picture and of the slices it is compared with
    false_alarm: float = 0.01  # share of strangers' slices beyond the threshold
    seed: int = 0
    check: dict[str, CheckRecipe] = field(default_factory=dict)


def check_memorisation(recipe: MemorisationRecipe) -> None:
    """RecipeError for a recipe without a check, or with one without pairs."""
    for name, check in recipe.check.items() or [("NAME", CheckRecipe())]:
        if not check.pairs:
            raise RecipeError(f"[check.{name}] needs pairs, the folders that the model was trained on")


def run_memorisation(recipe: MemorisationRecipe) -> dict[str, Any]:
    """model, checks: name -> figures of brainclip.evaluate.memorisation, passes.

    report.json, report.md and worst_<check>.png (worst.png for one check alone) in the recipe's folder;
    pictures that are made are kept there. RecipeError for a recipe without a check or pairs.
    """
    from brainclip.evaluate.judge import Judge
    from brainclip.model import load

    check_memorisation(recipe)
    model, folder = load(recipe.model), Path(recipe.folder)
    features: Features | None = Judge.load(Path(recipe.judge)).features if recipe.judge else None
    report: dict[str, Any] = {"model": model.name, "recipe": as_dict(recipe), "checks": {}}
    for name, check in recipe.check.items():
        made = [one for one in _made(model, check, folder / "pictures" / name) if one.model == model.name]
        made = [one for one in made if one.adapter == (None if check.adapter == "none" else check.adapter)]
        # an evaluation's folder can hold one prompt and seed twice, made by versions of the code
        made = list({(one.prompt, one.seed): one for one in made}.values())
        if not made:
            raise BrainclipError(f"{check.pictures}: no picture by adapter {check.adapter!r} of {model.name}")
        data = {
            split: PairDataset([Path(path) for path in check.pairs], split) for split in ("train", *HELD_OUT)
        }
        training, held_out = slices_of(data["train"]), joined([slices_of(data[split]) for split in HELD_OUT])
        pictures = slices_of_pictures(made)
        found = memorisation(
            pictures,
            training,
            held_out,
            within_mm=recipe.within_mm,
            false_alarm=recipe.false_alarm,
            features=features,
            seed=recipe.seed,
        )
        for row in found["worst"]:
            row["picture_file"] = made[row["picture"]].file_name
            row["training_file"] = data["train"].pairs[row["training"]].file_name
        report["checks"][name] = {"pairs": data["train"].hash, "adapter": check.adapter} | found
        path = folder / ("worst.png" if len(recipe.check) == 1 else f"worst_{name}.png")
        worst_sheet(found["worst"], pictures, training, [one.prompt for one in made], path)
    report["passes"] = all(found["verdict"]["passes"] for found in report["checks"].values())
    write_whole(folder / "report.md", as_markdown(report))
    write_json(folder / "report.json", report)
    return report


def memorised(study: Path, model: str, folder: Path) -> dict[str, Any]:
    """The report of run_memorisation in the folder `study`, its sheets copied to <folder>/memorisation.

    WeightsError where there is none, BrainclipError where it is of another model.
    """
    report = read_json(study / "report.json")
    if report.get("model") != model:
        raise BrainclipError(
            f"{study}: the memorisation report is of {report.get('model')!r}, not of {model!r}; run "
            "`brainclip memorisation` again"
        )
    for name in report["checks"]:
        source = study / (f"worst_{name}.png" if len(report["checks"]) > 1 else "worst.png")
        if source.is_file():
            (folder / "memorisation").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / "memorisation" / f"{name}.png")
    return report


def _made(model: Any, check: CheckRecipe, folder: Path) -> list[MadePicture]:
    """The pictures of the check's folder, or those of the evaluation's prompts, made and kept in `folder`."""
    if check.pictures:
        return made_pictures(Path(check.pictures))
    asked = prompts(check.prompts, modalities=check.modalities or model.card["modalities"])
    texts = [row.text for row in asked]
    generated(
        model, texts, range(len(texts)), folder, adapter=None if check.adapter == "none" else check.adapter
    )
    return made_pictures(folder)


def slices_of_pictures(made: Sequence[MadePicture]) -> Slices:
    """Pictures as slices, each its own person. BrainclipError for a prompt without a contrast."""
    if vague := next((one for one in made if one.facts.modality is None), None):
        raise BrainclipError(
            f"{vague.file_name}: its prompt {vague.prompt!r} names no contrast, so it is not known which "
            "training slices to compare it with; leave it out or name one"
        )
    grey = np.stack([(one.pixels * 255).round().astype(np.uint8) for one in made])
    return Slices(
        torch.from_numpy(grey)[:, None],
        np.array([f"{one.facts.plane} {one.facts.modality}" for one in made]),
        np.array([float(one.facts.position_mm or 0.0) for one in made]),
        np.array([one.file_name for one in made]),
    )


def worst_sheet(
    worst: Sequence[dict[str, Any]], pictures: Slices, training: Slices, texts: Sequence[str], path: Path
) -> None:
    """A PNG of the nearest pairs: the training slice beside the picture."""
    cells = []
    for row in worst:
        true, made = training.images[row["training"], 0], pictures.images[row["picture"], 0]
        left = f"trained on {training.subject[row['training']].rpartition('/')[2]}"
        right = f"made; relative {row['relative']:.2f}"
        cells.append(pair_cell(texts[row["picture"]], true.numpy() / 255, made.numpy() / 255, left, right))
    title = (
        "The pictures nearest to one training person, nearest first. Of each pair, left: the training slice; "
        "right: generated (synthetic). Relative: distance to this person by the mean of those that come next."
    )
    save_sheet(cells, min(COLUMNS, len(cells)), path, title=title)


def as_markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = [f"# Memorisation: {report['model']} {'passes' if report['passes'] else 'FAILS'}", ""]
    for name, found in report["checks"].items():
        verdict = found["verdict"]
        lines += [f"## {name}: {'passes' if verdict['passes'] else 'FAILS'}", ""]
        lines += [f"- {sentence}" for sentence in verdict["because"]]
        lines += ["", "| | |", "|---|---|"]
        people = f"{found['training']['slices']:,} slices of {found['training']['subjects']} people"
        held = f"{found['held_out']['slices']:,} slices of {found['held_out']['subjects']} people"
        rows = [
            ("pictures", f"{found['pictures']}, of which {found['without_comparison']} without comparison"),
            ("training", f"{people}; compared: same plane and contrast, within {found['within_mm']:g} mm"),
            ("held out", held),
            ("membership, AUC (0.5: none)", shown(found["membership"])),
            (
                f"nearer than {found['duplicates']['distance']:.3f} to another picture",
                shown(found["duplicates"]),
            ),
        ]
        rows += [
            (
                "held out and in training, left out here",
                f"{pair['held_out']} seems to be {pair['training']}: nearest for {pair['share']:.0%} of "
                f"{pair['n']} slices",
            )
            for pair in found["same_person"]
        ]
        lines += [f"| {text} | {value} |" for text, value in rows]
        for space in ("details", "features"):
            if space in found:
                lines += _space(space, found[space])
    return "\n".join(lines) + "\n"


def _space(name: str, part: dict[str, Any]) -> list[str]:
    """The table of one space."""
    lines = [
        "",
        f"| relative distance by {name} | least | 1 % | 5 % | median | 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for who, values in part["quantiles"].items():
        lines.append(f"| {who.replace('_', ' ')} | {' | '.join(f'{value:.3f}' for value in values)} |")
    alarms = part["false_alarms"]
    lines += ["", f"Pictures below {part['threshold']:.3f}: {shown(part['beyond'])}, p {part['p']:.2g}."]
    if alarms["splits"]:
        mean, low, high = alarms["per_picture"]
        lines[-1] += (
            f" False alarms among real held-out people, {alarms['splits']} random halves taken for generated "
            f"sets: {mean:.2%} of slices ({low:.2%} to {high:.2%}), {alarms['per_set']:.1%} of sets."
        )
    return lines
