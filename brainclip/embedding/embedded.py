"""embed: whatever can be embedded -> embeddings, what is known of each row, and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.slices import Geometry
from brainclip.embedding.samples import EVERY_MM, Sample, samples
from brainclip.encode import encode_images
from brainclip.model import BrainCLIP, load

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Embedded:
    """embeddings: (N, D) float32, unit length. samples: what each row is. warnings: of inputs that do not
    look like the training data, a sentence each. model: name and hash."""

    embeddings: torch.Tensor
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...]
    model: str


def embed(
    images: Any,
    *,
    model: str | Path | BrainCLIP = "mini",
    contrast: str | None = None,
    every_mm: float = EVERY_MM,
    strip: str = "network",
    device: str | None = None,
    progress: bool = False,
    check: bool = True,
) -> Embedded:
    """Slices and volumes embedded; images, contrast, every_mm and strip are as samples.samples() has them.

    device: "cpu", "cuda" ...; None: where the model is. check: warn of slices that were given as they are and
    do not look like the training data in contrast, orientation, window or place (Fingerprint).
    BrainclipError and its kin for what cannot be used.
    """
    from brainclip.embedding.fingerprint import doubts

    opened = open_model(model)
    geometry = geometry_of(opened)
    found = list(samples(images, geometry, contrast=contrast, every_mm=every_mm, strip=strip))
    made = encode_images(
        opened.clip, (one.pixels for one in found), device=device, progress=progress, total=len(found)
    )
    warnings: list[str] = []
    as_given = [one for one in found if not one.prepared]
    if check and as_given:
        warnings = doubts(as_given, geometry)
    return Embedded(made, tuple(found), tuple(warnings), opened.name)


def embed_image(
    images: Any,
    *,
    model: str | Path | BrainCLIP = "mini",
    contrast: str | None = None,
    device: str | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Embeddings (B, D) float32, unit length, of slices and volumes; a volume gives a row for each slice cut
    from it, plane by plane. embed() says what each row is; its warnings are issued as UserWarning."""
    import warnings

    found = embed(images, model=model, contrast=contrast, device=device, progress=progress)
    for warning in found.warnings:
        warnings.warn(warning, stacklevel=2)
    return found.embeddings


def embed_text(texts: str | Sequence[str], *, model: str | Path | BrainCLIP = "mini") -> torch.Tensor:
    """Embeddings (B, D) of texts; see BrainCLIP.embed_text."""
    return open_model(model).embed_text(texts)


def open_model(model: str | Path | BrainCLIP) -> BrainCLIP:
    """The model itself, or the one of this name or folder."""
    return model if isinstance(model, BrainCLIP) else load(model)


def geometry_of(model: BrainCLIP) -> Geometry:
    """Size and spacing of the slices a model takes."""
    return Geometry(model.size, float(model.card["spacing_mm"]))
