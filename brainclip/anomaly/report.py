"""The report of the study: tables, with plain baselines among them, and sheets of maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atlas.files import write_whole
from brainclip.anomaly.calibration import SHARE
from brainclip.anomaly.figures import SENSITIVITY
from brainclip.anomaly.measured import Table, differences, of_method, plainest
from brainclip.anomaly.methods import BASELINES, DECODER
from brainclip.anomaly.sheets import write_sheets
from brainclip.anomaly.study import SPREAD, Study
from brainclip.config import as_dict
from brainclip.evaluate.figures import Figure
from brainclip.weights import write_json


def write_report(study: Study) -> str:
    """report.json, report.md and the sheets in the study's folder; which detectors were best, in a line."""
    tables: Table = {}
    plain: dict[str, dict[str, str]] = {}
    for source in study.recipe.pairs:
        told = {name: study.scored(source, name) for name in study.methods}
        tables[source] = {name: of_method(study, source, one) for name, one in told.items()}
        plain[source] = plainest(study, source, told)
        if plain[source]:
            for name, better in differences(study, source, told, plain[source]).items():
                tables[source][name]["better"] = better
    best = {source: _best(rows) for source, rows in tables.items()}
    whole = {
        "recipe": as_dict(study.recipe),
        "model": study.model.name,
        "decoder": as_dict(study.healthy) if DECODER in study.methods else None,
        "choice": study.choice if DECODER in study.methods else None,
        "plain": plain,
        "sources": tables,
        "best": best,
    }
    sheets = [path for source in tables for path in write_sheets(study, source)]
    write_json(study.folder / "report.json", whole)
    write_whole(study.folder / "report.md", as_markdown(whole, study, sheets))
    return "; ".join(
        f"{source}: slices by {one['slices']}, pixels by {one['pixels']}" for source, one in best.items()
    )


def _best(rows: Table) -> dict[str, str]:
    slices = max(rows, key=lambda name: rows[name]["slices"]["auroc"]["value"])
    local = [name for name in rows if rows[name]["pixels"]]
    pixels = max(local, key=lambda name: rows[name]["pixels"]["auprc"]["value"]) if local else "none"
    return {"slices": slices, "pixels": pixels}


def as_markdown(whole: Table, study: Study, sheets: list[str]) -> str:
    """The tables as text."""
    lines = ["# Detectors of what is not as in healthy people", ""]
    lines += [
        f"Model {whole['model']}. Detectors are fitted to training people, scores and maps brought to "
        "a common scale by healthy validation people, and figures are of test people; 95 % interval over "
        "people in brackets. Plain baselines are in italics. Simulated lesions are drawn into the slices of "
        "held-out people; a detector of them is not yet one of disease.",
    ]
    if whole["decoder"]:
        lines += _decoder(whole)
    for source, rows in whole["sources"].items():
        lines += ["", f"## Compared with {source}", ""]
        lines += _main(rows)
        if whole["plain"][source]:
            lines += ["", "### Better than a plain baseline?", ""]
            lines += _betters(rows, whole["plain"][source])
        if any(row["contrasts"] for row in rows.values()):
            lines += ["", "### By contrast: slice AUROC, pixel AUPRC", ""]
            lines += _by_contrast(rows)
        lines += ["", "### Calibration: p-values of healthy test people", ""]
        lines += _calibrations(rows)
        lines += ["", "### Slice AUROC by kind, size and contrast", ""]
        lines += _sweep(rows, "auroc")
        lines += ["", "### Best Dice by kind, size and contrast, lesioned slices alone", ""]
        lines += _sweep(rows, "dice")
        lines += ["", "### Being from elsewhere", ""]
        lines += _shifts(rows)
        if any(row["real"] for row in rows.values()):
            lines += ["", "### Real scans", ""]
            lines += _reals(rows)
    lines += ["", *[f"![{name}]({name})\n" for name in sheets]]
    return "\n".join(lines) + "\n"


def _short(figure: Figure) -> str:
    """A figure and its interval; n stands below the table."""
    if figure["value"] is None:
        return "-"
    between = "" if figure["low"] is None else f" ({figure['low']:.2f} to {figure['high']:.2f})"
    return f"{figure['value']:.2f}{between}"


