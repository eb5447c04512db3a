"""Volumes in and out of files, always 3-D and RAS+; resampling by world coordinates."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from atlas.errors import VolumeError

FEWEST_VOXELS = 8  # along each axis; fewer is a slice or a localiser, not a volume
MOST_VOXELS = 1024  # along each axis; 1 mm heads have 256, the finest brain scans about 700
MOST_IN_ALL = 2**28  # voxels, 0.4 mm over a whole head; reading takes up to 17 bytes for each, 4.6 GB
MOST_MM = 1000.0  # along each axis; a scanner sees 500
FINEST_MM = 0.01  # edge of a voxel
FARTHEST_MM = 1e4  # of a volume's corner from the origin
FLATTEST = 0.1  # volume of the voxel between its axes as a share of a box with the same edges
LONGEST_EXTRA = 2**23  # bytes in front of the voxels
DEFLATE = 1032  # bytes that one byte of a .gz can stand for, at most
NIFTI = (nib.Nifti1Image, nib.Nifti1Pair, nib.Nifti2Image, nib.Nifti2Pair)
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
    with np.errstate(over="ignore"):  # what is too large becomes infinite
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
    with np.errstate(invalid="ignore"):  # NaN becomes a number that differs from it
        whole = values.astype(np.int32)  # never 8 bits: id 2035 would become -13
    if not np.array_equal(whole, values) or whole.min() < 0:
        raise VolumeError(f"{path}: a label image holds whole numbers >= 0; is this an image of intensities?")
    return _canonical(whole, affine)


def has_orientation(path: str | os.PathLike[str]) -> bool:
    """Whether a file says which side is left: Analyze never does, NIfTI only by a form code above 0.

    True for a file that cannot be read, which load_volume then says better.
    """
    try:
        header = _open(Path(path)).header
    except VolumeError:
        return True
    if isinstance(header, nib.Nifti1Header):
        return bool(header["qform_code"] > 0 or header["sform_code"] > 0)
    return not isinstance(header, nib.AnalyzeHeader)


def check_ending(path: str | os.PathLike[str]) -> str:
    """The ending of a file that save_volume can write. Raises VolumeError for another."""
    for ending in (".nii.gz", ".nii"):
        if Path(path).name.endswith(ending):
            return ending
    raise VolumeError(f"{path}: volumes are written as .nii or .nii.gz; change the ending")


def save_volume(image: Nifti1Image, path: str | os.PathLike[str]) -> None:
    """Write a NIfTI file (.nii or .nii.gz) under a temporary name and rename it: it is whole or absent."""
    path = Path(path)
    ending = check_ending(path)
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


def as_stored(image: Nifti1Image, path: str | os.PathLike[str]) -> Nifti1Image:
    """An image in the voxel order (RAS+) of what load_volume made of a file, in the order of the file."""
    stored = nib.orientations.io_orientation(_open(Path(path)).affine)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), stored)
    turned: Nifti1Image = image.as_reoriented(back)
    return turned


def same_grid(first: Nifti1Image, second: Nifti1Image) -> bool:
    """Whether two images have the same shape and, to a hundredth of a millimetre, the same affine."""
    return first.shape == second.shape and np.allclose(first.affine, second.affine, atol=1e-2)


def voxel_sizes(image: Nifti1Image) -> np.ndarray:
    """(3,) voxel edge lengths in mm."""
    return np.asarray(nib.affines.voxel_sizes(image.affine))


def _read(path: Path, fewest: int = FEWEST_VOXELS, orientation: str = "") -> tuple[np.ndarray, np.ndarray]:
    """The values (I, J, K) as stored and their (4, 4) affine, after the checks that all volumes share."""
    image = _open(path)
    with _refusing(path):
        shape = _checked_shape(path, image, fewest)
        affine = np.asarray(image.affine, dtype=np.float64)
        if orientation:
            affine = _affine_to(orientation, shape, image.header.get_zooms()[:3])
        _check_affine(path, affine, shape)
        file = Path(image.file_map["image"].filename)
        claimed = math.prod(shape) * image.get_data_dtype().itemsize + image.dataobj.offset
        if claimed > file.stat().st_size * (DEFLATE if file.suffix.lower() in (".gz", ".mgz") else 1):
            raise HeaderDataError(f"its header tells of {claimed} bytes, {file.name} is too short for them")
        with np.errstate(all="ignore"):  # a scale beyond all numbers; what comes of it is refused
            return np.asanyarray(image.dataobj).reshape(shape), affine


def _open(path: Path) -> Any:
    """The nibabel image in a file, its voxels not read yet."""
    if not path.is_file():
        raise VolumeError(f"{path}: no such file; give the path of a NIfTI, Analyze or MGZ volume")
    with _refusing(path):
        if not path.name.lower().endswith(SUFFIXES):
            raise ImageFileError("by its ending")
        _check_extensions(path)
        try:
            return nib.load(path)
        except MemoryError as error:  # headers take none; what lies beside an SPM image can ask for all
            raise HeaderDataError(f"what its header tells of does not fit into memory: {error}") from error


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file as a VolumeError of one sentence."""
    try:
        yield
    except (VolumeError, MemoryError):
        raise
    except (ImageFileError, WrapStructError) as error:
        raise VolumeError(
            f"{path}: not a volume that can be read ({_line(error)}); possible are {', '.join(SUFFIXES)}"
        ) from error
    except Exception as error:  # nibabel raises a dozen kinds for damaged files
        raise VolumeError(
            f"{path}: truncated or damaged ({_line(error)}); copy or export it again"
        ) from error


