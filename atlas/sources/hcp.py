"""HCP Young Adult, release S1200 (Van Essen et al. 2013): T1 and T2 of adults of 22 to 37 years, 3 T, 0.7 mm.

100307/T1w/T1w_acpc_dc_restore_brain.nii.gz and T2w_acpc_dc_restore_brain.nii.gz: bias-corrected, stripped,
rigidly aligned. Their copies in 100307/MNINonLinear are warped to the template, so that the person's shape is
lost in them; they are left out. Tables: unrestricted_*.csv (Subject, Gender, Age as a range such as 26-30 or
36+); when the restricted table (RESTRICTED_*.csv) lies there too, only its Family_ID is used, to keep
relatives in one split: without it twins and siblings may be apart. A range is no age, so captions state none,
nor sizes for an age. A file whose header does not say the orientation is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atlas.sources.scan import NO_ORIENTATION, Notes, Scan, find_mask, note, stem
from atlas.sources.tables import by_id, find_table, need_table, person_facts, read_table
from atlas.volume import has_orientation

SUBJECT = re.compile(r"\d{6}")
IMAGES = {"T1": "T1w_acpc_dc_restore_brain.nii.gz", "T2": "T2w_acpc_dc_restore_brain.nii.gz"}
WARPED = {"T1": "T1w_restore_brain.nii.gz", "T2": "T2w_restore_brain.nii.gz"}
HEADINGS = {"id": ("Subject",), "sex": ("Gender",), "age": ("Age",)}
RANGE = re.compile(r"\d\d-\d\d|\d\d\+")


def hcp_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of HCP Young Adult: T1 and T2 of every person's T1w folder."""
    patterns = ("unrestricted*.csv", "*nrestricted*.csv", "*S1200*.csv")
    path = need_table(folder, "unrestricted_*.csv", patterns)
    table = by_id(read_table(path, HEADINGS, need=tuple(HEADINGS)))
    families = _families(folder)
    scans: list[Scan] = []
    left_out: Notes = []
    for place in sorted(
        place for place in folder.iterdir() if SUBJECT.fullmatch(place.name) and place.is_dir()
    ):
        known, doubts = _facts(table.get(place.name))
        left_out += [note(place.name, place, doubt, kept=True) for doubt in doubts]
        found = 0
        for modality, name in IMAGES.items():
            image, warped = place / "T1w" / name, place / "MNINonLinear" / WARPED[modality]
            mask, _ = find_mask(f"{place.name}_{stem(image)}", masks)  # needs none, it is stripped
            if not image.is_file():
                if warped.is_file():
                    reason = f"warped to the MNI template, the person's shape is lost; get T1w/{name}"
                    left_out.append(note(place.name, warped, reason))
                continue
            found += 1
            if not has_orientation(image):
                left_out.append(note(place.name, image, NO_ORIENTATION))
                continue
            family = families.get(place.name, "")
            scans.append(Scan("hcp", place.name, "", modality, image, dict(known), mask, family=family))
        if not found:
            left_out.append(note(place.name, place, f"neither T1w/{IMAGES['T1']} nor its T2w is there"))
    return scans, left_out


def _facts(row: dict[str, str] | None) -> tuple[dict[str, Any], list[str]]:
    """What is known of a person, and what was not understood."""
    person = dict(row or {})
    age = person.pop("age", "")
    facts, doubts = person_facts(person)
    facts |= {"health": "healthy", "site": "Washington University", "field_strength": 3.0}
    if row is None:
        doubts.append("the table has no row for this person, so age and sex are unknown")
    elif RANGE.fullmatch(age):
        facts["age_range"] = age
        doubts.append(f"age known only as the range {age}, so captions state none")
    else:
        doubts.append(f"age {age!r} dropped: not a range such as 26-30 or 36+")
    return facts, doubts


def _families(folder: Path) -> dict[str, str]:
    """subject -> family, from the restricted table where it is there."""
    path = find_table(folder, ("RESTRICTED*.csv",))
    if path is None:
        return {}
    rows = read_table(path, {"id": ("Subject",), "family": ("Family_ID",)}, need=("id", "family"))
    return {row["id"]: row["family"] for row in rows}
