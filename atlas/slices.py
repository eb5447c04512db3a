"""Slices: the plane geometry, the intensity window and the one left/right convention.

Neurological display: the subject's left is at image left. Row 0 is the top of the picture.

    plane     rows, top to bottom      columns, left to right   position_mm
    axial     anterior to posterior    left to right            MNI z
    coronal   superior to inferior     left to right            MNI y
    sagittal  superior to inferior     anterior to posterior    MNI x (negative: left)
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image

from atlas.errors import VolumeError
from atlas.volume import resample

PLANES = ("axial", "coronal", "sagittal")
MODALITIES = ("T1", "T2", "PD", "FLAIR")
AXIS = {"axial": 2, "coronal": 1, "sagittal": 0}  # the world axis that a plane is cut across

# The middle of the template's brain (x -72..72, y -107..73, z -72..82 mm): 192 mm around it leave a margin
# of 6 mm in front and behind and 18 mm above and below, where individual brainstems reach further down.
CENTRE_MM = (0.0, -17.0, 5.0)

# contrast -> (low percentile, its share, high percentile, its grey), percentiles of the voxels of the brain,
# fluid included. Black is that share of the low percentile (0: no signal at all), the high percentile gets
# its grey, and the line through both goes on to 1; scans with many dark voids and with few then look alike.
# T1, 9 IXI heads after n4: white matter 0.79-0.81, cortex 0.54-0.57, lateral ventricles 0.15-0.23, at white
# under 0.1 % of the brain. PD keeps every tissue between black and white.
WINDOWS = {
    "T1": (2.0, 0.85, 99.5, 0.90),
    "T2": (2.0, 0.0, 99.5, 0.95),
    "PD": (5.0, 0.6, 99.9, 0.95),
    "FLAIR": (2.0, 0.0, 99.5, 0.85),
}


@dataclass(frozen=True)
class Geometry:
    """Square slices of size x size pixels, spacing_mm apart in every direction."""

    size: int = 192
    spacing_mm: float = 1.0


@dataclass(frozen=True)
class Slice:
    """Pixels (H, W) float32 in [0, 1], labels (H, W) int32, where the slice lies, its index in the grid."""

    pixels: np.ndarray
    labels: np.ndarray
    plane: str
    position_mm: float
    index: int


def working_grid(geometry: Geometry) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The RAS+ grid ((4, 4) affine, shape) that slices are cut from without interpolation.

    A cube of size^3 voxels; voxel size // 2 lies on CENTRE_MM, so there is a slice at x = 0.
    """
    affine = np.diag([geometry.spacing_mm] * 3 + [1.0])
    affine[:3, 3] = np.array(CENTRE_MM) - geometry.size // 2 * geometry.spacing_mm
    return affine, (geometry.size,) * 3


def positions(plane: str, geometry: Geometry) -> np.ndarray:
    """(size,) positions in mm, ascending, of all slices of a plane."""
    affine, shape = working_grid(geometry)
    axis = AXIS[_checked(plane)]
    return affine[axis, 3] + geometry.spacing_mm * np.arange(shape[axis])


def cut(
    volume: Nifti1Image, labels: Nifti1Image, plane: str, position_mm: float, geometry: Geometry
) -> Slice:
    """The slice of volume and labels nearest to position_mm; its position_mm is where it really lies.

    volume ([0, 1]) and labels lie on working_grid(geometry); VolumeError for another grid or a place
    outside it.
    """
    affine, shape = working_grid(geometry)
    for image in (volume, labels):
        if image.shape != shape or not np.allclose(image.affine, affine, atol=1e-3):
            raise VolumeError(
                f"a volume of {image.shape} is not on the {shape} working grid; resample it first"
            )
    index = _index(plane, position_mm, geometry)
    return Slice(
        pixels=show(np.asanyarray(volume.dataobj), plane, index).astype(np.float32),
        labels=show(np.asanyarray(labels.dataobj), plane, index).astype(np.int32),
        plane=plane,
        position_mm=float(positions(plane, geometry)[index]),
        index=index,
    )


def slice_affine(plane: str, position_mm: float, geometry: Geometry) -> np.ndarray:
    """(4, 4) RAS+ affine of one slice as a volume that is one voxel thick along the plane's axis."""
    affine, _ = working_grid(geometry)
    affine[AXIS[_checked(plane)], 3] = position_mm
    return affine


