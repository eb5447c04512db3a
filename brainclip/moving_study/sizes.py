"""Do edits of a structure's size change it, as much as people of that size differ from others?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from tqdm import tqdm

from atlas.slices import Geometry
from brainclip.data import PairDataset
from brainclip.evaluate.figures import average, proportion
from brainclip.model import BrainCLIP
from brainclip.moving import points
from brainclip.moving.changes import edit
from brainclip.moving.directions import fit
from brainclip.moving_study.ageing import cohort_slices, measure_of
from brainclip.moving_study.kept import arrays, in_8_bits, key_of
from brainclip.moving_study.recipe import MovingRecipe
from brainclip.sizes import FILE, SIZES
from brainclip.weights import hash_file, read_json, read_weights, write_json

STRUCTURE = "lateral ventricles"
WORDS = {"small": "with small ventricles", "enlarged": "with larger ventricles"}
AGES = (35, 65)
RAW, GAINS = "directions_raw.safetensors", "gains.json"  # as fitted, and how long they are made
TRIED = (1.0, 2.0, 4.0, 8.0)  # lengths of the directions
SHIFT, PEOPLE = 1000, 6  # number of the first synthetic person on whom the length is chosen, and how many


def directions_file(model: BrainCLIP, recipe: MovingRecipe) -> Path:
    """<folder>/directions.safetensors, made once: fitted on the training people, and scaled per contrast."""
    path, asked = Path(recipe.folder) / FILE, recipe.sizes
    if path.is_file():
        return path
    raw = path.with_name(RAW)
    if not raw.is_file():
        pairs = {name: PairDataset([Path(recipe.pairs[name])], "train") for name in set(asked.fit.values())}
        data = {modality: pairs[name] for modality, name in asked.fit.items()}
        found = fit(model, data, asked.structures, most=asked.most)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in found.items()}, raw, {"clip": model.clip.hash})
    gains = {one: gain(model, recipe, raw, one) for one in asked.fit if one in recipe.ageing.modalities}
    write_json(path.with_name(GAINS), gains)
    lengths = {modality: found["gain"] for modality, found in gains.items()}
    scaled = {key: value * lengths.get(key.split("/")[1], 1.0) for key, value in read_weights(raw).items()}
    save_file(scaled, path, {"clip": model.clip.hash})
    return path


def gain(model: BrainCLIP, recipe: MovingRecipe, raw: Path, modality: str) -> dict[str, Any]:
    """By how much directions are lengthened so that the edits' ventricles differ as people's do.

    people: how much wider, in points of the brain, ventricles are in training people a standard deviation
    larger than others of their age. made: the same of synthetic people (other ones than the report's) by
    TRIED lengths; gain: the length at which the two are equal.
    """
    _, measure = measure_of(recipe, Geometry(model.size, float(model.card["spacing_mm"])))
    cohort = cohort_slices(
        Path(recipe.pairs[recipe.ageing.modalities[modality]]), modality, recipe.ageing.position_mm
    )
    known = (cohort["splits"] == "train") & np.isfinite(cohort["scores"])
    decades, scores = cohort["ages"][known] / 10 - 5, cohort["scores"][known]
    table = np.stack([scores, np.ones_like(decades), decades, decades**2], 1)
    wanted = float(np.linalg.lstsq(table, measure(cohort["grey"][known], modality), rcond=None)[0][0])
    made = {}
    for length in TRIED:
        apart = []
        for person in tqdm(range(PEOPLE), desc=f"length {length:g}", unit="person"):
            found = _edited(model, recipe, raw, modality, SHIFT + person, amount=length)
            apart.append(np.diff([measure(found[f"directions {size}"], modality)[0] for size in WORDS])[0])
        made[length] = float(np.mean(apart)) / (SIZES["enlarged"] - SIZES["small"])
        if made[length] >= wanted:
            break
    return {
        "gain": round(length_for(wanted, made), 3),
        "people": wanted,
        "made": {f"{k:g}": v for k, v in made.items()},
    }


def length_for(wanted: float, made: Mapping[float, float]) -> float:
    """The shortest length whose effect is `wanted`, linear between those made, from nothing at 0; that of the
    largest effect where none reaches it. made: length -> effect, ascending in length."""
    lengths, effects = [0.0, *made], [0.0, *made.values()]
    for k in range(1, len(lengths)):
        if effects[k] >= wanted:
            share = (wanted - effects[k - 1]) / (effects[k] - effects[k - 1])
            return lengths[k - 1] + share * (lengths[k] - lengths[k - 1])
    return lengths[int(np.argmax(effects))]


def run_sizes(model: BrainCLIP, recipe: MovingRecipe) -> dict[str, Any]:
    """Contrast -> change of the lateral ventricles, in percent of the brain, by edits along directions and by
    captions alone, and how people said to have small or enlarged ones differ from others of the cohort."""
    path, asked = directions_file(model, recipe), recipe.sizes
    name, measure = measure_of(recipe, Geometry(model.size, float(model.card["spacing_mm"])))
    report: dict[str, Any] = {"measure": name, "gains": read_json(path.with_name(GAINS)), "contrasts": {}}
    for modality, pairs in recipe.ageing.modalities.items():
        made = [_edited(model, recipe, path, modality, person) for person in tqdm(range(asked.people))]
        own = np.array([measure(one["before"], modality)[0] for one in made])
        found: dict[str, Any] = {"before": average(own), "edits": {}}
        for size, sign in (("small", -1), ("enlarged", 1)):
            for way in ("directions", "captions"):
                change = np.array([measure(one[f"{way} {size}"], modality)[0] for one in made]) - own
                found["edits"][f"{size}, by {way}"] = {
                    "change": average(change),
                    "right": proportion(sign * change > 0),
                }
        found["people"] = _of_people(recipe, pairs, modality, measure)
        report["contrasts"][modality] = found
    return report


def _edited(
    model: BrainCLIP, recipe: MovingRecipe, path: Path, modality: str, person: int, *, amount: float = 1.0
) -> dict[str, np.ndarray]:
    """(1, H, W) uint8 of a synthetic person before and after each edit, made once; by captions alone of the
    report's people only."""
    who, age = ("woman", "man")[person % 2], AGES[person // 2 % 2]
    prompt = f"axial {modality} slice, z = {recipe.ageing.position_mm:g} mm, healthy {age}-year-old {who}"
    seed = recipe.seed + 100 + person
    key = key_of(model, prompt, seed, hash_file(path), amount)

    def make() -> dict[str, np.ndarray]:
        point = points.of_prompt(model, prompt, seed=seed)
        before = points.draw(model, [point], [{}])[0]
        found = {"before": before.pixels}
        stated = point.prompt.mentioned
        for size, words in WORDS.items():
            made = edit(before, words, amount=amount, directions=path, model=model.folder)
            found[f"directions {size}"] = made.pixels
            if person >= SHIFT:
                continue
            step = points.difference(model, stated, {**stated, "sizes": {STRUCTURE: size}}, seed=seed)
            plain = points.draw(model, [points.moved(point, step)], [{}])[0]
            found[f"captions {size}"] = plain.pixels
        return {name: in_8_bits(pixels)[None] for name, pixels in found.items()}

    return arrays(Path(recipe.folder) / "sizes" / f"{key}.npz", make)


def _of_people(recipe: MovingRecipe, pairs: str, modality: str, measure: Any) -> dict[str, Any]:
    """Mean share of people with small and with enlarged ventricles less that expected at their age: of all,
    and of those of validation and test."""
    cohort = cohort_slices(Path(recipe.pairs[pairs]), modality, recipe.ageing.position_mm)
    shares = measure(cohort["grey"], modality)
    away = shares - np.polyval(np.polyfit(cohort["ages"], shares, 2), cohort["ages"])
    unseen = cohort["splits"] != "train"
    found = {size: average(away[cohort["sizes"] == size]) for size in WORDS}
    return found | {f"{size}, unseen": average(away[(cohort["sizes"] == size) & unseen]) for size in WORDS}


def drawn(model: BrainCLIP, recipe: MovingRecipe, modality: str, person: int) -> dict[str, np.ndarray]:
    """The pictures of one person, for the report."""
    return _edited(model, recipe, directions_file(model, recipe), modality, person)
