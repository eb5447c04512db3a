"""The detectors that are compared, by name, and their scores and maps of cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from brainclip.anomaly.cases import Cases
from brainclip.anomaly.covariates import covariates, joined
from brainclip.anomaly.features import Healthy, autoencoded, latents, tokens
from brainclip.anomaly.local import (
    CohortZ,
    Intensity,
    LocalDetector,
    PatchGaussian,
    PatchMemory,
    Reconstruction,
    to_pixels,
    top_mean,
)
from brainclip.anomaly.normative import NORMATIVE, Detector
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError
from brainclip.model import BrainCLIP

BRIGHT = ("T2", "PD", "FLAIR")  # contrasts in which most lesions are brighter than their surroundings
BASELINES = ("intensity", "cohort z", "autoencoder")
DECODER = "healthy by the decoder"

Make = Callable[[BrainCLIP, str, str, Any], Detector]  # of a model, a contrast, a plane, and settings


@dataclass(frozen=True)
class Method:
    """features: "pixels", "embedding", "tokens" or "latents". learns: whether from healthy slices."""

    features: str
    make: Make
    learns: bool = True


@dataclass(frozen=True)
class HealthyRecipe:
    """How the decoder makes a slice healthy, and the residual; see Healthy and Reconstruction."""

    condition: str = "caption"
    strengths: tuple[float, ...] = (0.4,)
    samples: int = 2
    steps: int = 10
    guidance: float = 1.0
    edges: float = 5.0
    smooth: float = 1.5
    adapters: dict[str, str] = field(default_factory=dict)  # of the decoder, by the source of a slice


def _grid(model: BrainCLIP) -> int:
    """Patches along a side of the image tower."""
    height, _ = model.clip.size
    return int(height // model.clip.towers.visual.patch_size[0])


METHODS: dict[str, Method] = {
    "intensity": Method("pixels", lambda model, modality, plane, how: Intensity(modality in BRIGHT), False),
    "cohort z": Method("pixels", lambda model, modality, plane, how: CohortZ()),
    "autoencoder": Method(
        "pixels", lambda model, modality, plane, how: Reconstruction(autoencoded(model), edges=0.0), False
    ),
    **{
        name: Method("embedding", lambda model, modality, plane, how, kind=kind: kind())  # type: ignore[misc]
        for name, kind in NORMATIVE.items()
    },
    "patch tokens, Gaussian": Method("tokens", lambda model, *rest: PatchGaussian(_grid(model))),
    "patch tokens, memory": Method("tokens", lambda model, *rest: PatchMemory(_grid(model))),
    "patch latents, Gaussian": Method(
        "latents", lambda model, *rest: PatchGaussian(model.decoder.layout.shape[-1])
    ),
    DECODER: Method(
        "pixels", lambda model, modality, plane, how: _healthy(model, modality, plane, how), False
    ),
}


def _healthy(model: BrainCLIP, modality: str, plane: str, how: tuple[HealthyRecipe, str]) -> Detector:
    recipe, source = how
    remake = Healthy(
        model,
        plane,
        modality,
        condition=recipe.condition,
        strengths=recipe.strengths,
        samples=recipe.samples,
        steps=recipe.steps,
        guidance=recipe.guidance,
        adapter=recipe.adapters.get(source),
    )
    return Reconstruction(remake, smooth=recipe.smooth, edges=recipe.edges)


def features(model: BrainCLIP, kind: str, images: np.ndarray) -> np.ndarray:
    """(N, F) of slices (N, H, W) in [0, 1]; kind: see Method."""
    if kind == "pixels":
        return images.reshape(len(images), -1)
    if kind == "embedding":
        return np.asarray(model.embed_image(list(images)))
    return {"tokens": tokens, "latents": latents}[kind](model, images)


def training_rows(data: PairDataset, modality: str, plane: str, most: int) -> np.ndarray:
    """Row numbers of at most so many slices of a plane and contrast, evenly through them."""
    rows = np.array(
        [i for i, p in enumerate(data.pairs) if (p.facts.modality, p.facts.plane) == (modality, plane)]
    )
    if not len(rows):
        raise BrainclipError(f"{data.folders[0]}: no {plane} {modality} slices to learn from")
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def score_group(
    model: BrainCLIP,
    names: list[str],
    cases: Cases,
    data: PairDataset,
    *,
    most: int,
    healthy: tuple[HealthyRecipe, str],
    keep: Callable[[str, Detector], None] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Name of a method -> scores (N,), higher: less normal, and maps (N, H, W) or None, of cases of one plane
    and contrast, by detectors fitted to the training slices of `data`.

    keep: is given each fitted detector.
    """
    modality, plane = cases.rows[0].group
    rows = training_rows(data, modality, plane, most)
    known = covariates([data.pairs[i].facts for i in rows])
    learned = data.images(rows)[:, 0].numpy()
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    cache: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in names:
        method = METHODS[name]
        if method.features not in cache:
            cache.clear()  # tokens of thousands of slices are large
            own = joined(cases.covariates, features(model, method.features, cases.images))
            taken = learned if any(METHODS[n].learns for n in names) else learned[:1]
            cache[method.features] = joined(known[: len(taken)], features(model, method.features, taken)), own
        fitting, own = cache[method.features]
        detector = method.make(model, modality, plane, healthy)
        # those that learn nothing only see the size of a slice
        detector.fit(fitting if method.learns else fitting[:1])
        if isinstance(detector, LocalDetector):
            maps = detector.maps(own)
            found[name] = top_mean(maps), to_pixels(maps, cases.images)
        else:
            found[name] = -detector.score_samples(own), None
        if keep is not None:
            keep(name, detector)
    return found
