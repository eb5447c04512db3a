"""Does one synthetic person age as people do, and stay that person?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from atlas.lesion_shapes import slice_points
from atlas.lesions import FLUID
from atlas.slices import Geometry
from brainclip.config import as_dict
from brainclip.data import PairDataset
from brainclip.errors import PairsError, RecipeError
from brainclip.evaluate import SPLITS
from brainclip.evaluate.figures import Figure, average, bootstrap, proportion, rank_correlation
from brainclip.model import BrainCLIP
from brainclip.moving.changes import trajectory
from brainclip.moving.directions import normal_scores
from brainclip.moving_study.kept import arrays, in_8_bits, key_of
from brainclip.moving_study.recipe import MovingRecipe

NEAR_MM = 3.0  # how far a person's slice may lie from the place
MIDDLE_MM = ((-24.0, 24.0), (-48.0, 34.0))  # x and y between which the fluid is the lateral ventricles'
FINE, COARSE = 0.8, 4.0  # pixels: standard deviations between which a slice's own pattern lies
BRAIN = 0.02

Measure = Callable[[np.ndarray, str], np.ndarray]  # (N, H, W) uint8 and contrast -> (N,) percent of the brain


def measure_of(recipe: MovingRecipe, geometry: Geometry) -> tuple[str, Measure]:
    """Name and function that say what share of the brain in a slice is lateral ventricle."""
    if recipe.segmenter:
        from brainclip.evaluate.segmenter import Segmenter, shares

        segmenter = Segmenter.load(Path(recipe.segmenter))

        def by_segmenter(grey: np.ndarray, modality: str) -> np.ndarray:
            images = torch.from_numpy(grey.astype(np.float32) / 255)[:, None]
            found: np.ndarray = shares(segmenter.tissues(images))[:, 0]
            return found

        return f"lateral ventricles by the evaluation's segmenter {segmenter.hash}", by_segmenter
    points = slice_points("axial", recipe.ageing.position_mm, geometry)
    (left, right), (back, front) = MIDDLE_MM
    middle = (points[..., 0] > left) & (points[..., 0] < right)
    middle &= (points[..., 1] > back) & (points[..., 1] < front)

    def by_grey(grey: np.ndarray, modality: str) -> np.ndarray:
        if modality not in FLUID:
            raise RecipeError(f"[ageing] {modality}: fluid cannot be told by grey; give a segmenter")
        values, level = grey / 255, sum(FLUID[modality]) / 2
        fluid = values < level if FLUID[modality][0] > FLUID[modality][1] else values > level
        brain = np.stack([ndimage.binary_fill_holes(one > BRAIN) for one in values])
        share: np.ndarray = 100 * (fluid & brain & middle).sum((1, 2)) / np.maximum(1, brain.sum((1, 2)))
        return share

    return "fluid by its grey level in the middle of the brain, 48 x 82 mm", by_grey


def run_ageing(model: BrainCLIP, recipe: MovingRecipe) -> dict[str, Any]:
    """Contrast -> way -> curve, order and identity of the trajectories, beside the cohort's."""
    geometry = Geometry(model.size, float(model.card["spacing_mm"]))
    name, measure = measure_of(recipe, geometry)
    report: dict[str, Any] = {"measure": name, "contrasts": {}}
    for modality, pairs in recipe.ageing.modalities.items():
        cohort = cohort_slices(Path(recipe.pairs[pairs]), modality, recipe.ageing.position_mm)
        shares = measure(cohort["grey"], modality)
        found: dict[str, Any] = {
            "cohort": {"pairs": pairs, **curve(cohort["ages"], shares, cohort["people"])},
            "ways": {},
        }
        for by in recipe.ageing.by:
            made = trajectories(model, recipe, modality, by)
            people, steps = made["grey"].shape[:2]
            values = measure(made["grey"].reshape(-1, *made["grey"].shape[2:]), modality)
            values = values.reshape(people, steps)
            who = np.repeat(np.arange(people), steps)
            rising = np.diff(values, axis=1) > 0
            order = np.array([rank_correlation(made["ages"], row) for row in values])
            found["ways"][by] = {
                **curve(np.tile(made["ages"], people), values.ravel(), who),
                "rising_steps": proportion(rising.ravel(), np.repeat(np.arange(people), steps - 1)),
                "rising_people": proportion(np.all(rising, axis=1)),
                "order": average(order),
                "identity": identity_kept(made["grey"]),
                "shares": np.round(values, 3).tolist(),
                "ages": made["ages"].tolist(),
            }
        found["cohort"]["points"] = np.round([cohort["ages"], shares], 2).tolist()
        report["contrasts"][modality] = found
    return report


