"""Adherence: is the picture what was asked?"""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import intervals
from brainclip.evaluate.sections.words import listed, said, told_apart

ROWS = (
    ("plane", "plane right"),
    ("contrast", "contrast right"),
    ("position", "judged within 8 mm"),
    ("age_order", "age order (Spearman)"),
    ("age_error", "age error, years"),
    ("sex", "sex right"),
)
SHARES = ("plane", "contrast", "position", "sex")


def section(report: dict[str, Any]) -> Section:
    """Generated pictures, the nearest held-out slices and all of them, by the judge; adapters; sheets."""
    judged, judge = report["adherence"], report["judge"]["scores"]
    made, real = judged["generated"], judged["held_out"]
    heads = ["by the judge", "generated", "nearest held-out slices", *(f"all held-out: {n}" for n in judge)]
    parts = (made, real, *judge.values())
    rows = {
        text: {"generated": made.get(k), "nearest held-out": real.get(k)} for k, text in ROWS if k in SHARES
    }
    adapters = [
        Table(
            [f"adapter {name}", "base", "adapter"],
            [[text, part["base"].get(key), part["adapter"].get(key)] for key, text in ROWS],
        )
        for name, part in report["adapters"].items()
    ]
    return Section(
        "adherence",
        "Is it what was asked?",
        _conclusion(made, real),
        [
            Table(heads, [[text, *(part.get(key) for part in parts)] for key, text in ROWS]),
            f"Judge: network {report['judge']['hash']}, trained on {listed(report['judge']['trained_on'])} "
            f"apart from the model; {report['judge']['note']}.",
            Picture(
                "plots/adherence.svg",
                "Share of slices that the judge finds as asked",
                intervals(rows, "share"),
            ),
            Picture("contact_sheet.png", "Held-out slices, and generated (synthetic) ones of the same facts"),
            Picture(
                "misses.png", "Pictures that the judge refused, up to 24, beside the nearest held-out slices"
            ),
            *adapters,
            *(
                Picture(
                    f"adapter_{name}.png",
                    f"Pictures by the adapter {name} (synthetic) beside held-out slices",
                )
                for name in report["adapters"]
            ),
        ],
    )


def _conclusion(made: dict[str, Any], real: dict[str, Any]) -> str:
    kinds = ("plane", "contrast", "position")
    shares = [listed([said(part.get(kind), percent=True) for kind in kinds]) for part in (made, real)]
    age = [said(part.get("age_order")) for part in (made, real)]
    words = {
        -1: "less than in held-out slices",
        0: "which these numbers do not tell from held-out slices",
        1: "more than in held-out slices",
    }
    worse = [kind for kind in kinds if told_apart(made.get(kind), real.get(kind)) < 0]
    return (
        f"Plane, contrast and place (within 8 mm) are found as asked in {shares[0]} of {made['plane']['n']} "
        f"pictures, and in {shares[1]} of the nearest held-out slices"
        + (f"; {listed(worse)} clearly less often than there" if worse else "; no clear difference")
        + (
            f". Age: the rank correlation of asked and judged is {age[0]}, in held-out slices {age[1]}, "
            f"{words[told_apart(made.get('age_order'), real.get('age_order'))]}."
            if "not measured" not in age
            else ". Whether the age is obeyed was not measured."
        )
    )
