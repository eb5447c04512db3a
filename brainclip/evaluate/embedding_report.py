"""The report of the embedding space, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brainclip.evaluate.figures import shown
from brainclip.evaluate.page import table

QUESTIONS = {
    "plane": "plane",
    "modality": "contrast",
    "level": "level (plane given; sagittal: but for the side)",
    "side": "left or right of a sagittal slice",
    "age_band": "young, middle-aged, elderly (plane, contrast, level given)",
    "sex": "sex",
}
READERS = {"zero_shot": "captions (zero-shot)", "neighbours": "nearest training slices"}
WAYS = {"caption": "caption", "against_small": "caption against that of small", "read": "size read"}
AGE = {
    "error": "mean absolute error, years",
    "error_of_the_mean_age": "the mean age of the training people for everybody",
    "difference": "difference of the two",
    "r": "Pearson's r",
    "bias": "bias, years",
}


def markdown(report: Mapping[str, Any]) -> str:
    """The report's tables: value (95 % interval by bootstrap over people, n)."""
    counts = "; ".join(
        f"{name}: {', '.join(f'{people} {split} ({n} slices)' for split, (people, n) in parts.items())}"
        for name, parts in report["counts"].items()
    )
    lines = [
        f"# The embedding space of {report['model']}",
        "",
        "Made by `brainclip embed-report`. Test people, unless a line says otherwise; value (95 % interval "
        f"by bootstrap over people, n). People: {counts}. The simulated people are synthetic.",
        "",
    ]
    lines += ["## Zero-shot classes", "", *_classes(report["classes"])]
    lines += ["## Search", "", *_retrieval(report["retrieval"]), *_searches(report["searches"])]
    lines += ["## Captions and how sure they are", "", *_captions(report["captions"])]
    lines += ["## Fingerprint", "", *_fingerprint(report["fingerprint"])]
    lines += ["## Brain age", "", *_age(report["age"])]
    lines += ["## Slices a second", "", *_speed(report["speed"])]
    lines += ["## Memory of a cohort", "", *_memory(report["memory"])] if report["memory"] else []
    return "\n".join(lines)


