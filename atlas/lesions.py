"""Simulated lesions in healthy slices or volumes, with their masks: for measuring what finds them.

They are drawn, not acquired: grey levels are set by hand to what such lesions show in the windowed contrasts
(T1, T2 and FLAIR of a few real cases were looked at), so a detector of them is not yet one of disease.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from nibabel import Nifti1Image
from nibabel.affines import apply_affine
from scipy import ndimage

from atlas.atlas import load_atlas
from atlas.errors import BrainclipError
from atlas.lesion_shapes import (
    OEDEMA_EDGE_MM,
    VENTRICLE_MM,
    blob,
    grid_points,
    plaques,
    pushed_aside,
    slice_points,
    towards_ventricles,
    wedge,
)
from atlas.slices import AXIS, MODALITIES, Geometry

KINDS = ("tumour", "sclerosis", "infarct", "atrophy")
LARGEST_MM = 80.0
# grey levels by contrast after the window; white matter is 0.8 in T1, 0.3 in T2, 0.5 in PD, 0.65 in FLAIR
GREY: dict[str, dict[str, float]] = {
    "tumour": {"T1": 0.40, "T2": 0.70, "PD": 0.85, "FLAIR": 0.92},
    "oedema": {"T1": 0.62, "T2": 0.58, "PD": 0.75, "FLAIR": 0.88},
    "sclerosis": {"T1": 0.55, "T2": 0.60, "PD": 0.82, "FLAIR": 0.95},
    "infarct": {"T1": 0.22, "T2": 0.88, "PD": 0.82, "FLAIR": 0.25},
    "gliosis": {"T1": 0.55, "T2": 0.62, "PD": 0.80, "FLAIR": 0.92},
}
# grey levels from which to which voxels turn into fluid or white matter; none where that cannot be told
FLUID = {"T1": (0.40, 0.22), "T2": (0.60, 0.72), "FLAIR": (0.42, 0.25)}
WHITE = {"T1": (0.60, 0.70), "T2": (0.42, 0.35), "PD": (0.66, 0.60)}
KEPT = 0.5  # of the fine texture inside a lesion
FINE_MM = 1.5  # what is smaller counts as fine texture
PUSH = 0.15  # of its size a tumour displaces what is around it
SULCI = 1 / 6  # of the size of an atrophy is what tissue loses at its surface
SEEN = 0.1  # of the grey scale: atrophy's mask is where the slice changed by more
NEAR_VENTRICLES_MM = 14.0
LEAST_BRAIN = 0.02


@dataclass(frozen=True)
class Lesion:
    """What to draw. kind: one of KINDS; centre_mm: MNI x, y, z.

    size_mm: diameter of a tumour with its oedema and of the largest plaque, depth of an infarct; by atrophy
    the ventricles' walls give way by size_mm and the surface of the cortex to fluid by a sixth of it, and
    centre_mm is not used. contrast: 1 is what GREY says, 0 changes nothing; of atrophy it scales the size.
    seed: of the shape. BrainclipError for what cannot be drawn.
    """

    kind: str
    centre_mm: tuple[float, float, float]
    size_mm: float
    contrast: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BrainclipError(f"lesion {self.kind!r}: possible are {', '.join(KINDS)}")
        if not 0 < self.size_mm <= LARGEST_MM:
            raise BrainclipError(
                f"a lesion of {self.size_mm:g} mm: give a size above 0, up to {LARGEST_MM:g}"
            )
        if not 0 <= self.contrast <= 2:
            raise BrainclipError(f"a lesion of contrast {self.contrast:g}: give 0 to 2 (1: as usual)")


def lesion_in_slice(
    pixels: np.ndarray, lesion: Lesion, *, modality: str, plane: str, position_mm: float, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """A slice (H, W) with the lesion, float32 in [0, 1], and the lesion's mask (H, W), bool.

    pixels: healthy, in [0, 1], 0 outside the brain; see add_lesion. BrainclipError for another size.
    """
    if pixels.shape != (geometry.size, geometry.size):
        raise BrainclipError(f"a slice of {pixels.shape} pixels; this geometry has {geometry.size} squared")
    return add_lesion(pixels, slice_points(plane, position_mm, geometry), lesion, modality=modality)


def lesion_in_volume(
    volume: Nifti1Image, lesion: Lesion, *, modality: str
) -> tuple[Nifti1Image, Nifti1Image]:
    """The same of a volume in MNI152 space with grey values in [0, 1]; the mask is uint8."""
    values = np.asanyarray(volume.dataobj, dtype=np.float32)
    made, mask = add_lesion(values, grid_points(volume.affine, values.shape), lesion, modality=modality)
    return Nifti1Image(made, volume.affine), Nifti1Image(mask.astype(np.uint8), volume.affine)


def add_lesion(
    values: np.ndarray, points: np.ndarray, lesion: Lesion, *, modality: str
) -> tuple[np.ndarray, np.ndarray]:
    """Grey values with the lesion, and its mask (bool): what lies in the brain, whatever the contrast asked.

    values: (H, W) or (I, J, K) in [0, 1], windowed as atlas.slices.window does, 0 outside the brain. points:
    values.shape + (3,), MNI mm of a regular grid. In a slice, what a mass displaces moves within its plane.
    """
    if modality not in MODALITIES:
        raise BrainclipError(f"unknown contrast {modality!r}; possible: {', '.join(MODALITIES)}")
    values = values.astype(np.float32)
    brain = values > LEAST_BRAIN
    if lesion.kind == "atrophy":
        made = np.where(brain, _atrophied(values, points, brain, lesion, modality), values)
        return made, brain & (np.abs(made - values) > SEEN)
    generator = np.random.default_rng([lesion.seed, KINDS.index(lesion.kind)])
    centre = np.array(lesion.centre_mm)
    base = values
    layers: tuple[tuple[np.ndarray, dict[str, float]], ...]  # a later one lies over an earlier one
    if lesion.kind == "tumour":
        push = PUSH * lesion.size_mm * min(1.0, lesion.contrast)
        base = np.where(brain, _moved(values, points, pushed_aside(points, centre, lesion.size_mm, push)), 0)
        soft = min(OEDEMA_EDGE_MM, lesion.size_mm / 6)
        outer = blob(points, centre, lesion.size_mm, generator, edge_mm=soft) * _tissue(base, modality)
        core = blob(points, centre, 0.6 * lesion.size_mm, generator)
        layers = ((outer, GREY["oedema"]), (core, GREY["tumour"]))
    elif lesion.kind == "sclerosis":
        outer = plaques(points, centre, lesion.size_mm, generator) * _white(base, modality)
        layers = ((outer, GREY["sclerosis"]),)
    else:
        outer = wedge(points, centre, lesion.size_mm, generator)
        core = wedge(points, centre, 0.75 * lesion.size_mm, generator)
        layers = ((outer * _tissue(base, modality), GREY["gliosis"]), (core, GREY["infarct"]))
    fine = base - ndimage.gaussian_filter(base, FINE_MM / _steps(points))
    made = base
    for weight, grey in layers:
        made = made + weight * lesion.contrast * (grey[modality] + KEPT * fine - made)
    total = np.maximum.reduce([weight for weight, _ in layers])
    mask = brain & (total > 0.5)
    return np.where(brain, np.clip(made, 0, 1), values).astype(np.float32), mask


def random_lesion(
    kind: str, *, size_mm: float, contrast: float, seed: int, near: tuple[str, float] | None = None
) -> Lesion:
    """A lesion of this kind at a random place where it may occur: plaques in the white matter near the
    ventricles, tumours in white matter, infarcts at the cortex. near: (plane, MNI mm) of a slice that is to
    go through its middle. BrainclipError where that slice has no such place.
    """
    if kind == "atrophy":
        return Lesion(kind, (0.0, *VENTRICLE_MM[1:]), size_mm, contrast, seed)
    if kind not in KINDS:
        raise BrainclipError(f"lesion {kind!r}: possible are {', '.join(KINDS)}")
    places = _places(kind)
    if near is not None:
        plane, position_mm = near
        places = places[np.abs(places[:, AXIS[plane]] - position_mm) <= 1.0]
    if not len(places):
        raise BrainclipError(f"no place for the lesion {kind!r} in this slice; take one nearer to the middle")
    x, y, z = places[np.random.default_rng(seed).integers(len(places))].tolist()
    return Lesion(kind, (x, y, z), size_mm, contrast, seed)


@lru_cache(maxsize=len(KINDS))
def _places(kind: str) -> np.ndarray:
    """(N, 3) MNI mm where the middle of such a lesion may lie, by the atlas's labels (FreeSurfer's ids)."""
    labels = load_atlas().labels
    ids = np.asanyarray(labels.dataobj)
    white = np.isin(ids, (2, 41))
    if kind == "sclerosis":
        near = ndimage.distance_transform_edt(~np.isin(ids, (4, 43))) <= NEAR_VENTRICLES_MM
        found = ndimage.binary_erosion(white) & near
    elif kind == "tumour":
        found = ndimage.binary_erosion(white, iterations=3)
    else:
        found = (ids >= 1000) & (ids < 3000)
    return np.asarray(apply_affine(labels.affine, np.argwhere(found)))


def _atrophied(
    values: np.ndarray, points: np.ndarray, brain: np.ndarray, lesion: Lesion, modality: str
) -> np.ndarray:
    """Wider ventricles by a warp, and wider sulci by letting fluid take over its neighbours."""
    size = lesion.size_mm * lesion.contrast
    wider = _moved(values, points, towards_ventricles(points, size))
    if modality not in FLUID:  # the sulci cannot be told
        return wider
    reach = size * SULCI / _steps(points).mean()  # pixels
    near = np.stack(np.meshgrid(*[np.arange(-np.ceil(reach), np.ceil(reach) + 1)] * values.ndim), -1)
    ball = np.linalg.norm(near, axis=-1) <= max(1.0, reach)
    start, end = FLUID[modality]
    spread = ndimage.grey_dilation if end > start else ndimage.grey_erosion
    filled = np.where(brain, wider, 0.0 if end > start else 1.0)  # outside there is nothing to take over from
    fluid = spread(filled, footprint=ball)
    return wider + min(1.0, reach) * _ramp(fluid, start, end) * (fluid - wider)


def _moved(values: np.ndarray, points: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The values at other points (mm) of the grid's own plane or space, linear; 0 outside."""
    steps = _steps(points)
    where = np.indices(values.shape, dtype=np.float32)
    for axis, step in enumerate(steps):
        along = np.diff(points, axis=axis)[(0,) * values.ndim] / step  # unit vector
        where[axis] += ((source - points) @ along) / step
    return np.asarray(ndimage.map_coordinates(values, where, order=1, mode="constant"))


def _steps(points: np.ndarray) -> np.ndarray:
    """mm from a pixel to the next along each axis of the array."""
    first = (0,) * (points.ndim - 1)
    axes = range(points.ndim - 1)
    return np.array([float(np.linalg.norm(np.diff(points, axis=axis)[first])) for axis in axes])


def _tissue(values: np.ndarray, modality: str) -> np.ndarray:
    """How far a voxel is tissue and not fluid, 0 to 1; 1 where the contrast does not tell."""
    return 1 - _ramp(values, *FLUID[modality]) if modality in FLUID else np.ones_like(values)


def _white(values: np.ndarray, modality: str) -> np.ndarray:
    """How far a voxel is white matter, 0 to 1; where the contrast does not tell, how far it is tissue."""
    return _ramp(values, *WHITE[modality]) if modality in WHITE else _tissue(values, modality)


def _ramp(values: np.ndarray, start: float, end: float) -> np.ndarray:
    return np.clip((values - start) / (end - start), 0, 1)
