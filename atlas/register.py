"""Denoising, bias field correction and registration with ANTs, one thread, the same from run to run.

ITK counts in LPS, this package in RAS; the two change places only in this file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image
from nibabel.affines import apply_affine

from atlas.atlas import Atlas
from atlas.errors import FitError, RegistrationError
from atlas.likeness import GRID_MM, overlap, similarity
from atlas.volume import resample, voxel_sizes

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SLAB = 32  # planes that label_counts looks at together

# Wrong input scores 0.004-0.022 (noise in a brain's outline, a box, a head with its skull, a ball of face,
# half a brain, a brain upside down or mirrored); the lowest of 37 IXI heads 0.035 without n4, of 12 0.063
# with, of 240 simulated people 0.041.
SIMILARITY_FLOOR = 0.025
# Wrong input 0.66-0.905, also what fits well inside: a brain without a quarter 0.825, a mask 6 mm too wide
# 0.864; 13 IXI heads 0.940-0.964, with a mask 4 mm too tight 0.965. Dice of tissue classes does not tell more
# and depends on the contrast, see LOG.md.
OVERLAP_FLOOR = 0.9

# ANTs' default (2100, 1200, 1200, 10) takes 4 s instead of 2 s and gives the same Dice within 0.01.
AFFINE: dict[str, Any] = {
    "aff_iterations": (500, 250, 100),
    "aff_shrink_factors": (4, 2, 2),
    "aff_smoothing_sigmas": (2, 1, 0),
}
# Mean Dice of 12 structures against an independent segmentation on two IXI heads (affine alone 0.61): ANTs'
# default (mutual information, 40 x 20) 0.659 in 6 s, this one 0.678 in 10 s, cross-correlation 40 x 10 with
# radius 3 0.685 in 45 s, mean squares 0.655, demons 0.59.
SYN: dict[str, Any] = {"syn_metric": "CC", "syn_sampling": 2, "reg_iterations": (40, 5, 0)}


@dataclass(frozen=True)
class Registration:
    """How a person's volume lies on the atlas.

    matrix: (4, 4), world of the volume to MNI152 world, both RAS+ mm; affine: the anatomy stays the person's.
    warp: displacements (I, J, K, 3) in RAS mm on an MNI152 grid: a point of the affinely registered volume
    plus its displacement is the matching point of the template. None when only the affine part was wanted.
    similarity: share of the template's information in the volume after the affine part, 0 to 1.
    overlap: Dice of the two brains' outlines after the affine part, 0 to 1.
    warped_similarity: the similarity after the warp; None without one.
    """

    matrix: np.ndarray
    warp: Nifti1Image | None
    similarity: float
    overlap: float
    warped_similarity: float | None = None


def denoise(volume: Nifti1Image, mask: Nifti1Image) -> Nifti1Image:
    """The brain with less noise, 0 outside: non-local means for Rician noise (Manjon et al. 2010).

    mask: voxels above 0 are brain (same grid); same grid, float32. Raises RegistrationError where ITK fails.
    """
    ants = _ants()
    inside = np.asanyarray(mask.dataobj) > 0
    spacing = voxel_sizes(volume).tolist()
    with _refusing("take the noise out of"):
        cleaned = ants.denoise_image(
            ants.from_numpy(np.asanyarray(volume.dataobj, dtype=np.float32), spacing=spacing),
            mask=ants.from_numpy(inside.astype(np.float32), spacing=spacing),
            noise_model="Rician",
        )
    return Nifti1Image(np.where(inside, cleaned.numpy(), 0).astype(np.float32), volume.affine)


def n4(volume: Nifti1Image, mask: Nifti1Image | None = None) -> Nifti1Image:
    """The volume without its slow shading (N4, Tustison et al. 2010); same grid, float32.

    mask: voxels above 0 are brain (same grid); without one, all voxels above 0. The field is estimated on a
    grid of about 8 mm: 1 s a head, and on 8 IXI heads the spread of white matter fell from 0.15 to 0.08 of
    its mean, the same as on a 4 mm grid, which takes 6 s. Raises RegistrationError where ITK fails.
    """
    ants = _ants()
    values = np.asanyarray(volume.dataobj, dtype=np.float32)
    inside = values > 0 if mask is None else np.asanyarray(mask.dataobj) > 0
    if not inside.any():
        raise RegistrationError("the brain mask is empty, so there is no brain to correct; give another mask")
    spacing = voxel_sizes(volume)
    with _refusing("take the shading out of"):
        corrected = ants.n4_bias_field_correction(
            ants.from_numpy(values, spacing=spacing.tolist()),
            mask=ants.from_numpy(inside.astype(np.float32), spacing=spacing.tolist()),
            shrink_factor=max(1, round(8.0 / float(spacing.mean()))),
            convergence={"iters": [50, 50, 30, 20], "tol": 1e-4},
        )
    return Nifti1Image(corrected.numpy().astype(np.float32), volume.affine)


def register(
    volume: Nifti1Image,
    atlas: Atlas,
    *,
    nonlinear: bool,
    seed: int = 1,
    syn: Mapping[str, Any] = SYN,
    least_similarity: float = SIMILARITY_FLOOR,
    least_overlap: float = OVERLAP_FLOOR,
) -> Registration:
    """Where a volume lies on the atlas: affine, and with nonlinear also SyN (Avants et al. 2008).

    volume: brain only, 0 outside, any contrast, RAS+. Bit-equal for equal input and seed.
    syn: arguments of ants.registration for the second part. Raises FitError when the similarity or the
    overlap is lower than asked after the affine part, and when the second part lowers the similarity; 0: no
    floor, neither here nor there.
    """
    fixed, moving = _grid(atlas.template), _grid(volume)
    if not (np.asanyarray(moving.dataobj) > 0).any():
        raise RegistrationError("the volume is empty within the brain mask; give another mask")
    with tempfile.TemporaryDirectory() as folder:
        found = _run(fixed, moving, seed, Path(folder, "affine_"), type_of_transform="Affine", **AFFINE)
        affine_file = found["fwdtransforms"][0]
        matrix = _matrix(affine_file)
        similar = _similarity_at(moving, fixed, matrix)
        shared = overlap(volume, atlas.template, matrix)
        fit = (("similarity", similar, least_similarity), ("overlap", shared, least_overlap))
        low = [f"{name} {value:.4f} is below {least:g}" for name, value, least in fit if value < least]
        if low:
            raise FitError(
                f"the volume does not fit the template: {' and '.join(low)}; "
                "check that it is a brain, that its mask fits and that its orientation is right",
                similar,
                shared,
                matrix,
            )
        warp, warped = None, None
        if nonlinear:
            prefix = Path(folder, "warp_")
            found = _run(
                fixed, moving, seed, prefix, type_of_transform="SyNOnly", initial_transform=affine_file, **syn
            )
            inverse = next(name for name in found["invtransforms"] if name.endswith("InverseWarp.nii.gz"))
            stored: Any = nib.load(inverse)  # (I, J, K, 1, 3), LPS mm
            field = np.asanyarray(stored.dataobj, dtype=np.float32)[:, :, :, 0, :]
            warp = Nifti1Image(field * np.array([-1, -1, 1], dtype=np.float32), fixed.affine)
            warped = similarity(found["warpedmovout"].numpy(), np.asanyarray(fixed.dataobj))
            if least_similarity > 0 and warped < similar:
                raise FitError(
                    "the warp to the template went wrong: it takes the similarity from "
                    f"{similar:.4f} down to {warped:.4f}; check that the volume is a healthy brain and that "
                    "its mask fits",
                    similar,
                    shared,
                    matrix,
                )
    return Registration(matrix, warp, similar, shared, warped)


def similarity_at(volume: Nifti1Image, atlas: Atlas, matrix: np.ndarray) -> float:
    """The similarity of a volume with the template where the matrix puts it, 0 to 1, as register measures it.

    volume: brain only, 0 outside; matrix: (4, 4), world of the volume to MNI152 world, mm.
    """
    return _similarity_at(_grid(volume), _grid(atlas.template), matrix)


def _similarity_at(moving: Nifti1Image, fixed: Nifti1Image, matrix: np.ndarray) -> float:
    """The same of two volumes from _grid."""
    aligned = resample(Nifti1Image(moving.dataobj, matrix @ moving.affine), fixed.affine, fixed.shape)
    return similarity(np.asanyarray(aligned.dataobj), np.asanyarray(fixed.dataobj))


def align(moving: Nifti1Image, fixed: Nifti1Image, *, seed: int = 1) -> np.ndarray:
    """(4, 4) rigid transform from the world of one volume to that of another of the same person, RAS+ mm.

    Both brain only or both whole head; contrasts may differ. Bit-equal for equal input and seed.
    registration.matrix @ align(second, first) brings a second contrast onto the atlas.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = _run(_grid(fixed), _grid(moving), seed, Path(folder, "rigid_"), type_of_transform="Rigid")
        return _matrix(found["fwdtransforms"][0])


