"""One scan: made ready as the training data is, cut into slices, and maps of them on its own grid again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import Nifti1Image

from atlas.atlas import load_atlas
from atlas.brain import read_brain
from atlas.errors import VolumeError
from atlas.facts import Facts, level_at
from atlas.register import Registration, n4, register, to_atlas
from atlas.slices import AXIS, MODALITIES, Geometry, cut, positions, window, working_grid
from atlas.sources import Scan
from atlas.sources.scan import NO_ORIENTATION
from atlas.volume import has_orientation, load_labels, resample

LEAST_BRAIN_MM2 = 2500.0  # of a slice that is looked at; the brain's ends differ most between people


@dataclass(frozen=True)
class Prepared:
    """A scan ready to be compared.

    brain: stripped, without its shading, on its own grid; shown: on the working grid, grey values in [0, 1];
    registration: affine.
    """

    path: Path
    modality: str
    brain: Nifti1Image
    shown: Nifti1Image
    registration: Registration
    geometry: Geometry
    known: dict[str, Any]

    def slices(self, plane: str, every_mm: float) -> tuple[np.ndarray, list[Facts]]:
        """(N, H, W) slices of a plane, `every_mm` apart, and their facts."""
        images, facts = [], []
        empty = Nifti1Image(np.zeros(self.shown.shape, dtype=np.int32), self.shown.affine)
        step = max(1, round(every_mm / self.geometry.spacing_mm))
        for place in positions(plane, self.geometry)[::step]:
            one = cut(self.shown, empty, plane, float(place), self.geometry)
            if np.count_nonzero(one.pixels) * self.geometry.spacing_mm**2 >= LEAST_BRAIN_MM2:
                images.append(one.pixels)
                level = level_at(plane, one.position_mm)
                facts.append(Facts(plane, one.position_mm, self.modality, level, known=self.known))
        if not images:
            raise VolumeError(f"{self.path.name}: no {plane} slice has enough brain")
        return np.stack(images), facts

    def mask_slices(self, path: Path, facts: Sequence[Facts]) -> np.ndarray:
        """(N, H, W) bool: a mask on the scan's grid (above 0 is lesion) at the slices with these facts."""
        mask = load_labels(path)
        own = Nifti1Image((np.asanyarray(mask.dataobj) > 0).astype(np.int32), mask.affine)
        affine, shape = working_grid(self.geometry)
        moved = to_atlas(own, self.registration, affine, shape, order=0)
        labels = Nifti1Image(np.asanyarray(moved.dataobj).astype(np.int32), affine)
        return np.stack(
            [
                cut(self.shown, labels, str(one.plane), float(one.position_mm or 0), self.geometry).labels > 0
                for one in facts
            ]
        )

    def back(self, volume: np.ndarray) -> Nifti1Image:
        """A volume of the working grid on the scan's own (RAS+), linear, 0 outside the brain."""
        affine, _ = working_grid(self.geometry)
        own = Nifti1Image(volume.astype(np.float32), np.linalg.inv(self.registration.matrix) @ affine)
        moved = np.asanyarray(resample(own, self.brain.affine, self.brain.shape).dataobj)
        inside = np.asanyarray(self.brain.dataobj) > 0
        return Nifti1Image(np.where(inside, moved, 0).astype(np.float32), self.brain.affine)


def prepare(
    path: Path,
    modality: str,
    geometry: Geometry,
    *,
    mask: Path | None = None,
    strip: str = "network",
    age: float | None = None,
    sex: str | None = None,
) -> Prepared:
    """The scan stripped (where it is a whole head), without shading, on the atlas by an affine, windowed.

    mask: of the brain, else it is found. BrainclipError for a scan that cannot be used, see atlas.prepare.
    """
    if modality not in MODALITIES:
        raise VolumeError(f"unknown contrast {modality!r}; possible: {', '.join(MODALITIES)}")
    if not has_orientation(path):
        raise VolumeError(f"{path}: {NO_ORIENTATION}")
    known = {"age": age, "sex": sex}
    scan = Scan(
        source="folder",
        subject=path.name.split(".")[0],
        session="",
        modality=modality,
        path=path,
        known={name: value for name, value in known.items() if value is not None},
        mask=mask,
    )
    brain, inside, _ = read_brain(scan, strip)
    brain = n4(brain, inside)
    registration = register(brain, load_atlas(), nonlinear=False)
    affine, shape = working_grid(geometry)
    volume = np.asanyarray(to_atlas(brain, registration, affine, shape).dataobj)
    within = np.asanyarray(to_atlas(inside, registration, affine, shape, order=0).dataobj) > 0
    shown = Nifti1Image(window(volume, within, modality), affine)
    return Prepared(path, modality, brain, shown, registration, geometry, dict(scan.known))


def as_volume(maps: np.ndarray, facts: Sequence[Facts], geometry: Geometry) -> np.ndarray:
    """A volume of the working grid of maps (N, H, W) of slices of one plane, linear between them."""
    affine, shape = working_grid(geometry)
    axis = AXIS[str(facts[0].plane)]
    places = np.array([float(one.position_mm or 0) for one in facts])
    order = np.argsort(places)
    # slices as they are displayed -> the two axes of the volume, ascending
    turned = np.stack([_undisplayed(maps[i], str(facts[0].plane)) for i in order])
    wanted = affine[axis, 3] + affine[axis, axis] * np.arange(shape[axis])
    right = np.clip(np.searchsorted(places[order], wanted), 1, max(1, len(order) - 1))
    left = np.minimum(right - 1, len(order) - 1)
    right = np.minimum(right, len(order) - 1)
    gap = np.maximum(1e-6, places[order][right] - places[order][left])
    share = np.clip((wanted - places[order][left]) / gap, 0, 1)[:, None, None]
    filled = turned[left] * (1 - share) + turned[right] * share
    filled[(wanted < places.min() - 1e-3) | (wanted > places.max() + 1e-3)] = 0
    return np.ascontiguousarray(np.moveaxis(filled, 0, axis)).astype(np.float32)


def _undisplayed(shown: np.ndarray, plane: str) -> np.ndarray:
    """(A, B) of the two remaining axes of an RAS+ volume, of a slice as it is displayed."""
    return shown[::-1, ::-1].T if plane == "sagittal" else shown[::-1].T