def _line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _check_extensions(path: Path) -> None:
    """Raises HeaderDataError for NIfTI extensions that do not end where they should, within LONGEST_EXTRA.

    nibabel would read on to the end of the file, and a small .gz may unpack to any size.
    """
    found, sniffed = False, None
    for kind in NIFTI:
        found, sniffed = kind.path_maybe_image(path, sniffed)
        if found:
            break
    if not found or sniffed is None:
        return
    size = kind.header_class.template_dtype.itemsize
    with ImageOpener(sniffed[1]) as file:
        header = kind.header_class(file.read(size), check=False)
        if not header["vox_offset"] <= LONGEST_EXTRA:
            raise HeaderDataError(f"its header says that the voxels begin at byte {header['vox_offset']:g}")
        has_any, length = file.read(4)[:1] > b"\0", int(header["vox_offset"]) - size - 4
        if length < 0 or not header.is_single:
            length = LONGEST_EXTRA + 1  # nibabel reads them to the end of the file
        extra = file.read(length) if has_any else b""
    place = 0
    while place + 16 <= len(extra):
        length = int(np.frombuffer(extra, f"{header.endianness}i4", count=1, offset=place)[0])
        if not 16 <= length <= len(extra) - place or len(extra) > LONGEST_EXTRA:
            raise HeaderDataError(f"its header has an extension of {length} bytes among {len(extra)}")
        place += length


def _checked_shape(path: Path, image: Any, fewest: int) -> tuple[int, ...]:
    """(I, J, K) of an image whose voxels are not read yet; it holds one volume of grey values."""
    shape, dtype = tuple(int(n) for n in image.shape), image.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise VolumeError(f"{path}: voxels of type {dtype} are not grey values; export grey values")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise VolumeError(
            f"{path}: {len(shape)} dimensions {shape}; give one 3-D volume (extract a single frame)"
        )
    if min(shape) < fewest or max(shape) > MOST_VOXELS or math.prod(shape) > MOST_IN_ALL:
        raise VolumeError(
            f"{path}: a grid of {shape}; a volume has {fewest} to {MOST_VOXELS} voxels along each axis, "
            f"and {MOST_IN_ALL} in all"
        )
    return shape


def _check_affine(path: Path, affine: np.ndarray, shape: Sequence[int]) -> None:
    """Raises VolumeError for an affine that no scan has: flat, not finite, or of a giant's head."""
    known = affine.shape == (4, 4) and (affine[3] == (0, 0, 0, 1)).all()
    known = known and (np.abs(affine) < FARTHEST_MM).all()  # NaN is not, either
    sizes = nib.affines.voxel_sizes(affine) if known else np.zeros(3)
    if not known or not abs(np.linalg.det(affine[:3, :3])) > FLATTEST * sizes.prod():
        raise VolumeError(f"{path}: its affine cannot be inverted; set the orientation and export again")
    if sizes.min() < FINEST_MM or (sizes * shape).max() > MOST_MM:
        raise VolumeError(
            f"{path}: {tuple(shape)} voxels of {' x '.join(f'{size:.3g}' for size in sizes)} mm are no head; "
            "set the sizes of its voxels in mm and export again"
        )


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
