"""OASIS-2 (Marcus et al. 2010): two to five visits of 150 people of 60 to 96 years, whole heads.

OAS2_RAW_PART1/OAS2_0001_MR1/RAW/mpr-1.nifti.img and .hdr, three or four repeats a visit, of which the first
is used (with masks the first that has one, `OAS2_0001_MR1_mpr-1_*.nii.gz`). They are NIfTI pairs; one whose
header does not say the orientation is left out, for nothing else says which side is left.
"""

from __future__ import annotations

import re
from pathlib import Path

from atlas.sources.oasis1 import ENDINGS, oasis_facts, session_folders
from atlas.sources.scan import NO_ORIENTATION, Notes, Scan, find_mask, note
from atlas.sources.tables import by_id, need_table, read_table
from atlas.volume import has_orientation

SESSION = re.compile(r"(OAS2_\d{4})_(MR\d)")
IMAGE = re.compile(r"(mpr-\d)(\.nifti)?" + "(" + "|".join(map(re.escape, ENDINGS)) + ")")
HEADINGS = {
    "id": ("MRI ID",),
    "group": ("Group",),
    "sex": ("M/F", "Sex", "Gender"),
    "handedness": ("Hand",),
    "age": ("Age",),
    "cdr": ("CDR",),
    "nwbv": ("nWBV",),
}


def oasis2_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of OASIS-2, one a visit; all visits of a person have the same subject."""
    name = "oasis_longitudinal"
    path = need_table(folder, f"{name}.csv", (f"{name}.csv", f"{name}*.csv", f"{name}*.xls*"))
    table = by_id(read_table(path, HEADINGS, need=("id", "group", "sex", "age")))
    scans: list[Scan] = []
    left_out: Notes = []
    seen: set[str] = set()
    for place, subject, session in session_folders(folder, SESSION):
        if place.name in seen:
            left_out.append(note(subject, place, "the same session is in another folder, which is used"))
            continue
        image, mask, reason = _image(place, masks)
        if reason:
            left_out.append(note(subject, place, reason))
            continue
        seen.add(place.name)
        row = table.get(place.name, {})
        known, doubts = oasis_facts(row)
        if not row:
            doubts.append("the table has no row for this session")
        standing = row.get("group", "")
        if standing.lower() == "nondemented":
            known["health"] = "healthy"
        left_out += [note(subject, image, doubt, kept=True) for doubt in doubts]
        scans.append(Scan("oasis2", subject, session, "T1", image, known, mask, standing=standing))
    return scans, left_out


def _image(place: Path, masks: Path | None) -> tuple[Path, Path | None, str]:
    """The repeat of a visit that is used and its mask; without one the reason."""
    images = sorted(path for path in place.glob("RAW/mpr-*") if IMAGE.fullmatch(path.name))
    reason = "no image RAW/mpr-1.nifti.img is in it"
    for image in images:
        if not has_orientation(image):
            reason = NO_ORIENTATION
            continue
        mask, missing = find_mask(f"{place.name}_{image.name.split('.')[0]}", masks)
        if not missing:
            return image, mask, ""
        reason = missing
    return place, None, reason
