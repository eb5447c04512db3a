"""Arms: which slices a classifier is trained on, and one training and its predictions, kept on disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainclip.config import TrainingRecipe, as_dict, digest
from brainclip.errors import RecipeError
from brainclip.evaluate.downstream.networks import Classifier
from brainclip.evaluate.downstream.recipe import ArmRecipe, DownstreamRecipe
from brainclip.evaluate.downstream.tasks import Task
from brainclip.train.loop import Batch, Stage, train
from brainclip.weights import read_json, write_json

LEAST_TWINS = 20  # synthetic slices left over, below which an accuracy on them says nothing
OF_A_RUN = ("network", "size", "width", "epochs", "batch", "rate", "precision")  # what its result depends on


@dataclass(frozen=True)
class TrainingSet:
    """Rows of the task's training slices: real ones, and those whose twins are taken; repeats are meant."""

    real: np.ndarray
    twins: np.ndarray

    def __len__(self) -> int:
        return len(self.real) + len(self.twins)


def training_set(task: Task, arm: ArmRecipe, seed: int, minority: str = "") -> TrainingSet:
    """The rows of an arm. Arms of one seed have one order of the people, so equal shares are equal people."""
    subjects = task.training.subjects
    order = np.random.default_rng([seed, 21]).permutation(np.unique(subjects))
    first = order[: round(arm.real * len(order))]
    last = order[round((1 - arm.synthetic) * len(order)) :]
    real = np.flatnonzero(np.isin(subjects, first))
    twins = np.flatnonzero(np.isin(subjects, last))
    if arm.kept == 1:
        return TrainingSet(real, twins)
    rare = task.training.labels[real] == task.names.index(minority)
    people = [name for name in first if name in set(subjects[real][rare])]
    stays = np.isin(subjects[real], people[: max(1, round(arm.kept * len(people)))])
    kept, lost = real[rare & stays], real[rare & ~stays]
    filled = np.resize(kept, len(lost)) if arm.fill == "repeat" else kept[:0]
    twins = np.concatenate([twins, lost]) if arm.fill == "synthetic" else twins
    return TrainingSet(np.concatenate([real[~rare], kept, filled]), twins)


def run_arm(
    recipe: DownstreamRecipe, name: str, task: Task, arm_name: str, seed: int, made_by: str
) -> dict[str, Any]:
    """real, twins, steps, seconds, predicted (of each test slice), on_twins: value and n; kept in
    <folder>/<task>/<arm>-<seed>/result.json and read from there.

    on_twins: share of right labels among the synthetic slices of people whose twins the arm was not trained
    on. RecipeError for a folder that holds a run of another recipe.
    """
    arm, run = recipe.arm[arm_name], Path(recipe.folder) / name / f"{arm_name}-{seed}"
    compared = {key: value for key, value in as_dict(arm).items() if key not in ("against", "gap")}
    settings = [getattr(recipe, key) for key in OF_A_RUN]
    key = digest([task.hash, made_by, compared, settings, seed, recipe.task[name].minority])
    if (run / "result.json").is_file():
        found = read_json(run / "result.json")
        if found["key"] != key:
            raise RecipeError(
                f"{run}: holds a run on other slices or of another recipe; remove it or set another folder"
            )
        return found
    chosen = training_set(task, arm, seed, recipe.task[name].minority)
    begun = time.monotonic()
    torch.manual_seed(seed)
    classifier = Classifier(recipe.network, len(task.names), width=recipe.width, size=recipe.size)
    steps = 0
    if arm.pretrain:
        steps += _fit(
            recipe, classifier, task, TrainingSet(chosen.real[:0], chosen.twins), 0.0, seed, run / "first"
        )
        chosen_last = TrainingSet(chosen.real, chosen.twins[:0])
        steps += _fit(recipe, classifier, task, chosen_last, arm.steps, seed, run)
    else:
        steps += _fit(recipe, classifier, task, chosen, arm.steps, seed, run)
    left = np.setdiff1d(np.arange(len(task.twins)), chosen.twins)
    right = np.array(classifier.predicted(task.twins[left])) == task.training.labels[left]
    result = {
        "key": key,
        "real": len(chosen.real),
        "twins": len(chosen.twins),
        "steps": steps,
        "seconds": round(time.monotonic() - begun, 2),
        "predicted": classifier.predicted(task.test.grey),
        "on_twins": {"value": float(right.mean()) if len(left) >= LEAST_TWINS else None, "n": len(left)},
    }
    for state in (run / "state.pt", run / "first" / "state.pt"):
        state.unlink(missing_ok=True)
    write_json(run / "result.json", result)
    return result


def _fit(
    recipe: DownstreamRecipe,
    classifier: Classifier,
    task: Task,
    chosen: TrainingSet,
    times: float,
    seed: int,
    run: Path,
) -> int:
    """Train the classifier on these slices; the number of steps. times: as ArmRecipe.steps."""
    rows = len(chosen) if times == 0 else times * len(task.training.labels)
    steps = max(1, round(recipe.epochs * rows / recipe.batch))
    grey = torch.cat([task.training.grey[chosen.real], task.twins[chosen.twins]])
    labels = torch.from_numpy(task.training.labels[np.concatenate([chosen.real, chosen.twins])])

    def batch(step: int) -> Batch:
        """Every slice once an epoch, in an order that (seed, epoch) decides."""
        places = np.arange(step * recipe.batch, (step + 1) * recipe.batch)
        drawn = [
            np.random.default_rng([seed, int(epoch), 22]).permutation(len(chosen))[
                places[places // len(chosen) == epoch] % len(chosen)
            ]
            for epoch in np.unique(places // len(chosen))
        ]
        taken = torch.from_numpy(np.concatenate(drawn))
        return {"images": grey[taken, None].float() / 255, "labels": labels[taken]}

    training = TrainingRecipe(
        mix={},
        steps=steps,
        batch=recipe.batch,
        rate=recipe.rate,
        warmup=0,
        weight_decay=0.0,  # which makes it Adam
        clip_norm=float("inf"),
        ema=0.0,
        precision=recipe.precision,
        device=recipe.device,
        save_every=recipe.save_every,
        seed=seed,
    )
    facts = {"recipe": as_dict(training), "inputs": {"slices": digest([task.hash, labels.tolist()])}}
    train(Stage("downstream", classifier, batch, lambda _: None), training, run, facts)
    return steps
