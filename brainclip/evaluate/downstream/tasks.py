"""Tasks: which slices a classifier sees, what it has to tell of them, and a synthetic twin of each.

The twin of a training slice is a picture for a prompt of its facts: plane, contrast, position, age and sex.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atlas.facts import AXIS, Facts
from atlas.lesions import lesion_in_slice, random_lesion
from atlas.records import Pair
from atlas.slices import Geometry
from brainclip.config import digest
from brainclip.data import PairDataset
from brainclip.errors import RecipeError
from brainclip.evaluate.downstream.recipe import DownstreamRecipe, TaskRecipe
from brainclip.evaluate.pictures import generated
from brainclip.model import BrainCLIP

LESION = ("healthy", "lesion")
NOUN = {"female": "woman", "male": "man", None: "adult"}


def _plane(pair: Pair, task: TaskRecipe) -> str | None:
    return pair.facts.plane


def _plane_contrast(pair: Pair, task: TaskRecipe) -> str | None:
    return f"{pair.facts.plane} {pair.facts.modality}"


def _age_band(pair: Pair, task: TaskRecipe) -> str | None:
    age = pair.facts.known.get("age")
    if age is None:
        return None
    band = int(np.searchsorted(task.bands, age, side="right"))
    return band_names(task.bands)[band]


def _sex(pair: Pair, task: TaskRecipe) -> str | None:
    return pair.facts.known.get("sex")


def _lesion(pair: Pair, task: TaskRecipe) -> str | None:
    return LESION[number_of(pair.file_name) % 2]  # a coin for each slice, of its name alone


LABELS: dict[str, Callable[[Pair, TaskRecipe], str | None]] = {
    "plane": _plane,
    "plane_contrast": _plane_contrast,
    "age_band": _age_band,
    "sex": _sex,
    "lesion": _lesion,
}


def band_names(bands: Sequence[float]) -> list[str]:
    """The names of age bands: "below 40", "40 to 60", "60 and above"."""
    middle = [f"{low:g} to {high:g}" for low, high in pairwise(bands)]
    return [f"below {bands[0]:g}", *middle, f"{bands[-1]:g} and above"]


@dataclass(frozen=True)
class Labelled:
    """N slices. grey: (N, H, W) uint8; labels: (N,) int; subjects: (N,) names; pairs: N records."""

    grey: Tensor
    labels: np.ndarray
    subjects: np.ndarray
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Task:
    """names: of the labels 0, 1, ... ; twins: (N, H, W) uint8, a synthetic one for each training slice (or
    what TaskRecipe.twins says); prompts: of the twins; hash: of what the slices were."""

    names: tuple[str, ...]
    training: Labelled
    test: Labelled
    twins: Tensor
    prompts: tuple[str, ...]
    hash: str


def load_task(recipe: DownstreamRecipe, name: str, model: BrainCLIP) -> Task:
    """A task's slices and their twins; twins are made once, into <folder>/pictures, and read from there.

    RecipeError when a label is missing among the slices of a split, and for a person in two splits.
    """
    task = recipe.task[name]
    folders = [Path(path) for path in task.pairs]
    training_data = PairDataset(folders, "train")
    geometry = Geometry(**training_data.geometry)
    rows = _chosen(training_data, task, recipe.seed)
    parts = [_chosen(PairDataset(folders, split), task, None) for split in task.test]
    names = tuple(
        band_names(task.bands)
        if task.labels == "age_band"
        else dict.fromkeys(sorted(str(LABELS[task.labels](pair, task)) for pair in rows[1]))
    )
    of_test = torch.cat([grey for grey, _ in parts]), [pair for _, pairs in parts for pair in pairs]
    training = _labelled(task, names, *rows, geometry)
    test = _labelled(task, names, *of_test, geometry)
    for where, found in (("train", training), ("+".join(task.test), test)):
        if missing := [names[k] for k in range(len(names)) if k not in found.labels]:
            raise RecipeError(f"[task.{name}]: no slice {missing[0]!r} in {where}; widen what it takes")
    if task.minority and task.minority not in names:
        raise RecipeError(f"task.{name}.minority = {task.minority!r}; labels are {', '.join(names)}")
    if both := sorted(set(training.subjects) & set(test.subjects)):
        raise RecipeError(f"[task.{name}]: {both[0]} is in training and test")
    prompts = [prompt_of(pair.facts) for pair in training.pairs]
    seeds = [number_of(f"{pair.file_name} {recipe.seed}") for pair in training.pairs]
    adapter = None if task.adapter == "none" else task.adapter
    if task.twins == "same":
        twins = rows[0]
    else:
        made = generated(model, prompts, seeds, Path(recipe.folder) / "pictures", adapter=adapter)
        twins = (made.images[:, 0] * 255).round().to(torch.uint8)
    if task.labels == "lesion":
        twins = with_lesions(twins, training, task, geometry, "twin")
    contents = [training.labels.tolist(), test.labels.tolist(), *training.subjects, *test.subjects]
    pixels = [int(part.sum(dtype=torch.int64)) for part in (training.grey, test.grey, twins)]
    return Task(names, training, test, twins, tuple(prompts), digest([contents, pixels]))


def _chosen(data: PairDataset, task: TaskRecipe, seed: int | None) -> tuple[Tensor, list[Pair]]:
    """Slices (N, H, W) uint8 that the task takes and that have a label; seed: of the choice of training
    people and of slices, None: of test people, all of them."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row, pair in enumerate(data.pairs):
        facts = pair.facts
        if facts.plane not in task.planes or facts.modality not in task.modalities:
            continue
        if not task.from_mm <= float(facts.position_mm or 0.0) <= task.to_mm:
            continue
        if LABELS[task.labels](pair, task) is not None:
            groups.setdefault((pair.subject, str(facts.plane), str(facts.modality)), []).append(row)
    generator = np.random.default_rng(seed or 0)
    people = generator.permutation(sorted({subject for subject, _, _ in groups}))
    taken = set(people[: task.people] if task.people and seed is not None else people)
    each = task.tested if seed is None else task.per_person
    rows: list[int] = []
    for key in sorted(groups):
        found = generator.permutation(groups[key])
        if key[0] in taken:
            rows += sorted(found[:each] if each else found)
    grey = (data.images(rows)[:, 0] * 255).round().to(torch.uint8)
    return grey, [data.pairs[row] for row in rows]