def _classes(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, figures in found.items():
        rows = [
            [
                QUESTIONS[question],
                shown(part["ensemble"]),
                shown(part.get("one_wording")),
                f"{part['most_frequent']:.3g}",
            ]
            for question, part in figures.items()
        ]
        lines += table([name, "8 captions an answer", "one caption", "always the most frequent"], rows)
    return lines


def _retrieval(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, part in found.items():
        rows = [
            [key, shown(value)] for key, value in part.items() if isinstance(value, dict) and "value" in value
        ]
        lines += table([f"{name}, {part['pool']} candidates", ""], rows)
        rows = [
            [
                kind,
                *(f"{shown(row[way]['order'])}; {row[way]['top']['value']:.0f}" for way in WAYS),
                f"{row['all']:.0f}",
            ]
            for kind, row in part["ventricles"].items()
        ]
        if rows:
            lines += [
                'Search for "enlarged lateral ventricles": Spearman\'s correlation of the score with the '
                "percentile for the age; mean percentile of the 10 slices found.",
                "",
            ]
            lines += table([name, *WAYS.values(), "mean percentile of all"], rows)
    return lines


def _searches(found: list[Mapping[str, Any]]) -> list[str]:
    lines = []
    for number, row in enumerate(found, 1):
        lines += [
            f"{row['query']} ({row['slices']} slices):",
            "",
            f"![](../search/{number}.png)",
            "",
        ]
    return lines


def reliability_panels(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Question -> cohort and reader -> the bins of its answers, for plots.reliability()."""
    return {
        QUESTIONS[question].partition(" (")[0]: {
            f"{name}, by {title}": part[reader][question]["reliability"]
            for name, part in found.items()
            for reader, title in READERS.items()
        }
        for question in next(iter(found.values()))["zero_shot"]
    }


def _captions(found: Mapping[str, Any]) -> list[str]:
    lines = ["![Share of right answers against their confidence](reliability.svg)", ""]
    for name, part in found.items():
        for reader, title in READERS.items():
            rows = [
                [
                    QUESTIONS[question].partition(" (")[0],
                    shown(row["right"]),
                    f"{row['confidence_before']:.3g}, {row['confidence_after']:.3g}",
                    f"{row['error_before']:.3g}, {shown(row['error_after'])}; {row['error_by_chance']:.3g}",
                    shown(row["said"]),
                    shown(row["said_right"]),
                ]
                for question, row in part[reader].items()
            ]
            heads = [
                f"{name}, by {title}",
                "right",
                "mean confidence before, after calibration",
                "calibration error before, after; of as many answers right as often as they say",
                "said (confidence 0.6 or more)",
                "right among those",
            ]
            lines += table(heads, rows)
            whole = part["whole"][reader]
            lines += table(
                [f"{name}, whole captions by {title}", ""],
                [[key, shown(value)] for key, value in whole.items()],
            )
    return lines


def _fingerprint(found: Mapping[str, Any]) -> list[str]:
    lines = []
    names = [name for name in found if name != "raw_heads"]
    ways = [(name, way) for name in names for way in ("said", "unsaid")]
    heads = ["", *(f"{name}, plane, place and contrast {way}" for name, way in ways)]
    rows = [["false alarms", *(shown(found[name][way]["false_alarm"]) for name, way in ways)]]
    for kind in ("orientation", "place", "window", "contrast"):
        rows.append([f"of {kind}", *(shown(found[name][way]["alarms"][kind]) for name, way in ways)])
    lines += table(heads, rows)
    first = found[names[0]]["said"]["changes"]
    rows = [
        [change, *(_caught(found[name][way]["changes"].get(change)) for name, way in ways)]
        for change in first
    ]
    lines += table(["caught; found as what it is", *heads[1:]], rows)
    if "raw_heads" in found:
        lines += [f"Real whole heads as their files have them: {shown(found['raw_heads'])} caught.", ""]
    return lines


def _caught(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{shown(row['caught'])}; {row['named']['value']:.3g}"


def _age(found: Mapping[str, Any]) -> list[str]:
    people = ", ".join(f"{n} {split}" for split, n in found["people"].items())
    validated = ", ".join(f"{name} {error}" for name, error in found["validation_error"].items())
    lines = [
        f"{found['contrast']}, {people}. Pooling `{found['pooling']}`, ridge penalty {found['penalty']:g}, "
        f"both with the least error on the validation people (years: {validated}).",
        "",
    ]
    rows = [[text, shown(found["test"][key])] for key, text in AGE.items()]
    return lines + table(["test people", ""], rows)


def _speed(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            text,
            f"{found[name]['per_second']} ({found[name]['range'][0]} to {found[name]['range'][1]})",
            f"{found[name]['times'][0]} ({found[name]['times'][1]} to {found[name]['times'][2]})",
            f"{found[name]['per_processor_second']}",
            f"{found[name]['difference']:.1e}",
        ]
        for name, text in (
            ("one", "open_clip, one slice at a time"),
            ("batches", "open_clip, batches of 32"),
            ("brainclip", "brainclip, `embed_image` of a model"),
            ("checked", "brainclip, `embed`, with the fingerprint"),
        )
    ]
    lines = [
        f"{found['slices']} PNG files, from file to embedding, {found['threads']} torch thread(s), median of "
        f"{found['rounds']} rounds in turns (range).",
        "",
    ]
    heads = [
        "",
        "slices a second",
        "times as fast as one at a time",
        "per second of processor time",
        "largest difference of an embedding",
    ]
    return lines + table(heads, rows)


def _memory(found: Mapping[str, Any]) -> list[str]:
    rows = [[visits, str(peak)] for visits, peak in found["peak"].items()]
    many = found["thousand"]
    return [
        f"One process, {found['visits']} visits ({found['slices']} slices, {found['seconds']:.0f} seconds).",
        "",
        *table(["visits embedded so far", "peak memory, MB"], rows),
        f"In the second half the peak grew by {found['slope']:.2g} MB a visit; 1,000 visits would so need "
        f"{found['extrapolated']} MB (extrapolated, not measured).",
        "",
        f"The parts of 1,000 visits ({many['slices']} slices of {many['width']} made-up numbers): joined "
        f"with {many['join_peak_mb']} MB at most, a file of {many['file_mb']} MB, read with "
        f"{many['read_peak_mb']} MB.",
        "",
    ]
