"""Reader study, the result: good shares, agreement of raters, pictures needed; tables and stacked bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from atlas.files import write_whole
from brainclip.evaluate.figures import Figure, proportion, wilson
from brainclip.evaluate.reader import REAL, Scale, read_forms, read_key, scales
from brainclip.weights import write_json

POWER, ALPHA = 0.8, 0.05
COLOURS = ("#a50026", "#d6604d", "#777777", "#4393c3", "#2166ac")  # worst to best


def good_share(counts: Sequence[int], good: int) -> Figure:
    """Share of ratings at level `good` and above, Wilson interval, n. counts: ratings of level 1, 2, ..."""
    hits, n = sum(counts[good - 1 :]), sum(counts)
    low, high = wilson(hits, n)
    value = (20000 * hits + n) // (2 * n) / 10000 if n else None  # halves upwards, as papers print them
    return {"value": value, "low": round(low, 4), "high": round(high, 4), "n": n}


def kappa(
    first: Sequence[int], second: Sequence[int], levels: int, weights: str | None = None
) -> float | None:
    """Cohen's kappa (1960) of two raters, levels 1 to `levels`; weights: None, "linear", "quadratic" (1968).

    None where it is not defined: both raters gave one and the same level throughout.
    """
    if len(set(first) | set(second)) == 1:
        return None
    return float(cohen_kappa_score(first, second, labels=list(range(1, levels + 1)), weights=weights))


def alpha(ratings: np.ndarray, metric: str = "ordinal") -> float | None:
    """Krippendorff's alpha of ratings (raters, pictures), nan where a rater gave none.

    metric: "nominal", "ordinal" or "interval". Pictures with fewer than two ratings do not count. None where
    all that count are of one level. Krippendorff 2011, Computing Krippendorff's alpha-reliability.
    """
    ratings = np.asarray(ratings, dtype=float)
    units = [unit[~np.isnan(unit)] for unit in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    levels = np.unique(np.concatenate(units)) if units else np.array([])
    if len(levels) < 2:
        return None
    coincidences = np.zeros((len(levels), len(levels)))
    for unit in units:
        count = (unit[:, None] == levels).sum(0).astype(float)  # of each level
        coincidences += (np.outer(count, count) - np.diag(count)) / (len(unit) - 1)
    total = coincidences.sum(0)
    distance = _distances(levels, total, metric)
    expected = (np.outer(total, total) * distance).sum() / (total.sum() - 1)
    return float(1 - (coincidences * distance).sum() / expected)


def _distances(levels: np.ndarray, total: np.ndarray, metric: str) -> np.ndarray:
    """The squared distance between every two levels; total: how many ratings each has."""
    if metric == "nominal":
        return 1.0 - np.eye(len(levels))
    # ordinal: the ratings that lie between the middles of two levels
    places = levels if metric == "interval" else np.cumsum(total) - total / 2
    return np.square(places[:, None] - places[None])


def pictures_needed(first: float, second: float, *, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """How many pictures in each of two groups tell good shares apart: two-sided test, normal approximation.

    None for equal shares. Fleiss, Levin and Paik 2003, chapter 4, without continuity correction.
    """
    if first == second:
        return None
    a, b = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)
    middle = (first + second) / 2
    alone = np.sqrt(first * (1 - first) + second * (1 - second))
    return ceil(((a * np.sqrt(2 * middle * (1 - middle)) + b * alone) / (first - second)) ** 2)


def score(key: dict[str, Any], forms: dict[str, dict[str, dict[str, int]]]) -> dict[str, Any]:
    """scale -> groups, raters and agreement, from a key and what read_forms gives.

    groups: counts of each level, good (Wilson over ratings), with several raters good_over_pictures (pictures
    drawn again, as two ratings of one picture are not independent), and but for the controls pictures_needed,
    to tell this share from theirs. raters: rater -> group -> good. agreement: kappa of every two raters,
    plain and weighted, share_equal, alpha (ordinal) of all.
    """
    pictures = key["pictures"]
    report: dict[str, Any] = {}
    for scale in scales(key["phase"]):
        levels = {rater: form[scale.name] for rater, form in forms.items()}
        groups: dict[str, dict[str, Any]] = {}
        for group in _groups(key):
            numbers = [number for number in pictures if pictures[number]["group"] == group]
            given = [levels[rater][number] for number in numbers for rater in levels]
            counts = [given.count(k + 1) for k in range(len(scale.levels))]
            groups[group] = {
                "pictures": len(numbers),
                "counts": counts,
                "good": good_share(counts, scale.good),
            }
            if len(forms) > 1:
                hits = np.array(given) >= scale.good
                groups[group]["good_over_pictures"] = proportion(hits, np.repeat(numbers, len(forms)))
        for group, found in groups.items():
            if group != REAL and REAL in groups:
                shares = found["good"]["value"], groups[REAL]["good"]["value"]
                found["pictures_needed"] = pictures_needed(*shares)
        report[scale.name] = {
            "groups": groups,
            "raters": {rater: _of_rater(key, levels[rater], scale) for rater in levels},
            "agreement": _agreement(levels, len(scale.levels)),
        }
    return report


def _groups(key: dict[str, Any]) -> list[str]:
    """The groups in order of name, the controls last."""
    groups = {picture["group"] for picture in key["pictures"].values()}
    return sorted(groups - {REAL}) + [REAL] * (REAL in groups)


def _of_rater(key: dict[str, Any], levels: dict[str, int], scale: Scale) -> dict[str, Figure]:
    shares = {}
    for group in _groups(key):
        given = [level for number, level in levels.items() if key["pictures"][number]["group"] == group]
        shares[group] = good_share([given.count(k + 1) for k in range(len(scale.levels))], scale.good)
    return shares


def _agreement(levels: dict[str, dict[str, int]], count: int) -> dict[str, Any]:
    """Of all raters together and of every two; empty for one rater."""
    if len(levels) < 2:
        return {}
    numbers = sorted(next(iter(levels.values())))
    rows = {rater: [form[number] for number in numbers] for rater, form in levels.items()}
    pairs = []
    for a, b in combinations(rows, 2):
        kappas = {
            name or "kappa": kappa(rows[a], rows[b], count, name) for name in (None, "linear", "quadratic")
        }
        equal = float(np.mean(np.array(rows[a]) == np.array(rows[b])))
        pairs.append({"raters": [a, b], "n": len(numbers), "share_equal": equal} | kappas)
    return {"pairs": pairs, "alpha_ordinal": alpha(np.array(list(rows.values())))}


def write_score(key_path: Path, forms: Sequence[Path], out: Path, *, note: str = "") -> dict[str, Any]:
    """The report of a rated kit; report.json, report.md and a bars_<scale>.png for each question in `out`.

    note: said at the head of the report and of every figure, such as where the ratings come from.
    """
    key = read_key(key_path)
    questions = scales(key["phase"])
    report = {"note": note, "phase": key["phase"], "raters": sorted(path.stem for path in forms)}
    report["scales"] = score(key, read_forms(key, forms))
    out.mkdir(parents=True, exist_ok=True)
    for scale in questions:
        counts = {group: row["counts"] for group, row in report["scales"][scale.name]["groups"].items()}
        bars(counts, scale, out / f"bars_{scale.name}.png", note=note)
    write_whole(out / "report.md", as_markdown(report))
    write_json(out / "report.json", report)
    return report


def as_markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = [f"# Reader study, phase {report['phase']}", ""]
    lines += [f"**{report['note']}**", ""] if report["note"] else []
    raters = report["raters"]
    lines += [
        f"Raters: {', '.join(raters)}. Intervals: 95 %, Wilson over ratings"
        + ("; over pictures: pictures drawn again. " if len(raters) > 1 else ". ")
        + "Needed: pictures in each group to tell its good share from that of the real slices "
        f"(power {POWER:.0%}, two-sided {ALPHA:.0%}, normal approximation).",
        "",
    ]
    for scale in scales(report["phase"]):
        part = report["scales"][scale.name]
        lines += [f"## {scale.name}: {scale.question}", "", *share_table(part["groups"], scale), ""]
        lines += _agreement_lines(part)
    return "\n".join(lines)


def share_table(groups: dict[str, dict[str, Any]], scale: Scale) -> list[str]:
    """A row for each group: how many ratings of each level, good share with interval, pictures needed."""
    several = any("good_over_pictures" in row for row in groups.values())
    words = [f"{k} {level}" for k, level in enumerate(scale.levels, 1)]
    head = [
        "group",
        *words,
        f"good ({scale.good} and above)",
        *(["over pictures"] if several else []),
        "needed",
    ]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head))]
    for group, row in groups.items():
        good = row["good"]
        share = f"{round(good['value'] * good['n'])}/{good['n']} = {good['value']:.4f} {_interval(good)}"
        cells = [group, *map(str, row["counts"]), share]
        cells += [_interval(row["good_over_pictures"])] if several else []
        needed = row.get("pictures_needed")
        lines.append(f"| {' | '.join([*cells, '' if needed is None else str(needed)])} |")
    return lines


def _interval(figure: Figure) -> str:
    return "" if figure["low"] is None else f"({figure['low']:.3f} to {figure['high']:.3f})"


def _agreement_lines(part: dict[str, Any]) -> list[str]:
    lines = ["| rater | group | good |", "|---|---|---|"]
    lines += [
        f"| {rater} | {group} | {good['value']:.4f} {_interval(good)} |"
        for rater, groups in part["raters"].items()
        for group, good in groups.items()
    ]
    if not part["agreement"]:
        return [*lines, ""]
    lines += ["", "| raters | n | equal | kappa | linear | quadratic |", "|---|---|---|---|---|---|"]
    for row in part["agreement"]["pairs"]:
        numbers = [_number(row[name]) for name in ("share_equal", "kappa", "linear", "quadratic")]
        lines.append(f"| {' and '.join(row['raters'])} | {row['n']} | {' | '.join(numbers)} |")
    return [*lines, "", f"Krippendorff's alpha, ordinal: {_number(part['agreement']['alpha_ordinal'])}.", ""]


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def bars(counts: dict[str, list[int]], scale: Scale, path: Path, *, note: str = "") -> None:
    """Stacked bars, one a group: the share of each level, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 1.6 + 0.5 * len(counts)), dpi=120, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    colours = COLOURS if len(scale.levels) == 5 else (COLOURS[0], *COLOURS[3:])
    for place, numbers in enumerate(counts.values()):
        left, total = 0.0, max(1, sum(numbers))
        for level, number in enumerate(numbers):
            share = 100 * number / total
            label = scale.levels[level] if place == 0 else None
            axes.barh(place, share, left=left, color=colours[level], label=label, edgecolor="white")
            if number:
                axes.text(left + share / 2, place, str(number), ha="center", va="center", color="white")
            left += share
    axes.set_yticks(range(len(counts)), [f"{group} (n {sum(numbers)})" for group, numbers in counts.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of ratings")
    axes.set_title("\n".join([scale.question, *wrap(note, 90)]), fontsize="medium")
    drawing.legend(loc="outside lower center", ncols=len(scale.levels), fontsize="small")
    drawing.savefig(path, metadata={"Software": None})
