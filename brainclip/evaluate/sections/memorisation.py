"""Memorisation: are pictures copies of training slices? From the report of `brainclip memorisation`."""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.sections.words import listed, said

NOT_RUN = (
    "Whether pictures are copies of training slices was not checked here: run `brainclip memorisation` and "
    "name its folder in [evaluate] memorisation."
)


def section(report: dict[str, Any]) -> Section:
    """The verdict of each check with the figures that decide, and the nearest pairs."""
    found = report["memorisation"]
    if not found:
        return Section("memorisation", "Is it new?", NOT_RUN)
    checks = found["checks"]
    blocks: list[Table | Picture] = []
    verdicts = []
    for name, check in checks.items():
        passes = "passes" if check["verdict"]["passes"] else "FAILS"
        tests = check["details"]
        verdicts.append(
            f"{name} {passes} ({tests['copies']} of {check['pictures']} pictures are copies; training people "
            f"are told from strangers by the pictures with an AUC of {said(check['membership'])})"
        )
        alarms = tests["false_alarms"]["per_picture"]
        rows: list[list[Any]] = [
            ["nearer than all but the allowed share of strangers", tests["beyond"]],
            ["of strangers' slices, up to", f"{tests['allowed_share']:.2%}"],
            ["false alarms among held-out slices, mean (middle 95 %)", _range(alarms)],
            ["membership, AUC (0.5: none)", check["membership"]],
            ["pictures as near to each other as copies", check["duplicates"]],
        ]
        blocks += [
            Table([f"{name}: {passes}", ""], rows),
            Picture(
                f"memorisation/{name}.png", f"{name}: the training slices nearest to pictures, beside them"
            ),
        ]
    return Section("memorisation", "Is it new?", f"By the details of the slices, {listed(verdicts)}.", blocks)


def _range(shares: list[float] | None) -> str:
    return f"{shares[0]:.2%} ({shares[1]:.2%} to {shares[2]:.2%})" if shares else "-"