def trajectories(model: BrainCLIP, recipe: MovingRecipe, modality: str, by: str) -> dict[str, np.ndarray]:
    """grey (people, steps, H, W) uint8 and ages (steps,), made once."""
    asked = recipe.ageing
    key = key_of(model, as_dict(asked) | {"modalities": "", "people": 0}, modality, by, recipe.seed)
    folder = Path(recipe.folder) / "ageing" / key
    grey, ages = [], np.zeros(0)
    for person in tqdm(range(asked.people), desc=f"ageing, {modality} by {by}", unit="person"):
        who = ("woman", "man")[person % 2]

        def make(who: str = who, person: int = person) -> dict[str, np.ndarray]:
            made = trajectory(
                f"axial {modality} slice, z = {asked.position_mm:g} mm, healthy {who}",
                age=(asked.age[0], asked.age[1]),
                steps=asked.steps,
                seed=recipe.seed + person,
                by=by,
                model=model.folder,
            )
            return {
                "grey": in_8_bits(np.stack([picture.pixels for picture in made])),
                "ages": np.array([picture.settings["move"]["age"] for picture in made], dtype=float),
            }

        kept = arrays(folder / f"{person}.npz", make)
        grey.append(kept["grey"])
        ages = kept["ages"]
    return {"grey": np.stack(grey), "ages": ages}


def cohort_slices(folder: Path, modality: str, position_mm: float) -> dict[str, np.ndarray]:
    """The axial slice nearest to a place of every person of known age. grey (N, H, W) uint8, ages, people,
    sizes: what is said of their lateral ventricles ("" for nothing), scores: their size in deviations (nan
    where not known), splits. PairsError where there are fewer than three.
    """
    grey, ages, people, sizes, scores, splits = [], [], [], [], [], []
    for split in ("train", *SPLITS):
        data = PairDataset([folder], split)
        nearest: dict[str, tuple[float, int]] = {}
        for row, pair in enumerate(data.pairs):
            facts = pair.facts
            if facts.plane != "axial" or facts.modality != modality or "age" not in facts.known:
                continue
            away = abs(float(facts.position_mm or 0) - position_mm)
            if away <= NEAR_MM:
                nearest[pair.subject] = min(nearest.get(pair.subject, (np.inf, -1)), (away, row))
        rows = [row for _, row in nearest.values()]
        if rows:
            grey.append(in_8_bits(data.images(rows)[:, 0].numpy()))
        ages += [float(data.pairs[row].facts.known["age"]) for row in rows]
        sizes += [data.pairs[row].facts.sizes.get("lateral ventricles", "") for row in rows]
        known = [data.pairs[row].facts.percentiles.get("lateral ventricles", np.nan) for row in rows]
        scores += normal_scores(np.array(known, dtype=float)).tolist()
        splits += [split] * len(rows)
        people += list(nearest)
    if len(people) < 3:
        raise PairsError(
            f"{folder}: {len(people)} people with an axial {modality} slice at {position_mm:g} mm"
        )
    names = {"people": np.array(people), "sizes": np.array(sizes), "splits": np.array(splits)}
    return {"grey": np.concatenate(grey), "ages": np.array(ages), "scores": np.array(scores), **names}


def curve(ages: np.ndarray, shares: np.ndarray, people: np.ndarray) -> dict[str, Figure]:
    """slope: percentage points of the brain a decade, by least squares; rank: Spearman of age and share; at
    30 and at 80 years: of the parabola through all. Intervals over people."""

    def fitted(rows: np.ndarray, degree: int) -> np.ndarray:
        """Coefficients, the highest first; nan where there are too few different ages."""
        if len(np.unique(ages[rows])) <= degree:
            return np.full(degree + 1, np.nan)
        return np.polyfit((ages[rows] - 55) / 10, shares[rows], degree)

    def slope(rows: np.ndarray) -> float:
        return float(fitted(rows, 1)[0])

    def at(years: float) -> Callable[[np.ndarray], float]:
        return lambda rows: float(np.polyval(fitted(rows, 2), (years - 55) / 10))

    n = len(ages)
    return {
        "slope": bootstrap(slope, n, people),
        "rank": bootstrap(lambda rows: rank_correlation(ages[rows], shares[rows]), n, people),
        "at_30": bootstrap(at(30), n, people),
        "at_80": bootstrap(at(80), n, people),
    }


def identity_kept(grey: np.ndarray) -> dict[str, Any]:
    """Whether slices (people, steps, H, W) of a person at different ages are alike, more than others.

    Alike: correlation of the slices' own patterns, between FINE and COARSE, less the mean of all people at
    that age. same, other: mean of pairs of different ages; found: share of slices whose nearest among all
    slices of other ages is the same person; chance: the same with people drawn anew at each age.
    """
    people, steps = grey.shape[:2]
    values = grey.astype(np.float64) / 255
    pattern = ndimage.gaussian_filter(values, (0, 0, FINE, FINE)) - ndimage.gaussian_filter(
        values, (0, 0, COARSE, COARSE)
    )
    pattern = (pattern - pattern.mean(0)).reshape(people * steps, -1)
    pattern /= np.maximum(np.linalg.norm(pattern, axis=1, keepdims=True), 1e-9)
    alike = pattern @ pattern.T
    who, age = np.divmod(np.arange(people * steps), steps)
    differ = age[:, None] != age[None]
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.permutation(people) for _ in range(steps)], 1).ravel()
    result: dict[str, Any] = {}
    for name, names in (("found", who), ("chance", drawn)):
        nearest = np.where(differ, alike, -np.inf).argmax(1)
        result[name] = proportion(names[nearest] == names, who)
    same = differ & (who[:, None] == who[None])
    result["same"] = average(np.array([alike[row][same[row]].mean() for row in range(len(who))]), who)
    other = differ & (who[:, None] != who[None])
    result["other"] = average(np.array([alike[row][other[row]].mean() for row in range(len(who))]), who)
    return result
