"""Volumes in and out of files, always 3-D and RAS+; resampling by world coordinates."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image
from nibabel.filebasedimages import ImageFileError
from nibabel.wrapstruct import WrapStructError

from atlas.errors import VolumeError

FEWEST_VOXELS = 8  # along each axis; fewer is a slice or a localiser, not a volume
MOST_VOXELS = 1024  # along each axis; 1 mm heads have 256, the finest brain scans about 700
SUFFIXES = (".nii", ".nii.gz", ".img", ".img.gz", ".hdr", ".mgz", ".mgh")


def load_volume(
    path: str | os.PathLike[str], *, fewest: int = FEWEST_VOXELS, orientation: str = ""
) -> Nifti1Image:
    """A volume of intensities: RAS+, float32, 3-D, finite, at least two values.

    NIfTI, Analyze and MGZ are read; axes of length 1 behind the third are dropped. fewest: voxels along the
    shortest axis; 1 admits a single slice. orientation: where the voxel axes run to, such as "LAS" (left,
    anterior, superior), in place of what the file says; the middle of the volume then lies at 0.
    Raises VolumeError with one sentence for anything that is not such a volume.
    """
    path = Path(path)
    values, affine = _read(path, fewest, orientation)
    values = values.astype(np.float32)
    broken = int(values.size - np.isfinite(values).sum())
    if broken:
        raise VolumeError(
            f"{path}: {broken} of {values.size} voxels are NaN or infinite; "
            "replace them (for example by 0 outside the head)"
        )
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise VolumeError(f"{path}: every voxel is {low:g}, so there is nothing to see; export it again")
    return _canonical(values, affine)


def load_labels(path: str | os.PathLike[str], *, orientation: str = "") -> Nifti1Image:
    """A label image: RAS+, int32, 3-D, ids as stored in the file. orientation: as in load_volume.

    Raises VolumeError as load_volume does, and when a value is not a whole number >= 0.
    """
    path = Path(path)
    values, affine = _read(path, orientation=orientation)
    whole = values.astype(np.int32)  # never 8 bits: id 2035 would become -13
    if not np.array_equal(whole, values) or whole.min() < 0:
        raise VolumeError(f"{path}: a label image holds whole numbers >= 0; is this an image of intensities?")
    return _canonical(whole, affine)


def has_orientation(path: str | os.PathLike[str]) -> bool:
    """Whether a file says which side is left: Analyze never does, NIfTI only by a form code above 0.

    True for a file that cannot be read, which load_volume then says better.
    """
    try:
        header: Any = nib.load(path).header
    except (ImageFileError, WrapStructError, OSError, EOFError, ValueError, zlib.error):
        return True
    if isinstance(header, nib.Nifti1Header):
        return bool(header["qform_code"] > 0 or header["sform_code"] > 0)
    return not isinstance(header, nib.AnalyzeHeader)


def save_volume(image: Nifti1Image, path: str | os.PathLike[str]) -> None:
    """Write a NIfTI file (.nii or .nii.gz) under a temporary name and rename it: it is whole or absent."""
    path = Path(path)
    ending = next((ending for ending in (".nii.gz", ".nii") if path.name.endswith(ending)), None)
    if ending is None:
        raise VolumeError(f"{path}: volumes are written as .nii or .nii.gz; change the ending")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{ending}")
    try:
        nib.save(image, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def resample(image: Nifti1Image, affine: np.ndarray, shape: Sequence[int], *, order: int = 1) -> Nifti1Image:
    """The image on another grid, matched by world position; 0 where the image does not reach.

    affine: (4, 4) of the new grid, shape: its (I, J, K). order: spline order, 0 for labels.
    Intensities come back as float32, whole numbers (order 0) in their own type.
    """
    from scipy import ndimage  # a third of a second; `import brainclip` stays quick without it

    values = np.asanyarray(image.dataobj)
    if order > 0:
        values = values.astype(np.float32, copy=False)
    index = np.linalg.inv(image.affine) @ affine  # new voxel -> old voxel
    shape = tuple(int(n) for n in shape)
    moved = ndimage.affine_transform(
        values, index[:3, :3], index[:3, 3], output_shape=shape, order=order, mode="constant", cval=0
    )
    return Nifti1Image(moved, affine)


def same_grid(first: Nifti1Image, second: Nifti1Image) -> bool:
    """Whether two images have the same shape and, to a hundredth of a millimetre, the same affine."""
    return first.shape == second.shape and np.allclose(first.affine, second.affine, atol=1e-2)


def voxel_sizes(image: Nifti1Image) -> np.ndarray:
    """(3,) voxel edge lengths in mm."""
    return np.asarray(nib.affines.voxel_sizes(image.affine))


def _read(path: Path, fewest: int = FEWEST_VOXELS, orientation: str = "") -> tuple[np.ndarray, np.ndarray]:
    """The values (I, J, K) as stored and their (4, 4) affine, after the checks that all volumes share."""
    if not path.exists():
        raise VolumeError(f"{path}: no such file; give the path of a NIfTI, Analyze or MGZ volume")
    try:
        image: Any = nib.load(path)
        values = np.asanyarray(image.dataobj)
    except (ImageFileError, WrapStructError) as error:
        raise VolumeError(
            f"{path}: not a volume that can be read ({error}); possible are {', '.join(SUFFIXES)}"
        ) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise VolumeError(f"{path}: truncated or damaged ({error}); copy or export it again") from error
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise VolumeError(f"{path}: voxels of type {values.dtype} are not grey values; export grey values")
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise VolumeError(
            f"{path}: {values.ndim} dimensions {values.shape}; give one 3-D volume (extract a single frame)"
        )
    if min(values.shape) < fewest or max(values.shape) > MOST_VOXELS:
        raise VolumeError(
            f"{path}: a grid of {values.shape} voxels; a volume has {fewest} to {MOST_VOXELS} along each axis"
        )
    affine = image.affine
    if orientation:
        affine = _affine_to(orientation, values.shape, image.header.get_zooms()[:3])
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise VolumeError(f"{path}: its affine cannot be inverted; set the orientation and export again")
    return values, affine


def _affine_to(orientation: str, shape: Sequence[int], sizes_mm: Sequence[float]) -> np.ndarray:
    """(4, 4) affine of voxel axes that run to e.g. "LAS", with the middle of the volume at 0."""
    axes = ["LR", "PA", "IS"]
    world = [next((row for row, pair in enumerate(axes) if code in pair), 3) for code in orientation]
    if sorted(world) != [0, 1, 2]:
        raise VolumeError(
            f"orientation {orientation!r}: three letters, one each of L or R, P or A, I or S, say where the "
            "voxel axes run to, such as LAS"
        )
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (row, code) in enumerate(zip(world, orientation, strict=True)):
        affine[row, axis] = sizes_mm[axis] * (1 if code in "RAS" else -1)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def _canonical(values: np.ndarray, affine: np.ndarray) -> Nifti1Image:
    """The closest RAS+ order of the axes: values are permuted and flipped, never interpolated."""
    image = nib.as_closest_canonical(Nifti1Image(values, affine))
    return Nifti1Image(np.ascontiguousarray(image.dataobj), image.affine)
