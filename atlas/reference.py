"""Reference: the tissue of every pixel of a subject's slices, from a label map that is given with the scans.

A folder of pairs keeps neither registrations nor label slices. The affine part of a registration is the same
from run to run, so the slices are cut again, labels and all, and the picture's pixels say whether it is so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import Nifti1Image
from PIL import Image

from atlas.errors import PairsError, SourceError
from atlas.facts import TABLES
from atlas.files import subject_path
from atlas.prepare import Settings, in_order
from atlas.records import read_lines
from atlas.register import to_atlas
from atlas.slices import Geometry, cut, working_grid
from atlas.sources import Scan, load_mask
from atlas.visit import prepare_visit
from atlas.volume import load_labels, resample

TISSUES = ("outside", "lateral ventricles", "cortex", "white matter", "cerebellum", "fluid", "other")
FLUID = TISSUES.index("fluid")
OTHER = TISSUES.index("other")  # deep grey matter, brainstem, vessels
OFF = 0.5 / 255  # mean difference of grey; the same slice, rounded to 8 bits, has 0.15 / 255 (IXI)


def label_tables() -> tuple[str, ...]:
    """Names of the label tables of which the tissues are known."""
    return tuple(_tables())


@lru_cache(maxsize=1)
def _tables() -> dict[str, dict[int, int]]:
    """Name of a label table -> id -> number in TISSUES, from tables/tissues.tsv."""
    found: dict[str, dict[int, int]] = {}
    with (TABLES / "tissues.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            for part in row["ids"].split(";"):
                first, _, last = part.partition("-")
                ids = range(int(first), int(last or first) + 1)
                found.setdefault(row["labels"], {}).update(dict.fromkeys(ids, TISSUES.index(row["tissue"])))
    return found


def tissues(labels: np.ndarray, table: str) -> np.ndarray:
    """Region ids as numbers in TISSUES, uint8, same shape; ids above 0 that the table does not name: other.

    table: a name in tables/tissues.tsv. Raises SourceError for another.
    """
    if table not in _tables():
        raise SourceError(f"labels {table!r}: tissues are known of {', '.join(label_tables())}")
    known = np.full(max(int(labels.max()), *_tables()[table]) + 1, OTHER, dtype=np.uint8)
    known[0] = 0
    for id, number in _tables()[table].items():
        known[id] = number
    return known[labels]


def read_settings(folder: Path) -> Settings:
    """The Settings by which a folder of pairs was made. Raises PairsError when it does not say."""
    path = folder / "settings.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PairsError(
            f"{path}: not readable ({error}); rebuild the folder with `brainclip pairs`"
        ) from None
    known = {name: value for name, value in found.items() if name in Settings.__dataclass_fields__}
    return Settings(**(known | {"geometry": Geometry(**known["geometry"])}))


def tissue_slices(folder: Path, subject: str, scans: Sequence[Scan], table: str) -> dict[str, np.ndarray]:
    """File name -> tissues (H, W) uint8, numbers in TISSUES, of the slices of a subject in a folder of pairs.

    scans: of this subject, as atlas.sources.find_scans gives them. Labels are the true ones of the scans,
    else the image given as mask, whose ids `table` names (tables/tissues.tsv); true ones are the atlas's own.
    Of a visit without true labels only the slices of the scan that was registered are there. Raises
    PairsError where a slice cut again is not the picture, SourceError for scans without labels.
    """
    settings = read_settings(folder)
    header, *records = read_lines(subject_path(folder, subject))
    found: dict[str, np.ndarray] = {}
    for session, visit in header["sessions"].items():
        of_visit = [scan for scan in scans if (scan.session or "") == session]
        used = [scan for scan in of_visit if scan.modality in visit["masks"]]
        lines = [line for line in records if line["session"] == session]
        if lines:
            found |= _visit(folder, lines, used, settings, table)
    return found


def _visit(
    folder: Path, lines: Sequence[Mapping[str, Any]], scans: Sequence[Scan], settings: Settings, table: str
) -> dict[str, np.ndarray]:
    """tissue_slices of one visit."""
    if not scans:
        raise SourceError(f"{folder}: the scans of {lines[0]['file_name']} are not among those given")
    scan = in_order(scans)[0]  # the one that was registered
    if scan.labels is None and scan.mask is None:
        raise SourceError(f"{scan.path.name}: has neither true labels nor a mask beside it")
    made, refused = prepare_visit([scan], settings)
    if refused:
        raise refused[0][1]
    given = _given(scan, made[0].mask, settings.atlas if scan.labels is not None else table)
    moved = to_atlas(given, made[0].registration, *working_grid(settings.geometry), order=0)
    slices: dict[str, np.ndarray] = {}
    for line in lines:
        facts = line["facts"]
        if scan.labels is None and facts["modality"] != scan.modality:
            continue
        slice_ = cut(made[0].image, moved, facts["plane"], facts["position_mm"], settings.geometry)
        if facts["modality"] == scan.modality:
            _check(folder / line["file_name"], slice_.pixels)
        slices[line["file_name"]] = slice_.labels.astype(np.uint8)
    return slices


def _given(scan: Scan, mask: Nifti1Image, table: str) -> Nifti1Image:
    """The tissues that a scan's label map says, where the label map lies."""
    if scan.labels is None:
        labels = load_mask(scan, mask)
        return Nifti1Image(tissues(np.asanyarray(labels.dataobj), table), labels.affine)
    labels = load_labels(scan.labels)
    values = tissues(np.asanyarray(labels.dataobj), table)
    inside = resample(mask, labels.affine, labels.shape, order=0)
    # simulated brains have fluid around them without a label
    values[(values == 0) & (np.asanyarray(inside.dataobj) > 0)] = FLUID
    return Nifti1Image(values, labels.affine)


def _check(path: Path, pixels: np.ndarray) -> None:
    """PairsError unless the picture shows just these pixels, (H, W) in [0, 1]."""
    with Image.open(path) as image:
        picture = np.asarray(image.convert("L"), dtype=np.float32) / 255
    if picture.shape != pixels.shape or np.abs(picture - pixels).mean() > OFF:
        raise PairsError(
            f"{path}: the scan gives another slice now, so its labels would not lie on it; "
            "the scans or the code have changed since, run `brainclip pairs` into a new folder"
        )
