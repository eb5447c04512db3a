"""Autoencoder: what is lost between a slice and its latents?"""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Section, Table
from brainclip.evaluate.sections.words import listed, said


def section(report: dict[str, Any]) -> Section:
    """Fidelity on each folder of pairs, beside the decoder's closed-form part."""
    part = report["reconstruction"]
    kinds = list(next(iter(part.values())))
    shown = [
        f"{said(found['psnr'])} dB and an SSIM of {said(found['ssim'])} in {name}"
        for name, found in part.items()
    ]
    return Section(
        "autoencoder",
        "What the autoencoder keeps",
        f"A held-out slice comes back with {listed(shown)}: no decoded picture can be nearer to a slice.",
        [
            Table(
                ["autoencoder", *part], [[kind, *(found[kind] for found in part.values())] for kind in kinds]
            )
        ],
    )
