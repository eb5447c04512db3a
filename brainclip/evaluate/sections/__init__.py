"""Sections of the report: a file for each, which makes its tables, pictures and conclusion from the figures.

A further section is a file with a function `section(report) -> Section | None`, None where nothing was
measured, and its name in SECTIONS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brainclip.evaluate.page import Section
from brainclip.evaluate.sections import (
    adherence,
    anatomy,
    autoencoder,
    clip,
    confusion,
    distribution,
    grey,
    memorisation,
    prior,
    similarity,
    texture,
    times,
)

SECTIONS: tuple[Callable[[dict[str, Any]], Section | None], ...] = (
    adherence.section,
    confusion.section,
    distribution.section,
    similarity.section,
    memorisation.section,
    grey.section,
    texture.section,
    anatomy.section,
    clip.section,
    prior.section,
    autoencoder.section,
    times.section,
)


def sections(report: dict[str, Any]) -> list[Section]:
    """The sections for which the report has figures, in their order."""
    return [made for section in SECTIONS if (made := section(report)) is not None]