def _named(name: str) -> str:
    return f"*{name}*" if name in BASELINES else name


def _rows_of(rows: Table, head: str, cells: Callable[[str, Table], list[str]]) -> list[str]:
    lines = [head, "|" + "---|" * head.count(" | ") + "---|"]
    return lines + [f"| {' | '.join([_named(name), *cells(name, row)])} |" for name, row in rows.items()]


def _main(rows: Table) -> list[str]:
    first = next(iter(rows.values()))["slices"]
    local = next((row["pixels"] for row in rows.values() if row["pixels"]), None)
    each = first["slices_per_person"]

    def cells(name: str, row: Table) -> list[str]:
        alarms, pixels = row["slices"]["false_alarms"], row["pixels"]
        value, low, high = (each * (alarms[key] or 0) for key in ("value", "low", "high"))
        per_person = f"{value:.1f} ({low:.1f} to {high:.1f})"
        found = [_short(row["slices"]["auroc"]), _short(row["slices"]["auprc"]), per_person]
        return found + (
            [_short(pixels[key]) for key in ("auprc", "dice", "dice_at")] if pixels else ["", "", ""]
        )

    titles = (
        "slice AUROC",
        "slice AUPRC",
        "false alarms",
        "pixel AUPRC",
        "best Dice",
        "Dice, threshold of validation",
    )
    head = f"| detector | {' | '.join(titles)} |"
    lines = _rows_of(rows, head, cells)
    chance = f", of pixels {local['prevalence']:.3f}" if local else ""
    return [
        *lines,
        "",
        f"{first['auroc']['n']} slices of {first['auroc'].get('subjects')} people. By chance: AUPRC of "
        f"slices {first['prevalence']:.2f}{chance}. Pixels: without {SPREAD}, which has no place of its own. "
        f"False alarms: of {each:g} slices of a healthy person, at the score that finds {SENSITIVITY:.0%} of "
        "all lesioned slices of the sweep. Validation's Dice: at the threshold that was best in validation "
        "people.",
    ]


def _decoder(whole: Table) -> list[str]:
    """What the decoder was set to, and what it was chosen among."""
    told = ", ".join(f"{key} {value}" for key, value in whole["decoder"].items())
    lines = ["", f"Decoder: {told}."]
    if whole["choice"]:
        lines += ["", "Chosen by the pixel AUPRC in axial validation slices among:", ""]
        lines += ["| candidate | slices | pixel AUPRC | best Dice |", "|---|---|---|---|"]
        for name, one in whole["choice"].items():
            lines.append(f"| {name} | {one['slices']} | {_short(one['auprc'])} | {_short(one['dice'])} |")
    return lines


def _betters(rows: Table, plain: dict[str, str]) -> list[str]:
    def cells(name: str, row: Table) -> list[str]:
        return [_short(row["better"][of]) if of in row["better"] else "" for of in ("slices", "pixels")]

    head = f"| detector | slice AUROC less *{plain['slices']}* | pixel AUPRC less *{plain['pixels']}* |"
    note = (
        "The baseline is the best one in validation people, in slices and in pixels. A difference is of the "
        "same people; where its interval holds 0, the two cannot be told apart."
    )
    return [*_rows_of(rows, head, cells), "", note]


def _by_contrast(rows: Table) -> list[str]:
    names = list(next(iter(rows.values()))["contrasts"])

    def cells(name: str, row: Table) -> list[str]:
        found = [row["contrasts"][modality] for modality in names]
        return [
            f"{one['auroc']['value']:.2f}" + (f", {one['auprc']['value']:.2f}" if "auprc" in one else "")
            for one in found
        ]

    first = next(iter(rows.values()))["contrasts"]
    titles = [f"{modality}, {first[modality]['n']} slices" for modality in names]
    return _rows_of(rows, f"| detector | {' | '.join(titles)} |", cells)


