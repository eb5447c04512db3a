"""Masks and labels on 1 mm grids: distances, closing, nearest labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

LABEL_SOFTNESS_MM = 0.6


def nearest(labels: np.ndarray, allowed: Sequence[int]) -> np.ndarray:
    """Each voxel's nearest label among `allowed`."""
    index = ndimage.distance_transform_edt(
        ~np.isin(labels, allowed), return_distances=False, return_indices=True
    )
    return labels[tuple(index)]


def near_mask(labels: np.ndarray, ids: Sequence[int], reach: int) -> np.ndarray:
    """Voxels within `reach` voxels of any of `ids` along every axis: a cube, which is quick."""
    found = np.isin(labels, ids).view(np.uint8)
    return ndimage.maximum_filter(found, 2 * reach + 1).view(bool)


def softened(mask: np.ndarray) -> np.ndarray:
    """The mask as float32 with an edge about 1 mm wide: the partial volume that a label map leaves out."""
    return ndimage.gaussian_filter(mask.astype(np.float32), LABEL_SOFTNESS_MM)


def signed_distance(mask: np.ndarray, smooth: float = 0.6) -> np.ndarray:
    """Distance in mm to the mask's surface, negative inside, float32; smoothed because voxels have steps."""
    outside = ndimage.distance_transform_edt(~mask) - 0.5 * ~mask
    inside = ndimage.distance_transform_edt(mask) - 0.5 * mask
    return ndimage.gaussian_filter((outside - inside).astype(np.float32), smooth)


def closed(mask: np.ndarray, radius_mm: float) -> np.ndarray:
    """The mask after morphological closing with a ball, holes filled; the box's border counts as outside."""
    grown = ndimage.distance_transform_edt(~mask) <= radius_mm
    back = ndimage.distance_transform_edt(np.pad(grown, 1))[1:-1, 1:-1, 1:-1] > radius_mm
    return ndimage.binary_fill_holes(back | mask)


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of the mask."""
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, slice, slice]:
    """Slices of the mask's box with a margin, cut at the array's border."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))[0]
    sides = zip(boxes, mask.shape, strict=True)
    i, j, k = (slice(max(0, box.start - margin), min(n, box.stop + margin)) for box, n in sides)
    return i, j, k


def shift(start: list[int]) -> np.ndarray:
    """The (4, 4) voxel offset of a crop."""
    matrix = np.eye(4)
    matrix[:3, 3] = start
    return matrix
