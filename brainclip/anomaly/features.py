"""Features of slices for the detectors, and slices remade by the model's autoencoder and decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atlas.facts import Facts, level_at
from brainclip.anomaly.covariates import SEXES
from brainclip.errors import BrainclipError
from brainclip.model import BATCH, BrainCLIP

CHUNK = 64
LAYER = 3  # of the image tower, whose tokens are taken: patches are local there and no more mere grey
SEED = 11

Remake = Callable[[np.ndarray, np.ndarray], np.ndarray]


def tokens(model: BrainCLIP, slices: np.ndarray, layer: int = LAYER) -> np.ndarray:
    """(N, G * G * D) float32: the image tower's tokens of patches behind a layer; G: patches along a side.

    slices: (N, H, W) in [0, 1]. BrainclipError for an image tower that is not open_clip's own transformer.
    """
    visual = model.clip.towers.visual if hasattr(model.clip.towers, "visual") else None
    if not hasattr(visual, "transformer"):
        raise BrainclipError("tokens of patches are taken from open_clip's own image transformer alone")
    assert visual is not None
    found = []
    with torch.inference_mode():
        for start in range(0, len(slices), CHUNK):
            batch = torch.from_numpy(slices[start : start + CHUNK])[:, None].float()
            out = visual.forward_intermediates(
                model.clip.layout.pixels(batch), indices=[layer], intermediates_only=True, stop_early=True
            )["image_intermediates"][0]  # (B, D, G, G)
            found.append(out.permute(0, 2, 3, 1).flatten(1).float().numpy())
    return np.concatenate(found)


def latents(model: BrainCLIP, slices: np.ndarray) -> np.ndarray:
    """(N, G * G * C) float32: the decoder's standardised latents, G along a side."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(slices), CHUNK):
            batch = torch.from_numpy(slices[start : start + CHUNK])[:, None].float()
            found.append(model.decoder.layout.latents(batch).permute(0, 2, 3, 1).flatten(1).float().numpy())
    return np.concatenate(found)


def autoencoded(model: BrainCLIP) -> Remake:
    """Slices as the autoencoder gives them back."""

    def remake(slices: np.ndarray, known: np.ndarray) -> np.ndarray:
        layout, found = model.decoder.layout, []
        with torch.inference_mode():
            for start in range(0, len(slices), CHUNK):
                batch = torch.from_numpy(slices[start : start + CHUNK])[:, None].float()
                found.append(layout.pictures(layout.latents(batch))[:, 0].numpy())
        return np.concatenate(found)

    return remake


@dataclass(frozen=True)
class Healthy:
    """Slices as healthy ones: noised to part of the way and taken back under a healthy condition.

    condition: "caption", the image embedding that the prior draws for the slice's healthy caption of plane,
    place, contrast, age and sex; "own", the slice's own embedding. strengths: shares of the way, each with
    `samples` noises; the result is the median of all. steps: of the whole way. adapter: of the decoder.
    """

    model: BrainCLIP
    plane: str
    modality: str
    condition: str = "caption"
    strengths: tuple[float, ...] = (0.4,)
    samples: int = 2
    steps: int = 10
    guidance: float = 1.0
    adapter: str | None = None

    def __call__(self, slices: np.ndarray, known: np.ndarray) -> np.ndarray:
        """(N, H, W) in [0, 1] of slices (N, H, W) and covariates (N, 3); row k depends on row k alone."""
        if self.condition not in ("caption", "own"):
            raise BrainclipError(f"condition {self.condition!r}: possible are caption and own")
        self.model.decoder.use_adapter(self.adapter)
        found = []
        for start in range(0, len(slices), BATCH):
            found.append(self._remade(slices[start : start + BATCH], known[start : start + BATCH]))
        return np.concatenate(found)

    def _remade(self, slices: np.ndarray, known: np.ndarray) -> np.ndarray:
        clip, decoder = self.model.clip, self.model.decoder
        made, begin = [], torch.from_numpy(slices)[:, None].float()
        captions = [self.model.caption(self.model.read(text)[0], SEED) for text in self._texts(known)]
        with torch.inference_mode():
            for sample in range(self.samples):
                seeds = [SEED + sample] * len(slices)
                if self.condition == "own":
                    embedding = clip.encode_image(begin)
                else:
                    steps = self.model.card["generate"]["prior_steps"]
                    embedding = self.model.prior.sample(clip, captions, seeds, steps=steps, guidance=1.0)
                for strength in self.strengths:
                    taken = decoder.sample(
                        clip.whiten(embedding),
                        seeds,
                        steps=self.steps,
                        guidance=self.guidance,
                        captions=captions,
                        start=begin,
                        strength=strength,
                    )
                    made.append(taken[:, 0].numpy())
        return np.median(np.stack(made), 0)

    def _texts(self, known: np.ndarray) -> Sequence[str]:
        return [healthy_text(healthy_facts(self.plane, self.modality, row)) for row in known]


def healthy_facts(plane: str, modality: str, row: np.ndarray) -> Facts:
    """The facts of a healthy slice with these covariates (3,)."""
    position, age, sex = (float(value) for value in row)
    known: dict[str, Any] = {"health": "healthy"}
    if np.isfinite(age):
        known["age"] = age
    if np.isfinite(sex):
        known["sex"] = next(name for name, value in SEXES.items() if value == round(sex))
    return Facts(plane, position, modality, level_at(plane, position), known=known)


def healthy_text(facts: Facts) -> str:
    """A prompt for these facts, such as "axial T1 slice, z = 12 mm, healthy 30-year-old woman"."""
    axis = {"axial": "z", "coronal": "y", "sagittal": "x"}[str(facts.plane)]
    person = {"female": "woman", "male": "man"}.get(str(facts.known.get("sex")), "adult")
    age = f"{facts.known['age']:.0f}-year-old " if "age" in facts.known else ""
    place = f"at the level of the {facts.level}, {axis} = {facts.position_mm:.0f} mm"
    return f"{facts.plane} {facts.modality} slice {place}, healthy {age}{person}"
