"""Distribution: how far pictures are from real slices by several networks' features."""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import intervals
from brainclip.evaluate.sections.words import FLOOR, said, told_apart

ROWS = (
    ("fid", "FID"),
    ("fid_infinity", "FID, infinitely many"),
    ("kid", "KID"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("density", "density"),
    ("coverage", "coverage"),
    ("vendi", "Vendi score"),
    ("vendi_real", "of as many held-out slices"),
)
EACH = ("fid", "kid", "coverage")


def section(report: dict[str, Any]) -> Section | None:
    """Of each extractor all contrasts with every measure, then FID, KID and coverage of each contrast."""
    blocks: list[Table | Picture | str] = []
    sentences = []
    for name, found in report["distribution"].items():
        title = f"against held-out slices, by {name} {found['hash']}"
        groups = dict(found["groups"])
        whole = groups.pop("all", None)
        if whole is not None:
            made, floor = whole["made"], whole["floor"]
            rows = [[text, made[key], floor[key]] for key, text in ROWS]
            blocks.append(Table([f"{title}, {made['n']['real']} of them", "generated", FLOOR], rows))
            blocks += [f"Note: {sentence}." for sentence in made["warnings"]]
            sentences.append(_sentence(name, made["kid"], floor["kid"], made["coverage"], floor["coverage"]))
        each = [
            [f"{contrast}, {key}", group["made"][key], group["floor"][key]]
            for contrast, group in groups.items()
            for key in EACH
        ]
        blocks.append(Table([f"{title}, each contrast", "generated", FLOOR], each, folded=True))
        plotted = {
            contrast: {"generated": group["made"]["kid"], "floor": group["floor"]["kid"]}
            for contrast, group in found["groups"].items()
        }
        if plotted:
            said_of = f"KID by {name} {found['hash']}: the nearer to the floor, the nearer to held-out slices"
            blocks.append(Picture(f"plots/kid_{name}.svg", said_of, intervals(plotted, f"KID by {name}")))
    if not sentences:
        return None
    return Section("distribution", "Is it real, seen as a whole?", " ".join(sentences), blocks)


def _sentence(name: str, kid: Any, kid_floor: Any, coverage: Any, coverage_floor: Any) -> str:
    words = {
        1: "farther from held-out slices than training slices of other people are",
        0: "not told from training slices of other people by their distance to held-out ones",
        -1: "nearer to held-out slices than training slices of other people are",
    }
    return (
        f"By {name} the pictures are {words[told_apart(kid, kid_floor)]} (KID {said(kid)}, floor "
        f"{said(kid_floor)}) and cover {said(coverage, percent=True)} of them (floor "
        f"{said(coverage_floor, percent=True)})."
    )
