"""Study: how far the regions of captions agree with an independent segmentation, and at what cost.

Every head of the recipe by every setting of registration, one line each in rows.jsonl, so that a second run
goes on with what is missing; report.json and report.md at the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from atlas.agreement import Known, Setting, crossed, known_regions, measure
from atlas.atlas import load_atlas
from atlas.files import write_whole
from atlas.sources import Scan, find_scans
from atlas.volume import load_labels
from atlas.workers import each_result
from brainclip.config import as_dict
from brainclip.errors import RecipeError
from brainclip.weights import write_json

DEEP = ("ventricles", "basal ganglia", "diencephalon", "brainstem", "medial temporal lobe")
DRAWS = 2000  # of the bootstrap over heads
MOST_CROSSED = 0.2  # of a side's voxels; a segmentation with more has confused left and right


@dataclass(frozen=True)
class AgreementRecipe:
    """Heads with a segmentation beside each, and the settings to compare.

    heads: setting -> how many heads, evenly through the data set, 0 for all; one that is left out takes all.
    """

    folder: str = "runs/agreement"
    source: str = "ixi"
    input: str = ""
    masks: str = ""  # the segmentations
    table: str = "muse"  # its ids, see atlas.agreement
    every_mm: float = 4.0
    workers: int = 2
    heads: dict[str, int] = field(default_factory=dict)
    setting: dict[str, Setting] = field(default_factory=lambda: {"chosen": Setting()})


def run_agreement(recipe: AgreementRecipe) -> dict[str, Any]:
    """Setting -> figures, as summarise gives them; report.json and report.md in the recipe's folder.

    Heads whose segmentation confuses left and right are named in the report, which then has each setting a
    second time without them ("chosen, sides sound").
    Raises RecipeError for scans without a segmentation and for a folder made with another recipe.
    """
    folder = Path(recipe.folder)
    scans, _ = find_scans(recipe.source, Path(recipe.input), masks=Path(recipe.masks))
    scans = [scan for scan in scans if scan.modality == "T1" and scan.mask is not None]
    if not scans:
        raise RecipeError(f"{recipe.input}: no T1 has a segmentation in {recipe.masks!r} beside it")
    asked = as_dict(recipe) | {"workers": 0, "folder": ""}
    settings = folder / "recipe.json"
    if settings.exists() and json.loads(settings.read_text(encoding="utf-8")) != asked:
        raise RecipeError(f"{folder}: made with another recipe; remove it or set another folder")
    write_json(settings, asked)
    jobs = [(name, scan) for name in recipe.setting for scan in _chosen(scans, recipe.heads.get(name, 0))]
    rows = _measure_all(recipe, jobs, folder / "rows.jsonl")
    known = known_regions(recipe.table, load_atlas())
    used = {row["scan"] for row in rows}
    shares = {
        scan.path.name: crossed(load_labels(scan.mask), recipe.table)
        for scan in scans
        if scan.mask and scan.path.name in used
    }
    confused = {name: share for name, share in shares.items() if share > MOST_CROSSED}
    report = {}
    for name in recipe.setting:
        own = [row for row in rows if row["setting"] == name]
        sound = [row for row in own if row["scan"] not in confused]
        report[name] = summarise(own, known)
        if 0 < len(sound) < len(own):
            report[f"{name}, sides sound"] = summarise(sound, known)
    write_json(folder / "report.json", report)
    write_whole(folder / "report.md", as_markdown(report, confused))
    return report


def _chosen(scans: Sequence[Scan], heads: int) -> list[Scan]:
    """So many scans, evenly through the list; 0: all."""
    if not 0 < heads < len(scans):
        return list(scans)
    return [scans[round(index)] for index in np.linspace(0, len(scans) - 1, heads)]


def _measure_all(recipe: AgreementRecipe, jobs: list[tuple[str, Scan]], path: Path) -> list[dict[str, Any]]:
    """The rows of all jobs, those of an earlier run included."""
    rows = []
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]  # a cut line is measured again
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    done = {(row["setting"], row["scan"]) for row in rows}
    missing = [(name, scan) for name, scan in jobs if (name, scan.path.name) not in done]
    todo = [(scan, recipe.setting[name], recipe.table, recipe.every_mm) for name, scan in missing]
    with (
        path.open("a", encoding="utf-8") as file,
        tqdm(total=len(missing), desc="agreement", unit="head", file=sys.stderr) as bar,
    ):
        for index, found in each_result(measure, todo, workers=recipe.workers):
            row = {"setting": missing[index][0]} | found
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows.append(row)
            bar.update()
    return rows


def summarise(rows: list[dict[str, Any]], known: Sequence[Known]) -> dict[str, Any]:
    """Figures of one setting: each with its interval of 95 % by drawing heads again.

    seconds: of processor time, mean of a head on one thread. dice: mean over the regions that both mean
    alike, and of each.
    mentions: precision, recall and F1 of all regions, of those that both mean alike, of the ten largest deep
    structures together and of each. volumes, of four heads and more: Pearson's r and bias, the mean of
    ours - theirs in percent.
    """
    same = [region.name for region in known if region.match == "same"]
    dice = np.array([[row["dice"][name] for name in same] for row in rows])
    figures: dict[str, Any] = {
        "heads": len(rows),
        "seconds": round(float(np.mean([row["seconds"] for row in rows])), 2),
        "dice": _with_interval(dice, lambda drawn: float(drawn.mean())),
        "dice_of": {name: round(float(dice[:, k].mean()), 3) for k, name in enumerate(same)},
    }
    if "mentions" not in rows[0]:
        return figures
    counts = {
        region.name: np.array([row["mentions"][region.name] for row in rows]) for region in known
    }  # each (heads, 3)
    deep = _largest_deep(counts)
    groups = {"all": list(counts), "same": same, "deep": [name for names in deep.values() for name in names]}
    figures["mentions"] = {
        group: _scores(np.sum([counts[name] for name in names], axis=0)) for group, names in groups.items()
    }
    figures["mentions_of"] = {
        name: _scores(np.sum([counts[sided] for sided in names], axis=0)) for name, names in deep.items()
    }
    figures["volumes"] = {}
    for structure in rows[0]["volumes"] if len(rows) > 3 else ():  # fewer have no interval
        ours, theirs = np.array([row["volumes"][structure] for row in rows]).T
        r = stats.pearsonr(ours, theirs)
        low, high = r.confidence_interval()
        figures["volumes"][structure] = {
            "r": [round(float(value), 3) for value in (r.statistic, low, high)],
            "bias_percent": round(float(100 * (ours - theirs).mean() / theirs.mean()), 1),
            "theirs_ml": round(float(theirs.mean()) / 1000, 2),
        }
    return figures


def _largest_deep(counts: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """The ten deep structures seen in most slices of the segmentation -> their names with side."""
    names: dict[str, list[str]] = {}
    for region in load_atlas().regions:
        if region.full_name in counts and region.parent in DEEP and "gyrus" not in region.name:
            names.setdefault(region.name, []).append(region.full_name)
    names.pop("entorhinal cortex", None)

    def seen(name: str) -> int:
        return int(sum(counts[sided][:, [0, 2]].sum() for sided in names[name]))

    return {name: names[name] for name in sorted(names, key=seen, reverse=True)[:10]}


def _scores(counts: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1 (with interval) from (heads, 3) counts of both, ours alone, theirs alone."""
    both, ours, theirs = counts.sum(0)

    def f1(drawn: np.ndarray) -> float:
        both, ours, theirs = drawn.sum(0)
        return float(2 * both / (2 * both + ours + theirs))

    return {
        "precision": round(float(both / (both + ours)), 3),
        "recall": round(float(both / (both + theirs)), 3),
        "f1": _with_interval(counts, f1),
        "n": int(both + ours + theirs),
    }


