"""What the study has made before: arrays and pictures by a key of all that they depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from brainclip.config import digest
from brainclip.evaluate.pictures import ATLAS, PACKAGE, code_hash, identity
from brainclip.model import BrainCLIP


def key_of(model: BrainCLIP, *inputs: Any) -> str:
    """A hash of a model's weights, the code of the moves, and further inputs."""
    return digest([identity(model), code_hash(PACKAGE / "moving", ATLAS), *inputs])


def arrays(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Named arrays, made once and kept as .npz."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **make())  # type: ignore[arg-type]
        unfinished.replace(path)
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def in_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Grey values as files have them, uint8."""
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)
