"""How far region labels agree with a segmentation made independently: overlap, mentions, volumes, time.

tables/muse.tsv names the ids of MUSE (DLMUSE) by the atlas's regions. match: "same" where the two mean the
same structure, "similar" where their drawing rules differ, as for the gyri.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import Nifti1Image, as_closest_canonical

from atlas.atlas import Atlas, load_atlas
from atlas.brain import labels_and_volumes, read_brain
from atlas.errors import SourceError
from atlas.facts import TABLES, VISIBLE_MM2, with_side
from atlas.likeness import dice
from atlas.prepare import LEAST_BRAIN_MM2
from atlas.register import SYN, Registration, atlas_labels, n4, plain_labels, register, to_atlas
from atlas.slices import AXIS, Geometry, working_grid
from atlas.sources import Scan, load_mask
from atlas.structures import structures, summed
from atlas.volume import resample, voxel_sizes

SIZED = ("lateral ventricles", "hippocampi", "thalami", "cerebellum", "caudates", "putamina")


@dataclass(frozen=True)
class Setting:
    """One way to bring the atlas's labels onto a head.

    kind: "affine"; "syn" with ANTs' metric, sampling and iterations, coarse to fine, on the grid of
    atlas.register; or "plain": ants.registration's own SyN between the scan and the 1 mm template.
    """

    kind: str = "syn"
    metric: str = str(SYN["syn_metric"])
    sampling: int = int(SYN["syn_sampling"])
    iterations: tuple[int, ...] = tuple(SYN["reg_iterations"])


@dataclass(frozen=True)
class Known:
    """A region that both label maps know: its name with side, its ids in each, and "same" or "similar"."""

    name: str
    ours: tuple[int, ...]
    theirs: tuple[int, ...]
    match: str


@lru_cache(maxsize=4)
def table_rows(table: str) -> tuple[dict[str, str], ...]:
    """The rows (id, region, side, match) of a segmentation's table: a name beside this file, or a path."""
    own = TABLES / f"{table}.tsv"
    path = own if own.exists() else Path(table)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows = list(reader)
    except OSError as error:
        raise SourceError(
            f"{table}: no such table of a segmentation ({error.strerror}); give muse or a file"
        ) from None
    if not {"other", "region", "side", "match"} <= set(reader.fieldnames or ()):
        raise SourceError(f"{path}: a segmentation's table has the columns other, region, side, match")
    return tuple(rows)


