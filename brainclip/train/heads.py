"""Whole heads to learn brain extraction from: real scans with their masks, and label maps of whole heads.

All at 2 mm, RAS+, in memory: a real head takes 4 MB, a label map 4 MB.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nibabel import Nifti1Image
from scipy import ndimage
from torch import Tensor

from atlas.masks import closed, largest
from atlas.sources import Scan, find_scans, load_mask
from atlas.strip import GRID_MM, at_grid
from atlas.strip_network import scaled
from atlas.volume import load_labels, load_volume, same_grid
from brainclip.errors import RecipeError

OUTSIDE = 500  # label maps: FreeSurfer ids of the brain and its fluid lie below, skull and skin above
CEREBELLUM = (7, 8, 46, 47)
RIGHT = (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
LEFT = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28)
CLOSING_MM = 10.0  # sinuses, falx and tentorium are narrower
CORD_MM = 4.0  # below the cerebellum, where the brain ends


@dataclass(frozen=True, eq=False)
class Head:
    """One head, (X, Y, Z) each: a scan's intensities (float16, scaled) or labels (uint8), and the brain.

    brain: uint8, 1 inside the skull. centre: (3,) its middle in voxels. labels: how many, 0 for a scan;
    label 0 is what surrounds the head.
    """

    name: str
    values: Tensor
    brain: Tensor
    centre: Tensor
    labels: int


def scan_head(scan: Scan) -> Head:
    """A real head with the mask given beside it. RecipeError when there is none."""
    if scan.mask is None:
        raise RecipeError(f"{scan.path}: has no mask beside it; a brain extraction is learned from masks")
    volume = load_volume(scan.path, orientation=scan.orientation)
    mask = load_mask(scan, volume)
    inside = (np.asanyarray(mask.dataobj) > 0).astype(np.uint8)
    brain = at_grid(Nifti1Image(inside, mask.affine), order=0)
    on_grid = at_grid(volume)
    if not same_grid(brain, on_grid):
        raise RecipeError(f"{scan.mask}: its grid is not that of {scan.path.name}; resample it to the scan")
    values = scaled(torch.from_numpy(np.asanyarray(on_grid.dataobj))).half()
    return _head(scan.subject, values, np.asanyarray(brain.dataobj), 0)


def label_map_head(path: Path) -> Head:
    """A head to be given random contrasts, from a whole-head label map with FreeSurfer ids.

    Its brain is made to agree with the masks of real heads (DLMUSE): with the venous sinuses, falx and
    tentorium, which the map leaves out, and without the fluid around the cord below the cerebellum.
    """
    ids = np.asanyarray(at_grid(load_labels(path), order=0).dataobj)
    inside = (ids > 0) & (ids < OUTSIDE)
    floor = np.nonzero(np.isin(ids, CEREBELLUM).any((0, 1)))[0]
    if not len(floor):
        raise RecipeError(
            f"{path}: no FreeSurfer ids of a cerebellum (7, 8, 46, 47); give whole-head label maps"
        )
    inside[:, :, : max(0, floor[0] - round(CORD_MM / GRID_MM))] = False
    brain = closed(largest(inside), CLOSING_MM / GRID_MM)
    for right, left in zip(RIGHT, LEFT, strict=True):
        ids = np.where(ids == right, left, ids)  # both sides look alike
    known, labels = np.unique(ids, return_inverse=True)
    return _head(path.name.split(".")[0], torch.from_numpy(labels.astype(np.uint8)), brain, len(known))


def find_split_scans(source: str, folder: str, masks: str, splits: str) -> tuple[dict[str, str], list[Scan]]:
    """Subject -> split as a splits.json says, and the scans of a data set, all of whose subjects it names."""
    try:
        assigned: dict[str, str] = json.loads(Path(splits).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"splits {splits!r}: not readable ({error}); name the splits.json of a folder of pairs, so that "
            "the same people are held out"
        ) from None
    scans, _ = find_scans(source, Path(folder), masks=Path(masks))
    unknown = sorted({scan.subject for scan in scans} - set(assigned))
    if unknown:
        raise RecipeError(
            f"{splits}: subject {unknown[0]!r} of {folder} has no split; name the splits.json of these scans"
        )
    return assigned, scans


def load_scans(source: str, folder: str, masks: str, splits: str) -> dict[str, list[Head]]:
    """Split (train, validation) -> the real heads of a data set; those of the test split are left alone."""
    assigned, scans = find_split_scans(source, folder, masks, splits)
    heads: dict[str, list[Head]] = {"train": [], "validation": []}
    for scan in scans:
        if assigned[scan.subject] in heads:
            heads[assigned[scan.subject]].append(scan_head(scan))
    if not heads["train"]:
        raise RecipeError(f"{splits}: nobody of {folder} is in the split 'train'")
    return heads


def load_maps(folder: str, held_out: int) -> dict[str, list[Head]]:
    """Split -> the label maps of a folder; the last `held_out` by name are for validation."""
    paths = sorted(Path(folder).glob("*.nii.gz"))
    if len(paths) <= held_out:
        raise RecipeError(
            f"{folder}: {len(paths)} label maps (*.nii.gz), {held_out} of them to hold out; add some"
        )
    heads = [label_map_head(path) for path in paths]
    cut = len(heads) - held_out
    return {"train": heads[:cut], "validation": heads[cut:]}


def _head(name: str, values: Tensor, brain: np.ndarray, labels: int) -> Head:
    inside = torch.from_numpy(np.ascontiguousarray(brain, dtype=np.uint8))
    centre = torch.tensor(ndimage.center_of_mass(brain), dtype=torch.float32)
    return Head(name, values.contiguous(), inside, centre, labels)
