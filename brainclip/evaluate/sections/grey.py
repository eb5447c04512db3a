"""Grey levels: histograms within the brain and ratios of tissues."""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import intervals
from brainclip.evaluate.sections.words import FLOOR, said

ROWS = (
    ("wasserstein", "Wasserstein"),
    ("jensen_shannon", "Jensen-Shannon"),
    ("kolmogorov_smirnov", "Kolmogorov-Smirnov"),
)
RATIOS = {"grey_to_white": "grey to white matter", "fluid_to_white": "fluid to white matter"}
LEAST_INSIDE = 80  # %, of a contrast's pictures in the range of 95 % of held-out slices


def section(report: dict[str, Any]) -> Section | None:
    """Distances of grey levels, and ratios of tissues."""
    part = report["grey"]
    if not part:
        return None
    rows = [
        [f"{contrast}, {text}", group["made"][key], group["floor"][key]]
        for contrast, group in part.items()
        for key, text in ROWS
    ]
    ratios = [
        (contrast, name, ratio)
        for contrast, group in part.items()
        for name, ratio in group.get("ratios", {}).items()
    ]
    heads = ("held-out, median", "95 % of them", "generated, median", "share within", "of the floor's slices")
    shares = {f"{c}, {RATIOS[n]}": {"generated": r["inside"], "floor": r["floor"]} for c, n, r in ratios}
    blocks: list[Table | Picture | str] = [
        Table(["grey levels in the brain, distance to held-out slices", "generated", FLOOR], rows),
        Table(["ratio of mean grey", *heads], [_row(*row) for row in ratios]),
    ]
    if shares:
        what = "Share of slices whose tissue ratio lies where 95 % of the held-out ones have it"
        blocks.append(Picture("plots/grey.svg", what, intervals(shares, "share", marks={"95 %": 0.95})))
    return Section("grey", "Grey levels and contrast", _conclusion(part, shares), blocks)


def _row(contrast: str, name: str, ratio: dict[str, Any]) -> list[Any]:
    between = " to ".join(f"{end:.3g}" for end in ratio["range"] or ()) or "-"
    return [
        f"{contrast}, {RATIOS[name]}",
        ratio["real"],
        between,
        ratio["made"],
        ratio["inside"],
        ratio["floor"],
    ]


def _conclusion(part: dict[str, Any], shares: dict[str, Any]) -> str:
    first, group = next(iter(part.items()))
    off = [name for name, row in shares.items() if 100 * (row["generated"]["value"] or 0) < LEAST_INSIDE]
    return (
        f"Grey levels of the pictures ({first}) would have to move by {said(group['made']['wasserstein'])} "
        "of the scale to be those of the held-out slices; those of other people by "
        f"{said(group['floor']['wasserstein'])}. "
        + (
            f"Fewer than {LEAST_INSIDE} % of the pictures have the ratio of held-out ones: {'; '.join(off)}."
            if off
            else f"At least {LEAST_INSIDE} % of each contrast's pictures have ratios of held-out slices."
            if shares
            else "Tissue ratios were not measured."
        )
    )