def to_atlas(
    volume: Nifti1Image,
    registration: Registration,
    affine: np.ndarray,
    shape: tuple[int, ...],
    *,
    order: int = 1,
) -> Nifti1Image:
    """The volume in MNI152 space by the affine part alone, on the given grid; order 0 for labels."""
    moved = Nifti1Image(np.asanyarray(volume.dataobj), registration.matrix @ volume.affine)
    return resample(moved, affine, shape, order=order)


def atlas_labels(
    registration: Registration, atlas: Atlas, affine: np.ndarray, shape: tuple[int, ...]
) -> Nifti1Image:
    """The atlas's region ids (int32) where they lie in the affinely registered volume, on the given grid.

    With a warp the regions follow the person's anatomy; without one they are the atlas's own.
    """
    if registration.warp is None:
        return resample(atlas.labels, affine, shape, order=0)
    from scipy import ndimage

    warp = registration.warp
    index = np.linalg.inv(warp.affine) @ affine
    field = np.asanyarray(warp.dataobj)
    to_label = np.linalg.inv(atlas.labels.affine)
    places = (to_label @ affine)[:3, :3] @ np.indices(shape).reshape(3, -1) + (to_label @ affine)[:3, 3:]
    for axis in range(3):
        moved = ndimage.affine_transform(
            field[..., axis], index[:3, :3], index[:3, 3], output_shape=shape, order=1, mode="nearest"
        )
        places += to_label[:3, axis : axis + 1] * moved.reshape(1, -1)
    labels = ndimage.map_coordinates(
        np.asanyarray(atlas.labels.dataobj), places, order=0, mode="constant", cval=0
    )
    return Nifti1Image(labels.reshape(shape).astype(np.int32), affine)