def known_regions(table: str, atlas: Atlas) -> tuple[Known, ...]:
    """The regions that the atlas and a segmentation's table both have, in order of name."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in table_rows(table):
        rows.setdefault(with_side(row["region"], row["side"]), []).append(row)
    ids: dict[str, list[int]] = {}
    for region in atlas.regions:
        ids.setdefault(with_side(region.name, region.side), []).append(region.id)
    return tuple(
        Known(name, tuple(ids[name]), tuple(int(row["other"]) for row in rows[name]), rows[name][0]["match"])
        for name in sorted(set(rows) & set(ids))
    )


def crossed(segmentation: Nifti1Image, table: str) -> float:
    """The share of the voxels of one side's regions, left or right, that lie beyond the middle of the brain.

    The larger of the two sides; some hundredths where the sides are right, about a half where one side's
    names stand on both.
    """
    upright = as_closest_canonical(segmentation)
    labels = np.asanyarray(upright.dataobj)
    across = np.arange(labels.shape[0])[:, None, None]
    middle = (across * (labels > 0)).sum() / max(np.count_nonzero(labels), 1)
    shares = []
    for side, beyond in (("left", across > middle), ("right", across < middle)):
        named = np.isin(labels, [int(row["other"]) for row in table_rows(table) if row["side"] == side])
        shares.append((named & beyond).sum() / max(np.count_nonzero(named), 1))
    return float(max(shares))


def measure(scan: Scan, setting: Setting, table: str, every_mm: float) -> dict[str, Any]:
    """One head, its labels by one setting against the segmentation beside it (scan.mask).

    seconds: of processor time, for N4, registration and labels. dice: region -> overlap, 0 to 1, on the
    scan's own voxels.
    mentions: region -> [both, ours alone, theirs alone], counts of slices every_mm apart in the three planes
    in which it takes 20 mm2 or more; absent for "plain". volumes: structure -> [ours, theirs], native mm3.
    """
    atlas = load_atlas()
    brain, mask, _ = read_brain(scan, "network")
    given = resample(load_mask(scan, brain), brain.affine, brain.shape, order=0)
    started = time.process_time()
    corrected = n4(brain, mask)
    registration = None
    if setting.kind == "plain":
        labels = plain_labels(corrected, atlas)
    else:
        registration = _registration(corrected, atlas, setting)
        labels = atlas_labels(registration, atlas, registration.matrix @ brain.affine, brain.shape)
    seconds = time.process_time() - started
    ours, theirs = np.asanyarray(labels.dataobj), np.asanyarray(given.dataobj)
    known = known_regions(table, atlas)
    found: dict[str, Any] = {"scan": scan.path.name, "seconds": round(seconds, 2)}
    found["dice"] = {
        region.name: round(dice(np.isin(ours, region.ours), np.isin(theirs, region.theirs)), 4)
        for region in known
    }
    if registration is not None:
        affine, shape = working_grid(Geometry())
        labels, volumes = labels_and_volumes(scan, brain, registration, atlas, affine, shape)
        moved = to_atlas(given, registration, affine, shape, order=0)
        found["mentions"] = _mentions(labels, moved, known, every_mm)
        found["volumes"] = _volumes(volumes, given, table)
    return found


def _registration(brain: Nifti1Image, atlas: Atlas, setting: Setting) -> Registration:
    syn = {
        "syn_metric": setting.metric,
        "syn_sampling": setting.sampling,
        "reg_iterations": setting.iterations,
    }
    return register(
        brain, atlas, nonlinear=setting.kind == "syn", syn=syn, least_similarity=0, least_overlap=0
    )


def _mentions(
    ours: Nifti1Image, theirs: Nifti1Image, known: tuple[Known, ...], every_mm: float
) -> dict[str, list[int]]:
    """Region -> [both, ours alone, theirs alone], slices in which it is visible by the captions' rule."""
    spacing = float(ours.affine[0, 0])
    step = max(1, round(every_mm / spacing))
    first, second = (np.asanyarray(image.dataobj) for image in (ours, theirs))
    counts = {region.name: [0, 0, 0] for region in known}
    for axis in AXIS.values():
        for index in range(step // 2, first.shape[axis], step):
            slices = [labels.take(index, axis).ravel() for labels in (first, second)]
            if np.count_nonzero(slices[1]) * spacing**2 < LEAST_BRAIN_MM2:
                continue
            pixels = [np.bincount(labels) for labels in slices]
            for region in known:
                a, b = (
                    sum(int(amount[id]) for id in ids if id < len(amount)) * spacing**2 >= VISIBLE_MM2
                    for amount, ids in zip(pixels, (region.ours, region.theirs), strict=True)
                )
                if a or b:
                    counts[region.name][0 if a and b else 1 if a else 2] += 1
    return counts


def _volumes(volumes: dict[str, float], given: Nifti1Image, table: str) -> dict[str, list[float]]:
    """Structure -> [ours, theirs] in native mm3."""
    mine = summed(volumes)
    values, voxel_mm3 = np.asanyarray(given.dataobj), float(np.prod(voxel_sizes(given)))
    found = {}
    for structure in SIZED:
        regions = structures()[structure]
        ids = [int(row["other"]) for row in table_rows(table) if row["region"] in regions]
        counted = float(np.isin(values, ids).sum()) * voxel_mm3
        found[structure] = [round(mine.get(structure, 0.0), 1), round(counted, 1)]
    return found