def _labelled(
    task: TaskRecipe, names: Sequence[str], grey: Tensor, pairs: Sequence[Pair], geometry: Geometry
) -> Labelled:
    """The slices whose label is one of the names."""
    labels = np.array([str(LABELS[task.labels](pair, task)) for pair in pairs])
    rows = np.flatnonzero(np.isin(labels, names))
    kept = tuple(pairs[row] for row in rows)
    found = Labelled(
        grey[torch.from_numpy(rows)],
        np.array([names.index(label) for label in labels[rows]]),
        np.array([pair.subject for pair in kept]),
        kept,
    )
    if task.labels == "lesion":
        found = replace(found, grey=with_lesions(found.grey, found, task, geometry, "real"))
    return found


def with_lesions(grey: Tensor, of: Labelled, task: TaskRecipe, geometry: Geometry, which: str) -> Tensor:
    """(N, H, W) uint8 slices at the places of `of`, those of label "lesion" with a simulated one.

    A lesion depends on the slice's name and `which` alone.
    """
    found = grey.clone()
    for row in np.flatnonzero(of.labels == LESION.index("lesion")):
        facts, seed = of.pairs[row].facts, number_of(f"{of.pairs[row].file_name} {which}")
        place = str(facts.plane), float(facts.position_mm or 0.0)
        generator = np.random.default_rng(seed)
        lesion = random_lesion(
            str(generator.choice(task.lesions)),
            size_mm=float(generator.uniform(min(task.lesion_mm), max(task.lesion_mm))),
            contrast=task.lesion_contrast,
            seed=seed,
            near=place,
        )
        made, _ = lesion_in_slice(
            grey[row].numpy().astype(np.float32) / 255,
            lesion,
            modality=str(facts.modality),
            plane=place[0],
            position_mm=place[1],
            geometry=geometry,
        )
        found[row] = torch.from_numpy((made * 255).round().astype(np.uint8))
    return found


def prompt_of(facts: Facts) -> str:
    """A prompt for a slice of these facts: "axial T1 slice, z = 12 mm, healthy 34-year-old woman"."""
    age, sex = facts.known.get("age"), facts.known.get("sex")
    who = f"{age:.0f}-year-old {NOUN[sex]}" if age is not None else NOUN[sex]
    place = f"{AXIS[str(facts.plane)]} = {facts.position_mm:.0f} mm"
    return f"{facts.plane} {facts.modality} slice, {place}, healthy {who}"


def number_of(text: str) -> int:
    """A number below 2^31 that depends on the text alone."""
    return int(digest([text])[:8], 16) // 2
