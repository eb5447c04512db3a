"""Features: what networks see in slices, by the network's name and the hash of its weights; kept on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from brainclip.clip import Clip
from brainclip.config import EvaluateRecipe, digest
from brainclip.evaluate.judge import Judge
from brainclip.weights import hash_file, read_weights, write_weights

BATCH = 32
FILES = ("inception", "radimagenet")  # extractors whose weights are a user's file
CODE = ("evaluate/features.py", "evaluate/inception.py", "evaluate/judge.py", "clip.py")


@dataclass(frozen=True)
class Extractor:
    """A network that tells what is in slices: (B, 1, H, W) in [0, 1] to features (B, D).

    hash: the first 16 hex digits of the sha256 of its weight file.
    """

    name: str
    hash: str
    see: Callable[[Tensor], Tensor]


def extractors(clip: Clip, judge: Judge, files: EvaluateRecipe) -> list[Extractor]:
    """The extractors that there are: "clip" and "judge", "inception" and "radimagenet" where files are given.

    clip: the model's own image embedding, whitened, 192 numbers in the bundled model; a model that was
    trained with it may please it without being better. judge: what the judge's decisions are made from, 256
    numbers. inception, radimagenet: see brainclip.evaluate.inception, 2048 numbers. WeightsError for a file
    that is missing or another network's.
    """
    found = [
        Extractor("clip", clip.hash, lambda images: clip.whiten(clip.encode_image(images))),
        Extractor("judge", judge.hash, judge.features),
    ]
    for name in FILES:
        path = getattr(files, name)
        if path:
            from brainclip.evaluate.inception import Inception

            found.append(Extractor(name, hash_file(Path(path)), Inception(Path(path))))
    return found


class FeatureFolder:
    """Features kept in a folder by the extractor's weights, the code and the pictures, and read from there.

    times: of each extractor, "computed" and "read" slices so far, and the "seconds" that computing took.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.times: dict[str, dict[str, float]] = {}

    @torch.no_grad()
    def features(self, extractor: Extractor, images: Tensor) -> np.ndarray:
        """(N, D) float32 features of slices (N, 1, H, W) in [0, 1]."""
        pictures = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
        code = [hash_file(Path(__file__).parent.parent / name) for name in CODE]
        key = digest([extractor.name, extractor.hash, code, list(images.shape), pictures])
        path = self.folder / f"{extractor.name}-{key}.safetensors"
        times = self.times.setdefault(extractor.name, {"computed": 0, "read": 0, "seconds": 0.0})
        times["read" if path.is_file() else "computed"] += len(images)
        if not path.is_file():
            begun = time.monotonic()
            parts = [extractor.see(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
            times["seconds"] = round(times["seconds"] + time.monotonic() - begun, 3)
            write_weights({"features": torch.cat(parts).float().contiguous()}, path)
        return read_weights(path)["features"].numpy()