def slice_to_nifti(pixels: np.ndarray, plane: str, position_mm: float, geometry: Geometry) -> Nifti1Image:
    """A slice (H, W) as a 3-D RAS+ volume, one voxel thick, at its place in MNI152 space."""
    if pixels.shape != (geometry.size, geometry.size):
        raise VolumeError(f"a slice of {pixels.shape} pixels; this geometry has {geometry.size} squared")
    affine = slice_affine(plane, position_mm, geometry)
    values = np.expand_dims(pixels[::-1, ::-1].T if plane == "sagittal" else pixels[::-1].T, AXIS[plane])
    image = Nifti1Image(np.ascontiguousarray(values), affine)
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    return image


def nifti_to_slice(image: Nifti1Image, geometry: Geometry) -> tuple[np.ndarray, str, float]:
    """(pixels (H, W) float32, plane, position_mm) of a volume that is one voxel thick along one axis.

    The inverse of slice_to_nifti; a slice in another order of axes or with other pixels is turned to RAS+ and
    resampled (linear). Raises VolumeError when the image is not one slice.
    """
    values = np.asanyarray(image.dataobj, dtype=np.float32)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape.count(1) != 1:
        raise VolumeError(f"an image of shape {image.shape} is not one slice; give a volume one voxel thick")
    canonical = nib.as_closest_canonical(Nifti1Image(values, image.affine))
    axis = canonical.shape.index(1)
    plane = next(name for name in PLANES if AXIS[name] == axis)
    centre = nib.affines.apply_affine(canonical.affine, (np.array(canonical.shape) - 1) / 2)
    position_mm = float(centre[axis])
    affine = slice_affine(plane, position_mm, geometry)
    shape = [geometry.size] * 3
    shape[axis] = 1
    if canonical.shape != tuple(shape) or not np.allclose(canonical.affine, affine, atol=1e-3):
        canonical = resample(canonical, affine, shape)
    return show(np.asanyarray(canonical.dataobj), plane, 0).astype(np.float32), plane, position_mm


def window(volume: np.ndarray, mask: np.ndarray, modality: str) -> np.ndarray:
    """The volume's intensities as grey values: float32 in [0, 1], 0 outside the mask; see WINDOWS.

    mask: same shape, true within the brain. VolumeError when it is empty or the brain has no contrast.
    """
    if modality not in WINDOWS:
        raise VolumeError(f"unknown contrast {modality!r}; possible: {', '.join(MODALITIES)}")
    inside = volume[mask > 0]
    if inside.size == 0:
        raise VolumeError("the brain mask is empty, so there is nothing to set the grey values by")
    low_percentile, share, high_percentile, high_grey = WINDOWS[modality]
    low, high = np.percentile(inside, (low_percentile, high_percentile))
    if high <= low:
        raise VolumeError(f"the brain has no contrast ({low:g} to {high:g}); is this the right volume?")
    nothing = min(0.0, float(inside.min()))  # rescaled scans may have negative values
    black = nothing + share * (low - nothing)
    grey = (volume - black) * (high_grey / (high - black))
    return np.where(mask > 0, np.clip(grey, 0.0, 1.0), 0.0).astype(np.float32)


def show(values: np.ndarray, plane: str, index: int) -> np.ndarray:
    """(H, W): one plane of an RAS+ array (I, J, K) as it is displayed; the module's table in code."""
    if plane == "axial":
        shown = values[:, ::-1, index].T
    elif plane == "coronal":
        shown = values[:, index, ::-1].T
    else:
        shown = values[index, ::-1, ::-1].T
    return np.ascontiguousarray(shown)


def _index(plane: str, position_mm: float, geometry: Geometry) -> int:
    """The index of the slice nearest to a position; VolumeError more than half a slice outside the grid."""
    places = positions(plane, geometry)
    index = int(np.abs(places - position_mm).argmin())
    if abs(places[index] - position_mm) > geometry.spacing_mm / 2 + 1e-6:
        raise VolumeError(
            f"no {plane} slice at {position_mm:g} mm; slices run from {places[0]:g} to {places[-1]:g} mm"
        )
    return index


def _checked(plane: str) -> str:
    if plane not in AXIS:
        raise VolumeError(f"unknown plane {plane!r}; possible: {', '.join(PLANES)}")
    return plane