def _calibrations(rows: Table) -> list[str]:
    def cells(name: str, row: Table) -> list[str]:
        slices, people = row["calibration"]["slices"], row["calibration"]["people"]
        return [
            f"{slices['ks']:.3f} (p {slices['p']:.2g}, n {slices['n']})",
            f"{people['ks']:.3f} (p {people['p']:.2g}, n {people['n']})",
        ]

    on = next(iter(rows.values()))["calibration"]["calibrated_on"]
    note = (
        "KS: largest distance from uniform; its p keeps a person's slices together. A person's score: mean "
        f"of the highest {SHARE:.0%} of the slices; calibrated on {on} validation people, so no p is below "
        f"1/{on + 1}."
    )
    return [*_rows_of(rows, "| detector | KS, slices | KS, people |", cells), "", note]


def _sweep(rows: Table, key: str) -> list[str]:
    names = [name for name in rows if any(key in step for step in rows[name]["sweep"].values())]
    if not names:
        return ["No detector here has maps."]
    lines = [
        f"| lesion | n | {' | '.join(_named(name) for name in names)} |",
        "|" + "---|" * (len(names) + 2),
    ]
    for step, first in rows[names[0]]["sweep"].items():
        values = [rows[name]["sweep"][step][key]["value"] for name in names]
        best = max(value for value in values if value is not None)
        shown_values = [f"**{value:.2f}**" if value == best else f"{value:.2f}" for value in values]
        lines.append(f"| {step} | {first['n']} | {' | '.join(shown_values)} |")
    return lines


def _shifts(rows: Table) -> list[str]:
    names = sorted({name for row in rows.values() for name in row["shift"]["elsewhere"]})

    def cells(name: str, row: Table) -> list[str]:
        found = row["shift"]
        others = []
        for other in names:
            one = found["elsewhere"].get(other)
            share = "" if one is None or one["share"] is None else f" ({one['share']:.1f}x)"
            others.append("" if one is None else f"{one['median']:.1f}{share}")
        return [f"{found['healthy']:.1f}", f"{found['lesions']:.1f}", *others]

    counts = [max(row["shift"]["elsewhere"].get(n, {"n": 0})["n"] for row in rows.values()) for n in names]
    titles = [f"{name}, n {count}" for name, count in zip(names, counts, strict=True)]
    head = f"| detector | {' | '.join(['own healthy people', 'full contrast lesions', *titles])} |"
    note = (
        "Median scores of slices, in deviations from the healthy validation median. In brackets how many "
        "times the lesions' score slices without a lesion have because they are from elsewhere (of patients: "
        "their slices without a lesion): at 1 and above, being from elsewhere counts as much as a lesion."
    )
    return [*_rows_of(rows, head, cells), "", note]


def _reals(rows: Table) -> list[str]:
    """Two tables, detectors by scans: how well lesions are found, and the p-values of slices."""
    scans = list(dict.fromkeys(scan for row in rows.values() for scan in row["real"]))
    first = next(iter(rows.values()))["real"]
    sick = [scan for scan in scans if first[scan]["lesioned"]]

    def found(name: str, row: Table) -> list[str]:
        values = [[row["real"][scan].get(key) for key in ("auroc", "auprc", "dice")] for scan in sick]
        return [", ".join("-" if value is None else f"{value:.2f}" for value in one) for one in values]

    def told(name: str, row: Table) -> list[str]:
        medians = [row["real"][scan]["median_p"] for scan in scans]
        return [
            ", ".join(f"{p[of]:.2f}" for of in ("lesioned", "free") if np.isfinite(p[of])) for p in medians
        ]

    counts = {scan: f"{first[scan]['lesioned']} of {first[scan]['slices']}" for scan in scans}
    lines = []
    if sick:
        titles = [f"{scan}, {counts[scan]} slices" for scan in sick]
        lines += _rows_of(rows, f"| detector | {' | '.join(titles)} |", found)
        shares = [f"-, {first[scan].get('prevalence', 0):.3f}, -" for scan in sick]
        lines += [f"| by chance | {' | '.join(shares)} |", ""]
        lines += [
            "Slice AUROC, pixel AUPRC and best Dice over all thresholds, of the slices of one person.",
            "",
        ]
    titles = [f"{scan}, {first[scan]['slices']} slices" for scan in scans]
    lines += _rows_of(rows, f"| detector | {' | '.join(titles)} |", told)
    note = "Median p of the slices with and without a lesion; of a healthy person from here it would be 0.5."
    return [*lines, "", note]