def _with_interval(values: np.ndarray, figure: Any) -> list[float]:
    """[figure, low, high]: 95 % by the bootstrap over the first axis."""
    draw = np.random.default_rng(0)
    drawn = [figure(values[draw.integers(0, len(values), len(values))]) for _ in range(DRAWS)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return [round(float(value), 3) for value in (figure(values), low, high)]


def as_markdown(report: dict[str, Any], confused: dict[str, float]) -> str:
    """The report as tables. confused: scan -> the share of a side's voxels that its segmentation has beyond
    the middle, of heads where that is too many."""
    lines = ["# Agreement with an independent segmentation", "", "Intervals: 95 %, heads drawn again.", ""]
    if confused:
        found = ", ".join(f"{name.split('.')[0]} ({share:.0%})" for name, share in sorted(confused.items()))
        lines += [
            "The segmentation confuses left and right in these heads (in brackets the share of one side's "
            f'voxels that lies beyond the middle of the brain): {found}. "sides sound": without them.',
            "",
        ]
    lines += ["| setting | heads | s a head, one thread | mean Dice | F1 of mentions, all | same | deep |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, figures in report.items():
        cells = [name, str(figures["heads"]), f"{figures['seconds']:.1f}", _shown(figures["dice"])]
        groups = figures.get("mentions", {})
        cells += [_shown(groups[group]["f1"]) if groups else "" for group in ("all", "same", "deep")]
        lines.append(f"| {' | '.join(cells)} |")
    for name, figures in report.items():
        if "mentions" not in figures:
            continue
        lines += ["", f"## {name}", "", "| mentions | n | precision | recall | F1 |", "|---|---|---|---|---|"]
        for group, scores in (figures["mentions"] | figures["mentions_of"]).items():
            cells = [group, str(scores["n"]), f"{scores['precision']:.3f}", f"{scores['recall']:.3f}"]
            lines.append(f"| {' | '.join([*cells, _shown(scores['f1'])])} |")
        lines += ["", "| volume | theirs, ml | Pearson's r | bias |", "|---|---|---|---|"]
        for structure, numbers in figures["volumes"].items():
            cells = [structure, f"{numbers['theirs_ml']:.1f}", _shown(numbers["r"])]
            lines.append(f"| {' | '.join(cells)} | {numbers['bias_percent']:+.1f} % |")
    return "\n".join(lines) + "\n"


def _shown(numbers: Sequence[float]) -> str:
    return f"{numbers[0]:.3f} ({numbers[1]:.3f} to {numbers[2]:.3f})"