def label_counts(
    registration: Registration, atlas: Atlas, affine: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Voxels of each region id (its index) among atlas_labels on this grid.

    SLAB planes at a time: 0.7 mm voxels of a head at once would take 2 GB.
    """
    counts = np.zeros(max(region.id for region in atlas.regions) + 1, dtype=np.int64)
    for start in range(0, shape[0], SLAB):
        place = affine.copy()
        place[:3, 3] += affine[:3, 0] * start
        slab = atlas_labels(registration, atlas, place, (min(SLAB, shape[0] - start), *shape[1:]))
        counts += np.bincount(np.asanyarray(slab.dataobj).ravel(), minlength=len(counts))
    return counts


def plain_labels(volume: Nifti1Image, atlas: Atlas) -> Nifti1Image:
    """The atlas's region ids (int32) on a brain's own grid by ANTs' SyN as it is called plainly.

    The volume as it is against the template at 1 mm, default iterations: what atlas.agreement compares
    `register` with.
    """
    ants = _ants()
    with tempfile.TemporaryDirectory() as folder:
        moving, fixed, labels = (_as_ants(image) for image in (volume, atlas.template, atlas.labels))
        found = ants.registration(
            fixed=fixed, moving=moving, type_of_transform="SyN", outprefix=str(Path(folder, "plain_"))
        )
        back = ants.apply_transforms(
            fixed=moving,
            moving=labels,
            transformlist=found["invtransforms"],
            whichtoinvert=[True, False],
            interpolator="nearestNeighbor",
        )
    return Nifti1Image(back.numpy().astype(np.int32), volume.affine)


def _ants() -> Any:
    """The ants module with ITK on one thread: with more, results differ from run to run."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants

    return ants


def _as_ants(image: Nifti1Image) -> Any:
    """The volume as ANTs holds it: spacing, LPS origin and direction apart."""
    affine, spacing = LPS @ image.affine, voxel_sizes(image)
    return _ants().from_numpy(
        np.asanyarray(image.dataobj, dtype=np.float32),
        origin=affine[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=affine[:3, :3] / spacing,
    )


def _run(fixed: Nifti1Image, moving: Nifti1Image, seed: int, prefix: Path, **settings: Any) -> dict[str, Any]:
    """ants.registration of two volumes from _grid; its files stay where prefix says."""
    ants = _ants()
    before = ants.config._random_seed
    ants.config._random_seed = seed  # antspyx 0.6 ignores the argument random_seed
    try:
        images = [_as_ants(image) for image in (fixed, moving)]
        with _refusing("register"):
            found = ants.registration(fixed=images[0], moving=images[1], outprefix=str(prefix), **settings)
        return dict(found)
    finally:
        ants.config._random_seed = before


@contextmanager
def _refusing(work: str) -> Iterator[None]:
    """What goes wrong inside ITK as a RegistrationError of one sentence."""
    try:
        yield
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise RegistrationError(
            f"ANTs could not {work} the volume ({said}); is the brain mask right?"
        ) from error


def _grid(image: Nifti1Image) -> Nifti1Image:
    """The volume on a 2 mm grid along the world axes around it, smoothed first where it is finer; float32."""
    from scipy import ndimage

    sigma = 0.42 * np.sqrt(
        np.maximum((GRID_MM / voxel_sizes(image)) ** 2 - 1, 0)
    )  # 0.42: half-width of a voxel
    values = ndimage.gaussian_filter(np.asanyarray(image.dataobj, dtype=np.float32), sigma)
    corners = apply_affine(image.affine, np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.shape) - 1))
    affine = np.diag([GRID_MM, GRID_MM, GRID_MM, 1.0])
    affine[:3, 3] = corners.min(0)
    shape = np.ceil(np.ptp(corners, axis=0) / GRID_MM - 1e-3).astype(int) + 1
    return resample(Nifti1Image(values, image.affine), affine, shape.tolist())


def _matrix(path: str) -> np.ndarray:
    """(4, 4) moving world to fixed world, RAS+, of an ITK affine file, which goes backwards in LPS."""
    transform = _ants().read_transform(path)
    linear = np.asarray(transform.parameters[:9]).reshape(3, 3)
    centre = np.asarray(transform.fixed_parameters)
    backwards = np.eye(4)
    backwards[:3, :3] = linear
    backwards[:3, 3] = np.asarray(transform.parameters[9:]) + centre - linear @ centre
    return np.linalg.inv(LPS @ backwards @ LPS)
