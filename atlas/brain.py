"""One scan: its brain without the head, and the labels and volumes of its regions."""

from __future__ import annotations

import math

import numpy as np
from nibabel import Nifti1Image

from atlas.atlas import Atlas
from atlas.errors import VolumeError
from atlas.facts import with_side
from atlas.register import Registration
from atlas.sources import Scan, load_mask
from atlas.strip import LARGEST_ML, brain_mask
from atlas.volume import load_labels, load_volume, resample, voxel_sizes

NEAR_MM = 10.0  # around a brain's mask; a label further out is no brain


def read_brain(scan: Scan, strip: str) -> tuple[Nifti1Image, Nifti1Image, str]:
    """A scan's volume, zero outside the brain, the brain mask on its grid, and where the mask is from.

    "given": the image beside the scan. "above 0": of a volume that is stripped already. Else the brain
    extraction `strip`, for a whole head.
    """
    volume = load_volume(scan.path, orientation=scan.orientation)
    values = np.asanyarray(volume.dataobj)
    if scan.mask is not None:
        given = load_mask(scan, volume)
        inside = np.asanyarray(resample(given, volume.affine, volume.shape, order=0).dataobj) > 0
        origin = "given"
    else:
        inside, origin = values > 0, "above 0"
        if inside.sum() * np.prod(voxel_sizes(volume)) / 1000 > LARGEST_ML:  # a whole head
            try:
                inside, origin = np.asanyarray(brain_mask(volume, method=strip).dataobj) > 0, strip
            except VolumeError as error:
                raise VolumeError(f"{scan.path.name}: {error}") from error
    millilitres = float(inside.sum() * np.prod(voxel_sizes(volume)) / 1000)
    if not 300 <= millilitres <= LARGEST_ML:
        raise VolumeError(
            f"{scan.path.name}: {millilitres:.0f} ml lie inside the brain mask, a brain has 300 to "
            f"{LARGEST_ML:.0f}; give brain masks for volumes that are not stripped"
        )
    brain = Nifti1Image(np.where(inside, values, 0).astype(np.float32), volume.affine)
    return brain, Nifti1Image(inside.astype(np.int32), volume.affine), origin


def labels_and_volumes(
    scan: Scan,
    brain: Nifti1Image,
    registration: Registration,
    atlas: Atlas,
    affine: np.ndarray,
    shape: tuple[int, ...],
) -> tuple[Nifti1Image, dict[str, float]]:
    """Region labels on the working grid, and each region's native mm3, from true labels or from the atlas.

    Volumes are counted on the grid of the scan (brain), of which the working grid may show a part only.
    """
    from atlas.register import atlas_labels, label_counts, to_atlas

    if scan.labels is not None:
        own = load_labels(scan.labels)
        labels = to_atlas(own, registration, affine, shape, order=0)
        counts = np.bincount(np.asanyarray(own.dataobj).ravel().astype(np.int64))
        voxel_mm3 = float(abs(np.linalg.det(own.affine[:3, :3]))) / scan.scale
    else:
        labels = atlas_labels(registration, atlas, affine, shape)
        near = _near(brain)
        counts = label_counts(registration, atlas, registration.matrix @ near.affine, near.shape)
        voxel_mm3 = float(abs(np.linalg.det(near.affine[:3, :3]))) / scan.scale
    volumes: dict[str, float] = {}
    for region in atlas.regions:
        if region.id < len(counts) and counts[region.id]:
            name = with_side(region.name, region.side)
            volumes[name] = volumes.get(name, 0.0) + float(counts[region.id]) * voxel_mm3
    volumes["brain"] = float(counts[1:].sum()) * voxel_mm3
    return labels, {name: round(mm3, 1) for name, mm3 in sorted(volumes.items())}


def _near(brain: Nifti1Image) -> Nifti1Image:
    """The brain's box in its volume and NEAR_MM around it: half of a head's voxels or less."""
    inside = np.asanyarray(brain.dataobj) > 0
    box = []
    for axis, size_mm in enumerate(voxel_sizes(brain)):
        found = np.flatnonzero(inside.any(tuple({0, 1, 2} - {axis})))
        around = math.ceil(NEAR_MM / float(size_mm))
        box.append(slice(max(0, int(found[0]) - around), int(found[-1]) + 1 + around))
    near: Nifti1Image = brain.slicer[tuple(box)]
    return near
