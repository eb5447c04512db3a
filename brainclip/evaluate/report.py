"""Report: the figures of an evaluation as report.json, and as pages that a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brainclip.evaluate.page import Section, Table, write_page
from brainclip.evaluate.sections import sections
from brainclip.evaluate.sections.words import listed
from brainclip.weights import write_json

SYNTHETIC = "All generated pictures are synthetic and not for diagnosis."


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write report.md, report.html with all its pictures in it, plots/*.svg, and last report.json."""
    title = f"{report['model']} on the {report['split']} split"
    held_out = listed([_named(name, report) for name in report["slices"]])
    about = f"Value (95 % interval, n). {SYNTHETIC} Held-out slices: {held_out}."
    write_page(title, about, [*sections(report), made_from(report)], folder, "report")
    write_json(folder / "report.json", report)  # last: its presence means complete


def made_from(report: dict[str, Any]) -> Section:
    """What was measured, by which networks and on whom."""
    networks = {"CLIP of the model": report["clip"], "judge": report["judge"]["hash"]}
    networks |= {
        name: found["hash"] for name, found in report["distribution"].items() if name not in networks
    }
    slices, subjects = report["slices"], report["subjects"]
    return Section(
        "made_from",
        "What this was made from",
        f"{sum(slices.values())} held-out slices of {sum(subjects.values())} people in {len(slices)} "
        f"{'folder' if len(slices) == 1 else 'folders'} of pairs.",
        [
            Table(["network", "hash of its weights"], [[name, text] for name, text in networks.items()]),
            Table(
                [f"held-out pairs, {report['pairs']}", "slices", "people"],
                [[_named(name, report), str(slices[name]), str(subjects[name])] for name in slices],
            ),
            f"Intervals: {report['interval']}.",
        ],
    )


def _named(folder: str, report: dict[str, Any]) -> str:
    """A folder of pairs, and whether its people are simulated."""
    return f"{folder} ({'simulated people' if folder in report['simulated'] else 'real people'})"
