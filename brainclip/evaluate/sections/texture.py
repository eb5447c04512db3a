"""Texture: which features of the fine structure tell pictures from real slices."""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import intervals
from brainclip.evaluate.sections.words import FLOOR, listed

MOST = 8  # features in the report, the largest differences first


def section(report: dict[str, Any]) -> Section | None:
    """How many features differ, and which differ most."""
    part = report["texture"]
    if not part:
        return None
    heads = ["generated", "floor", "mean size of Cliff's delta, generated", "floor"]
    first, group = next(iter(part.items()))
    made, floor = group["made"]["features"], group["floor"]["features"]
    worst = sorted(made, key=lambda name: -abs(made[name]["value"]))[:MOST]
    plotted = {name: {"generated": made[name], "floor": floor[name]} for name in worst}
    return Section(
        "texture",
        "Texture",
        f"{group['made']['different']} of {group['made']['of']} texture features tell the pictures ({first}) "
        f"from held-out slices, {group['floor']['different']} tell slices of other people; most of all "
        f"{listed([name.replace('_', ' ') for name in worst[:3]])}.",
        [
            Table(["texture: features that differ from held-out slices", *heads], _counts(part)),
            Picture(
                "plots/texture.svg",
                "Cliff's delta to held-out slices: 1 all more, 0 alike, -1 all less",
                intervals(plotted, "Cliff's delta", marks={"alike": 0.0}),
            ),
            Table(
                [f"largest differences, {first}: Cliff's delta", "generated", FLOOR],
                [[name, made[name], floor[name]] for name in worst],
                folded=True,
            ),
            Table(["the same by pyradiomics", *heads], _counts(report["radiomics"])),
            "A feature differs where its q is below 0.05 and its delta at least 0.33 either way.",
        ],
    )


def _counts(part: dict[str, Any]) -> list[list[str]]:
    """A row for each contrast: how many features differ, and by how much in the mean."""
    return [
        [contrast, *(f"{group[kind]['different']} of {group[kind]['of']}" for kind in ("made", "floor"))]
        + [f"{group[kind]['mean_size']:.2f}" for kind in ("made", "floor")]
        for contrast, group in part.items()
    ]
