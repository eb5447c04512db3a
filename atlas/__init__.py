"""What is in a brain slice, and where it is: volumes, atlas, registration, slices, captions and pairs.

The names below are loaded from their modules when first used, so that `import atlas` costs no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from atlas.errors import (
    BrainclipError,
    PairsError,
    PromptError,
    RegistrationError,
    SourceError,
    VolumeError,
    WeightsError,
)

if TYPE_CHECKING:
    from atlas.atlas import Atlas, Region, load_atlas
    from atlas.slices import MODALITIES, PLANES, Geometry, Slice
    from atlas.strip import brain_mask
    from atlas.volume import load_labels, load_volume, save_volume

_HOMES = {
    "atlas.atlas": ("Atlas", "Region", "load_atlas"),
    "atlas.slices": ("MODALITIES", "PLANES", "Geometry", "Slice"),
    "atlas.strip": ("brain_mask",),
    "atlas.volume": ("load_labels", "load_volume", "save_volume"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'atlas' has no attribute {name!r}")


__all__ = [
    "MODALITIES",
    "PLANES",
    "Atlas",
    "BrainclipError",
    "Geometry",
    "PairsError",
    "PromptError",
    "Region",
    "RegistrationError",
    "Slice",
    "SourceError",
    "VolumeError",
    "WeightsError",
    "brain_mask",
    "load_atlas",
    "load_labels",
    "load_volume",
    "save_volume",
]
