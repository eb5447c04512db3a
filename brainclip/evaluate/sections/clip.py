"""CLIP: does it find slices by captions, and name what a slice shows?"""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import intervals
from brainclip.evaluate.sections.words import listed, said


def section(report: dict[str, Any]) -> Section:
    """Retrieval in each pool, and zero-shot words."""
    retrieval, words = report["retrieval"], report["zero_shot"]
    tables = [
        Table(
            [f"retrieval, {name}, {part['pool']} candidates", ""],
            [[key, value] for key, value in part.items() if isinstance(value, dict)],
            folded=number > 0,
        )
        for number, (name, part) in enumerate(retrieval.items())
    ]
    kinds = list(dict.fromkeys(key for part in words.values() for key in part))
    name, part = next(iter(retrieval.items()))
    found = part["text_to_image_r10"]
    shares = {
        kind: {folder: part[kind] for folder, part in words.items() if kind in part}
        for kind in kinds
        if kind != "age_error"
    }
    named = []
    for kind in ("plane", "modality", "level"):
        rates = [f"{said(part.get(kind), percent=True)} in {folder}" for folder, part in words.items()]
        named.append(f"{kind} {listed(rates)}")
    return Section(
        "clip",
        "CLIP alone",
        f"A true slice is among the ten nearest to a caption in {said(found, percent=True)} of {found['n']} "
        f"captions ({name}, {part['pool']} candidates; chance {100 * found['chance']:.0f} %). Without "
        f"training for it, CLIP names: {'; '.join(named)}.",
        [
            Picture(
                "plots/zero_shot.svg",
                f"CLIP {report['clip']} alone, zero-shot: share right; age order as rank correlation",
                intervals(shares, "share, or correlation"),
            ),
            Table(
                ["CLIP alone, zero-shot", *words],
                [[kind, *(part.get(kind) for part in words.values())] for kind in kinds],
            ),
            *tables,
        ],
    )
