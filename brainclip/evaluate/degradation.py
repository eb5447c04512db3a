"""Study: do distances by an extractor's features grow as real slices are made worse, and from which grade on?

Held-out slices are degraded in grades and compared with training slices of other people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from atlas.files import write_whole
from brainclip.clip import Clip
from brainclip.config import EvaluateRecipe, as_dict
from brainclip.data import PairDataset
from brainclip.errors import RecipeError
from brainclip.evaluate.distribution import LEAST, frechet, kernel, squared_mmd
from brainclip.evaluate.features import FeatureFolder, extractors
from brainclip.evaluate.figures import rank_correlation, rounded, two_sample
from brainclip.evaluate.judge import Judge
from brainclip.evaluate.matched import matching_rows, slices_at
from brainclip.evaluate.prompts import Asked
from brainclip.weights import write_json

METRICS = ("fid", "kid")
MARKED = ("values", "above_floor", "paired")  # by grade
GRADES: dict[str, tuple[float, ...]] = {  # see MEANINGS
    "noise": (0.01, 0.02, 0.04, 0.08, 0.16),
    "blur": (0.4, 0.6, 0.9, 1.4, 2.0),
    "mixing": (0.1, 0.2, 0.3, 0.4, 0.5),
    "halves": (0.1, 0.25, 0.5, 0.75, 1.0),
}
MEANINGS = {
    "noise": "standard deviation within the brain, of a grey scale from 0 to 1",
    "blur": "standard deviation of a Gaussian in pixels",
    "mixing": "share of another person's slice of about the same place in every pixel",
    "halves": "share of slices whose one half is another person's",
}
DRAWS = 100

Statistic = Callable[[np.ndarray, np.ndarray], float]  # of rows of the reference and of the tried slices


@dataclass(frozen=True)
class DegradationRecipe:
    """Slices of real people, and the networks to be tried on them."""

    folder: str = "runs/degradation"
    pairs: tuple[str, ...] = ("runs/mini/pairs/ixi",)  # folders of real slices
    split: str = "test"  # whose slices are degraded; those of the training split are the reference
    slices: int = 300
    clip: str = "runs/mini/model/clip"
    judge: str = "runs/mini/judge"
    seed: int = 0
    evaluate: EvaluateRecipe = field(default_factory=EvaluateRecipe)


def run_degradation(recipe: DegradationRecipe) -> dict[str, Any]:
    """Extractor -> figures, as `tried` gives them, the best first; degradation.json and .md in the folder.

    Features are kept there, so that a second run with one more extractor computes its features alone.
    RecipeError for too few slices, PairsError and WeightsError for what is not there.
    """
    folder = Path(recipe.folder)
    folders = [Path(name) for name in recipe.pairs]
    tested, reference = (PairDataset(folders, split) for split in (recipe.split, "train"))
    if min(recipe.slices, len(tested)) < LEAST:
        raise RecipeError(f"{min(recipe.slices, len(tested))} slices; the study needs {LEAST} at least")
    if len({pair.subject for pair in reference.pairs}) < 2:
        raise RecipeError("one person in the training split; the floor needs two at least")
    known = extractors(Clip.load(Path(recipe.clip)), Judge.load(Path(recipe.judge)), recipe.evaluate)
    generator = np.random.default_rng(recipe.seed)
    rows = np.sort(generator.permutation(len(tested))[: recipe.slices])
    same = [_asked(tested, i) for i in rows]
    whole = slices_at(tested, rows)
    other = slices_at(reference, matching_rows(reference, same, [folders] * len(rows), times=1))
    partners = tested.images(partner_rows(tested, rows, generator))
    pictures = {"": whole.images} | {
        f"{kind} {number}": degraded(kind, grade, whole.images, partners, seed=recipe.seed)
        for kind, grades in GRADES.items()
        for number, grade in enumerate(grades, 1)
    }
    report: dict[str, Any] = {}
    kept = FeatureFolder(folder / "features")
    for extractor in known:
        seen = {
            name: kept.features(extractor, images)
            for name, images in tqdm(pictures.items(), desc=extractor.name, unit="grade")
        }
        base = kept.features(extractor, other.images)
        assert other.subjects is not None and whole.subjects is not None
        found = tried(base, seen, other.subjects, whole.subjects)
        report[extractor.name] = {"hash": extractor.hash} | found
    report = dict(sorted(report.items(), key=lambda item: _rank(item[1]), reverse=True))
    sizes = {"slices": len(rows), "people": len({tested.pairs[i].subject for i in rows})}
    table = {"recipe": as_dict(recipe), "pairs": tested.hash, **sizes, "extractors": report}
    write_whole(folder / "degradation.md", as_markdown(table))
    write_json(folder / "degradation.json", table)
    return report


def _asked(data: PairDataset, i: int) -> Asked:
    facts = data.pairs[i].facts
    return Asked("", str(facts.plane), str(facts.modality), float(facts.position_mm or 0), None, None, None)


def partner_rows(data: PairDataset, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """For each of `rows` the slice of another person, of the same plane, contrast and folder, that is nearest
    in place, at random among equals. RecipeError where a slice has none."""
    place = np.array([pair.facts.position_mm or 0.0 for pair in data.pairs])
    person = np.array([pair.subject for pair in data.pairs])
    kind = np.array(
        [f"{data.folder_of[k]} {p.facts.plane} {p.facts.modality}" for k, p in enumerate(data.pairs)]
    )
    chosen = []
    for i in rows:
        order = generator.permutation(np.flatnonzero((kind == kind[i]) & (person != person[i])))
        if not len(order):
            raise RecipeError(
                f"{person[i]} alone has {kind[i].split(' ', 1)[1]} slices; mixing needs those of two people"
            )
        chosen.append(int(order[np.abs(place[order] - place[i]).argmin()]))
    return np.array(chosen, dtype=int)


def degraded(
    kind: str, grade: float, images: torch.Tensor, partners: torch.Tensor, *, seed: int
) -> torch.Tensor:
    """Slices (N, 1, H, W) in [0, 1] made worse in one of GRADES' ways, 8 bits as pictures have.

    partners: (N, 1, H, W) another person's slice for each. Noise is drawn anew for a slice, not for a grade.
    """
    values = images[:, 0].numpy().astype(np.float64)
    generator = np.random.default_rng([seed, 1])
    if kind == "noise":
        values = values + grade * generator.standard_normal(values.shape) * (values > 0)
    elif kind == "blur":
        values = ndimage.gaussian_filter(values, (0, grade, grade))
    elif kind == "mixing":
        values = (1 - grade) * values + grade * partners[:, 0].numpy()
    else:
        half = values.shape[2] // 2
        changed = generator.permutation(len(values))[: round(grade * len(values))]
        values[changed, :, half:] = partners[changed, 0, :, half:].numpy()
    return torch.from_numpy(np.round(values.clip(0, 1) * 255).astype(np.float32) / 255)[:, None]


def tried(
    base: np.ndarray, seen: dict[str, np.ndarray], people: np.ndarray, others: np.ndarray
) -> dict[str, Any]:
    """How the distances of degraded slices from the reference follow the grade.

    base (N, D): features of the reference, of `people` (N,). seen: "" -> features (M, D) of the slices as
    they are, "noise 1" -> of a grade; of `others` (M,). For each metric the "floor", the distance of the
    slices as they are, with its interval over people of both sides; for each degradation by grade: `values`;
    `above_floor`, is the value beyond that interval? `paired`, is the rise above 0 when the same people are
    drawn for the slices as they are and degraded? Then `spearman` of grade, 0 included, and value, and
    `rise`, the last value's over the floor in units of the floor's upper half interval.
    score, paired, spearman: shares of all grades of both metrics, and the mean.
    """
    result: dict[str, Any] = {"dimensions": base.shape[1]}
    rows: list[dict[str, Any]] = []
    every = np.arange(len(base)), np.arange(len(others))
    for metric in METRICS:
        least = 0.0 if metric == "fid" else -np.inf
        whole = _statistic(metric, base, seen[""])
        floor = two_sample(whole, people, len(others), others, least=least, draws=DRAWS)
        result[metric] = {"floor": floor}
        for kind, grades in GRADES.items():
            values, rises = [], []
            for number in range(1, len(grades) + 1):
                graded = _statistic(metric, base, seen[f"{kind} {number}"])
                values.append(graded(*every))
                rise = _difference(graded, whole)
                rises.append(two_sample(rise, people, len(others), others, draws=DRAWS))
            order = rank_correlation(np.arange(len(grades) + 1), np.array([floor["value"], *values]))
            rows.append(
                {
                    "values": [rounded(value) for value in values],
                    "above_floor": [bool(value > floor["high"]) for value in values],
                    "paired": [bool(found["low"] > 0) for found in rises],
                    "spearman": rounded(order),
                    "rise": rounded(rises[-1]["value"] / (floor["high"] - floor["value"])),
                }
            )
            result[metric][kind] = rows[-1]
    for name, key in (("score", "above_floor"), ("paired", "paired")):
        marks = [mark for row in rows for mark in row[key]]
        result[name] = rounded(sum(marks) / len(marks))
    return result | {"spearman": rounded(sum(row["spearman"] for row in rows) / len(rows))}


def _rank(found: dict[str, Any]) -> tuple[float, float, float]:
    """What an extractor is ranked by: the grades beyond the floor, those that a pair tells, their order."""
    return found["score"], found["paired"], found["spearman"]


def _difference(one: Statistic, other: Statistic) -> Statistic:
    return lambda first, second: one(first, second) - other(first, second)


def _statistic(metric: str, base: np.ndarray, seen: np.ndarray) -> Statistic:
    """The distance of rows of `base` and of `seen`; KID here the unbiased estimate from all of them."""
    base, seen = base.astype(np.float64), seen.astype(np.float64)
    if metric == "fid":
        return lambda first, second: frechet(base[first], seen[second])
    both = np.concatenate([base, seen])
    table = kernel(both, both)
    return lambda first, second: squared_mmd(table, first, second + len(base))


def as_markdown(table: dict[str, Any]) -> str:
    """The ranking, and for each metric the values of every grade."""
    lines = [
        "# Do distances of features follow the quality of real slices?",
        "",
        f"{table['slices']} slices of {table['people']} held-out people, degraded in five grades, against as "
        "many training slices of other people. Bold: beyond the upper end of the 95 % interval of the floor, "
        "the distance of the slices as they are, drawn over people on both sides: what a model's pictures "
        "would have to exceed. Star: above the same slices as they are, with the same people drawn for both. "
        "The reference has the places of these slices, so a KID without any difference is below 0; FIDs of "
        "so few slices are too large.",
        "",
        "| rank | extractor | weights | dimensions | beyond the floor | told in pairs | Spearman, grade |",
        "|---|---|---|---|---|---|---|",
    ]
    for rank, (name, found) in enumerate(table["extractors"].items(), 1):
        cells = [str(rank), name, found["hash"], str(found["dimensions"])]
        cells += [f"{found['score']:.0%}", f"{found['paired']:.0%}", f"{found['spearman']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for metric in METRICS:
        lines += ["", f"## {metric.upper()}", ""]
        lines += ["| extractor | degradation | floor | grade 1 | 2 | 3 | 4 | 5 | Spearman | rise |"]
        lines += ["|---|---|---|---|---|---|---|---|---|---|"]
        for name, found in table["extractors"].items():
            floor = found[metric]["floor"]
            for kind in GRADES:
                row = found[metric][kind]
                cells = [name, kind, f"{floor['value']:.3g} ({floor['low']:.3g} to {floor['high']:.3g})"]
                for value, beyond, told in zip(*(row[k] for k in MARKED), strict=True):
                    text = f"**{value:.3g}**" if beyond else f"{value:.3g}"
                    cells.append(f"{text} \\*" if told else text)
                cells += [f"{row['spearman']:.2f}", f"{row['rise']:.2g}"]
                lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "rise: of grade 5 over the floor, in units of the upper half of the floor's interval."]
    lines += ["", "## Grades", ""]
    lines += [f"- {kind}, {MEANINGS[kind]}: {', '.join(map(str, row))}" for kind, row in GRADES.items()]
    return "\n".join(lines) + "\n"
