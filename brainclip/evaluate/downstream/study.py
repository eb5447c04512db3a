"""The study: every task, seed and arm, gone on with where it stopped. `brainclip downstream RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from atlas.files import write_whole
from brainclip.config import as_dict
from brainclip.data import PairDataset
from brainclip.evaluate.downstream.arms import run_arm, training_set
from brainclip.evaluate.downstream.compare import compared
from brainclip.evaluate.downstream.recipe import DownstreamRecipe, check
from brainclip.evaluate.downstream.report import as_markdown, curve, sheet
from brainclip.evaluate.downstream.tasks import Task, load_task
from brainclip.evaluate.pictures import identity
from brainclip.model import load
from brainclip.weights import write_json


def run_downstream(recipe: DownstreamRecipe) -> dict[str, Any]:
    """model, tasks: name -> what was trained on and tested, and the figures of downstream.compare.

    report.json, report.md, shares.png and slices_<task>.png in the recipe's folder, where a part that is done
    is not done again. RecipeError before any work for a recipe that cannot be run.
    """
    check(recipe)
    folder, model = Path(recipe.folder), load(recipe.model)
    report: dict[str, Any] = {"model": model.name, "recipe": as_dict(recipe), "tasks": {}}
    made_by = identity(model)
    for name in recipe.task:
        task = load_task(recipe, name, model)
        arms = {arm: recipe.arm[arm] for arm in recipe.arms_of(name)}
        jobs = [
            (seed, arm) for seed in recipe.seeds for arm in arms
        ]  # all arms have a seed before any has two
        found = {
            (arm, seed): run_arm(recipe, name, task, arm, seed, made_by)
            for seed, arm in tqdm(jobs, desc=name, unit="run")
        }
        predicted = {arm: np.array([found[arm, seed]["predicted"] for seed in recipe.seeds]) for arm in arms}
        figures = compared(predicted, arms, task.test.labels, task.test.subjects)
        for arm, row in figures["arms"].items():
            runs = [found[arm, seed] for seed in recipe.seeds]
            for key in ("real", "twins", "steps", "seconds"):
                row[key] = float(np.mean([run[key] for run in runs]))
            left = [run["on_twins"]["value"] for run in runs if run["on_twins"]["value"] is not None]
            row["on_twins"] = float(np.mean(left)) if left else None
        report["tasks"][name] = _described(recipe, name, task) | figures
        sets = {
            arm: training_set(task, arms[arm], recipe.seeds[0], recipe.task[name].minority) for arm in arms
        }
        sheet(task, sets, folder / f"slices_{name}.png")
    curve(report, folder / "shares.png")
    write_whole(folder / "report.md", as_markdown(report))
    write_json(folder / "report.json", report)
    return report


def _described(recipe: DownstreamRecipe, name: str, task: Task) -> dict[str, Any]:
    """What a task's slices are."""
    table = recipe.task[name]
    counts: dict[str, Any] = {}
    for split, part in (("training", task.training), ("test", task.test)):
        by_label = {label: int((part.labels == k).sum()) for k, label in enumerate(task.names)}
        counts[split] = {
            "slices": len(part.labels),
            "people": len(np.unique(part.subjects)),
            "labels": by_label,
        }
    data = PairDataset([Path(path) for path in table.pairs], "train")
    return {
        "tells": table.labels,
        "twins": table.twins,
        "simulated": any(dataset["synthetic"] for dataset in data.datasets),
        "splits": list(table.test),
        "chance": max(counts["test"]["labels"].values()) / counts["test"]["slices"],
        **counts,
    }
