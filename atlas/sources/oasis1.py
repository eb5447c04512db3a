"""OASIS-1 (Marcus et al. 2007): one visit of 416 people of 18 to 96 years, 20 of them scanned twice.

disc1/OAS1_0001_MR1/
  PROCESSED/MPRAGE/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc.img   brain in Talairach space, 1 mm
  PROCESSED/MPRAGE/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_gfc.img          the same with the skull
  PROCESSED/MPRAGE/SUBJ_111/OAS1_0001_MR1_mpr_n4_anon_sbj_111.img             mean of the repeats, whole head
  RAW/OAS1_0001_MR1_mpr-1_anon.img                                            one repeat, whole head

16-bit big-endian Analyze, which does not say which side is left: T88 runs to left, anterior, superior (LAS),
the others to anterior, superior, left (ASL). One image a session is used: t88_masked_gfc, the mean of all
repeats, bias-corrected and stripped, or the first of SUBJ_111, T88 and RAW that has a mask among the masks
given. T88 heads are resized to the atlas by the table's ASF, so that 1 native mm3 has become ASF mm3.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atlas.sources.scan import Notes, Scan, find_mask, note, stem
from atlas.sources.tables import by_id, need_table, number, person_facts, read_table, with_point
from atlas.volume import has_orientation

SESSION = re.compile(r"(OAS1_\d{4})_(MR\d)")
IMAGES = {  # best first -> orientation
    "PROCESSED/MPRAGE/T88_111/{}_*_t88_masked_gfc": "LAS",
    "PROCESSED/MPRAGE/SUBJ_111/{}_*_sbj_111": "ASL",
    "PROCESSED/MPRAGE/T88_111/{}_*_t88_gfc": "LAS",
    "RAW/{}_mpr-*_anon": "ASL",
}
ENDINGS = (".img", ".img.gz", ".nii", ".nii.gz")
HEADINGS = {
    "id": ("ID", "MRI ID"),
    "sex": ("M/F", "Sex", "Gender"),
    "handedness": ("Hand",),
    "age": ("Age",),
    "cdr": ("CDR",),
    "nwbv": ("nWBV",),
    "asf": ("ASF",),
}
YOUNG = 60.0  # years; below, OASIS-1 did not rate CDR
NWBV, ASF = (0.5, 1.0), (0.8, 1.7)  # what the tables hold: 0.644 to 0.893, 0.881 to 1.563
VISION = {"site": "Washington University", "field_strength": 1.5}  # the scanner of OASIS-1 and OASIS-2


def oasis1_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of OASIS-1, one a session."""
    name = "oasis_cross-sectional"  # ...-reliability.csv is another table, hence [!y]
    path = need_table(folder, f"{name}.csv", (f"{name}.csv", f"{name}*[!y].csv", f"{name}*.xls*"))
    table = by_id(read_table(path, HEADINGS, need=("id", "sex", "age", "cdr")))
    scans: list[Scan] = []
    left_out: Notes = []
    seen: set[str] = set()
    for place, subject, session in session_folders(folder, SESSION):
        if place.name in seen:
            left_out.append(note(subject, place, "the same session is in another folder, which is used"))
            continue
        seen.add(place.name)
        image, orientation, mask, reason = _image(place, masks)
        if reason:
            left_out.append(note(subject, place, reason))
            continue
        row = table.get(place.name, {})
        known, doubts = oasis_facts(row)
        standing = row.get("cdr", "")
        if not row:
            doubts.append("the table has no row for this session")
        if number(standing) == 0 or (row and not standing and known.get("age", YOUNG) < YOUNG):
            known["health"] = "healthy"
        scale = 1.0
        if "T88_111" in image.parts:
            asf = with_point(row.get("asf", ""), *ASF)
            scale = asf or 1.0
            if asf is None:
                doubts.append("the table gives no usable ASF, so volumes are those of the resized head")
        left_out += [note(subject, image, doubt, kept=True) for doubt in doubts]
        scans.append(
            Scan(
                "oasis1",
                subject,
                session,
                "T1",
                image,
                known,
                mask,
                orientation=orientation,
                scale=scale,
                standing=standing,
            )
        )
    return scans, left_out


def session_folders(folder: Path, name: re.Pattern[str]) -> list[tuple[Path, str, str]]:
    """(folder, subject, session) of every session folder down to three levels below, in order of name."""
    found = []
    for depth in ("*", "*/*", "*/*/*"):
        for place in folder.glob(depth):
            match = name.fullmatch(place.name)
            if match and place.is_dir():
                found.append((place, match[1], match[2]))
    return sorted(found, key=lambda row: (row[0].name, str(row[0])))


def oasis_facts(row: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """What a row of OASIS-1 or OASIS-2 says of the person, and what in it was not understood."""
    facts, doubts = person_facts(row)
    facts |= VISION
    cdr = number(row.get("cdr"))
    if cdr is not None:
        facts["cdr"] = cdr
    said = row.get("nwbv", "")
    nwbv = with_point(said, *NWBV)
    if nwbv is not None:
        facts["nwbv"] = nwbv
    elif said:
        doubts.append(f"nWBV {said!r} dropped: not a share of the head between {NWBV[0]} and {NWBV[1]}")
    return facts, doubts


def _image(place: Path, masks: Path | None) -> tuple[Path, str, Path | None, str]:
    """The image of a session that is used, its orientation ("": in its header), its mask; else the reason."""
    images = [
        (path, orientation)
        for pattern, orientation in IMAGES.items()
        for path in sorted(place.glob(pattern.format(place.name) + ".*"))
        if path.name.removeprefix(stem(path)) in ENDINGS
    ]
    if not images:
        reason = "no image of T88_111, SUBJ_111 or RAW, named as OASIS-1 names them, is in it"
        return place, "", None, reason
    found = [find_mask(stem(image), masks) for image, _ in images]
    best = next((k for k, (mask, _) in enumerate(found) if mask is not None), 0)
    (image, orientation), (mask, reason) = images[best], found[best]
    if "_t88_masked_gfc" in image.name:
        reason = ""  # stripped, so that it needs no mask
    return image, "" if has_orientation(image) else orientation, mask, reason
