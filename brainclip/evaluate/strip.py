"""How good the brain extraction is: Dice on held-out heads, and the outline to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from nibabel import Nifti1Image
from nibabel.spaces import vox2out_vox
from PIL import Image
from scipy import ndimage

from atlas.sources import load_mask
from atlas.strip import brain_mask
from atlas.volume import load_volume, resample, voxel_sizes
from brainclip.errors import RecipeError
from brainclip.train.heads import find_split_scans
from brainclip.train.strip import WEIGHTS, StripRecipe, dice
from brainclip.weights import hash_file, write_json

ENLARGE = 2
OUTLINE = (255, 60, 60)


def measure_strip(recipe: StripRecipe, split: str) -> dict[str, float]:
    """n, mean, standard deviation and least Dice of a trained recipe on the scans of a split.

    Each on its own grid, through atlas.strip.brain_mask. <split>.json in the recipe's folder lists every
    scan's Dice and both volumes in ml.
    """
    assigned, scans = find_split_scans(recipe.source, recipe.input, recipe.masks, recipe.splits)
    weights = Path(recipe.folder) / WEIGHTS
    rows = []
    for scan in scans:
        if assigned[scan.subject] != split or scan.mask is None:
            continue
        volume = load_volume(scan.path, orientation=scan.orientation)
        mask = brain_mask(volume, weights=weights)
        given = resample(load_mask(scan, volume), mask.affine, mask.shape, order=0)
        true = torch.from_numpy(np.asanyarray(given.dataobj) > 0)
        found = torch.from_numpy(np.asanyarray(mask.dataobj) > 0)
        voxel_ml = float(np.prod(voxel_sizes(mask))) / 1000
        sizes = {"ml": round(int(found.sum()) * voxel_ml, 1), "true_ml": round(int(true.sum()) * voxel_ml, 1)}
        rows.append({"scan": scan.path.name, "dice": round(dice(found, true), 4)} | sizes)
    if not rows:
        raise RecipeError(f"{recipe.splits}: nobody is in the split {split!r}")
    values = np.array([row["dice"] for row in rows], dtype=float)
    numbers = {"n": len(rows), "mean": values.mean(), "sd": values.std(), "least": values.min()}
    numbers = {key: round(float(value), 4) for key, value in numbers.items()}
    table = {"split": split, "weights": hash_file(weights), "dice": numbers, "scans": rows}
    write_json(Path(recipe.folder) / f"{split}.json", table)
    return numbers


def outline(volume: Nifti1Image, mask: Nifti1Image, path: Path) -> None:
    """Write a PNG: sagittal, coronal and axial slice at 1 mm through the middle of the mask, outlined in red.

    Subject's left at image left; sagittal: front at image left.
    """
    shape, affine = vox2out_vox((volume.shape, volume.affine), voxel_sizes=(1.0, 1.0, 1.0))
    values = np.asanyarray(resample(volume, affine, shape).dataobj)
    inside = np.asanyarray(resample(mask, affine, shape, order=0).dataobj) > 0
    middle = np.round(ndimage.center_of_mass(inside)).astype(int)
    low, high = np.percentile(values[inside], (0.5, 99.5))
    grey = np.clip((values - min(low, 0)) / max(high - min(low, 0), 1e-6), 0, 1) * 255
    tiles = []
    for axis, at in enumerate(middle):
        across = -1 if axis == 0 else 1
        shown = [image.take(at, axis).T[::-1, ::across] for image in (grey, inside)]
        slice_, brain = (np.kron(image, np.ones((ENLARGE, ENLARGE))) for image in shown)
        edge = (brain > 0) & ~ndimage.binary_erosion(brain > 0)
        tile = np.repeat(slice_[:, :, None], 3, axis=2)
        tile[edge] = OUTLINE
        tiles.append(tile)
    height = max(len(tile) for tile in tiles)
    tiles = [np.pad(tile, ((0, height - len(tile)), (0, 0), (0, 0))) for tile in tiles]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(tiles, axis=1).astype(np.uint8)).save(path)
