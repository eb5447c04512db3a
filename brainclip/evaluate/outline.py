"""Outline and symmetry of slices: is it a brain's shape, and are its sides as alike as those of real ones?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from nibabel import Nifti1Image
from scipy import ndimage
from skimage.measure import perimeter_crofton, regionprops
from torch import Tensor

from atlas.atlas import load_atlas
from atlas.slices import Geometry, cut, working_grid
from atlas.volume import resample
from brainclip.data import mirror
from brainclip.evaluate.grey import FAINT, brain

OUTLINE = ("area_mm2", "compactness", "solidity", "holes", "pieces", "atlas_dice")
SPECK = 10  # pixels; a smaller piece is noise
BAND = (0.5, 99.5)  # percentiles of real slices between which a picture counts as plausible
NEAR_MM = 6.0
FEWEST = 100  # real slices for such percentiles


@lru_cache(maxsize=2)
def _template(geometry: Geometry) -> Nifti1Image:
    affine, shape = working_grid(geometry)
    template = load_atlas().template
    inside = Nifti1Image((np.asanyarray(template.dataobj) > 0).astype(np.uint8), template.affine)
    return resample(inside, affine, shape, order=0)


def atlas_outline(plane: str, position_mm: float, geometry: Geometry) -> np.ndarray:
    """(H, W) bool: the template's brain in the slice nearest to a place."""
    inside = _template(geometry)
    return cut(inside, inside, plane, position_mm, geometry).labels > 0


def outline(image: np.ndarray, template: np.ndarray, spacing_mm: float) -> list[float]:
    """OUTLINE of a slice (H, W) in [0, 1], all 0 without brain; template (H, W) bool: the atlas's brain.

    area_mm2: of the largest piece that is not faint, its holes filled. compactness: 4 pi area / perimeter^2,
    1 of a disc, perimeter by Crofton's formula. solidity: share of its convex hull. holes: share of it that
    is faint. pieces: how many there are of 10 pixels and more. atlas_dice: overlap with the template's
    outline.
    """
    seen, inside = image > FAINT, brain(image)
    if not inside.any():
        return [0.0] * len(OUTLINE)
    pixels = np.count_nonzero(inside)
    labels, _ = ndimage.label(seen)
    shared = np.count_nonzero(inside & template)
    return [
        pixels * spacing_mm**2,
        4 * np.pi * pixels / float(perimeter_crofton(inside, 4)) ** 2,
        float(regionprops(inside.astype(np.uint8))[0].solidity),
        np.count_nonzero(inside & ~seen) / pixels,
        float((np.bincount(labels.ravel())[1:] >= SPECK).sum()),
        2 * shared / (pixels + np.count_nonzero(template)),
    ]


def outlines(images: Tensor, planes: np.ndarray, positions: np.ndarray, geometry: Geometry) -> np.ndarray:
    """(N, 6) OUTLINE of slices (N, 1, H, W) in [0, 1] at these planes and places in mm."""
    places = zip(images[:, 0].numpy(), planes, positions, strict=True)
    rows = [
        outline(image, atlas_outline(str(plane), float(mm), geometry), geometry.spacing_mm)
        for image, plane, mm in places
    ]
    return np.array(rows).reshape(-1, len(OUTLINE))


def implausible(found: np.ndarray, references: list[np.ndarray]) -> np.ndarray:
    """(N, 6) 1 where a slice's OUTLINE (N, 6) is outside BAND of its references, else 0; nan where there are
    fewer than 100. references: of each slice the OUTLINE (M, 6) of real ones at its place."""
    rows = np.full(found.shape, np.nan)
    for k, reference in enumerate(references):
        if len(reference) >= FEWEST:
            low, high = np.percentile(reference, BAND, axis=0)
            rows[k] = (found[k] < low) | (found[k] > high)
    return rows


def asymmetry(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of axial or coronal slices (N, 1, H, W) in [0, 1], (N,) of grey levels and (N,) of the outline.

    Grey: sum of the absolute difference from the mirror image by the sum of both, 0 alike, 1 one side alone.
    Outline: 1 - Dice of the brain and its mirror image. Mirrored about x = 0; nan without brain.
    """
    inside = torch.from_numpy(np.stack([brain(image) for image in images[:, 0].numpy()]))[:, None].float()
    result = []
    for values in (images * inside, inside):
        other = mirror(values)
        whole = (values + other).sum((1, 2, 3)).double()
        off = (values - other).abs().sum((1, 2, 3)).double()
        result.append(torch.where(whole > 0, off / whole, torch.nan).numpy())
    return result[0], result[1]
