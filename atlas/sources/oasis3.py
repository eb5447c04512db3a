"""OASIS-3 (LaMontagne et al. 2019): sessions named by the days since the person entered the study.

As XNAT and the project's download scripts lay it out, or as BIDS:
  OAS30001_MR_d0129/anat1/[NIFTI/]sub-OAS30001_ses-d0129_run-01_T1w.nii.gz   (the .json beside it or in BIDS/)
  sub-OAS30001/ses-d0129/anat/sub-OAS30001_[ses-d0129_]T1w.nii.gz
Tables, anywhere in the folder: OASIS3_UDSb4_cdr.csv (OASISID, days_to_visit, CDRTOT) and
OASIS3_demographics.csv (OASISID, AgeatEntry, GENDER 1 or 2, HAND), or the older ADRC clinical data
(ADRC_ADRCCLINICALDATA ID, Subject, ageAtEntry, cdr) and subjects (Subject, M/F, Hand).
Age is that at entry plus the days; health is the CDR of the nearest visit, see NEAR_DAYS. Of the images of
one contrast in a session the first is used, those with an acq- label (acq-TSE) last. Only anat folders are
looked into. Masks are called sub-OAS30001_ses-d0129_T1w_*.nii.gz, whatever the run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atlas.errors import SourceError
from atlas.sources.bids import SUFFIXES
from atlas.sources.scan import NO_ORIENTATION, Notes, Scan, field_strength, find_mask, note, stem
from atlas.sources.tables import by_id, find_table, number, person_facts, read_table
from atlas.volume import has_orientation

NEAR_DAYS = 365  # the project's own scripts call a visit within a year before or after a common criterion
PLACE = re.compile(r"(?:sub-)?(OAS3\d{4})(?:_MR_|.*?/sess?-)(d\d{4,5})")
CLINICAL = ("OASIS3_UDSb4_cdr.csv", "*UDSb4*.csv", "*ADRC*linical*ata*.csv", "*linical*ata*.csv")
PEOPLE = ("OASIS3_demographics.csv", "*demographics*.csv", "*ubjects*.csv")
CLINICAL_HEADINGS = {
    "id": ("OASISID", "Subject"),
    "label": ("ADRC_ADRCCLINICALDATA ID", "OASIS_session_label"),
    "day": ("days_to_visit",),
    "cdr": ("CDRTOT", "cdr"),
    "entry": ("ageAtEntry",),
    "age": ("age at visit",),
}
PEOPLE_HEADINGS = {
    "id": ("OASISID", "Subject"),
    "entry": ("AgeatEntry",),
    "sex": ("GENDER", "M/F", "Sex"),
    "handedness": ("HAND",),
}
CODES = {"sex": {"1": "m", "1.0": "m", "2": "f", "2.0": "f"}, "handedness": {"B": "a", "b": "a"}}


def oasis3_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of OASIS-3, one a contrast and session."""
    visits, people = _visits(folder), _people(folder)
    scans: list[Scan] = []
    left_out: Notes = []
    seen: set[tuple[str, str, str]] = set()
    paths = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.nii*")]
    for place, path in sorted(paths, key=lambda found: ("_acq-" in found[0], found)):
        if "/anat" not in f"/{place}":
            continue
        match = PLACE.search(place)
        suffix = stem(path).split("_")[-1]
        if match is None or suffix not in SUFFIXES:
            reason = f"{suffix} is not one of {', '.join(SUFFIXES)}"
            if match is None:
                reason = "neither below OAS30001_MR_d0129 nor below sub-OAS30001/ses-d0129"
            left_out.append(note(match[1] if match else "", path, reason))
            continue
        subject, session = match[1], match[2]
        mask, reason = find_mask(f"sub-{subject}_ses-{session}_{suffix}", masks)
        if (subject, session, suffix) in seen:
            reason = f"a further {suffix} of the same session; the first is used"
        elif not has_orientation(path):
            reason = NO_ORIENTATION
        if reason:
            left_out.append(note(subject, path, reason))
            continue
        seen.add((subject, session, suffix))
        standing, known, doubts = _facts(people.get(subject), visits.get(subject, []), int(session[1:]))
        name = f"{stem(path)}.json"
        known |= field_strength(path.with_name(name), path.parent.parent / "BIDS" / name)
        left_out += [note(subject, path, doubt, kept=True) for doubt in doubts]
        scans.append(Scan("oasis3", subject, session, SUFFIXES[suffix], path, known, mask, standing=standing))
    return scans, left_out


def _visits(folder: Path) -> dict[str, list[dict[str, float]]]:
    """subject -> its clinical visits by day: day, cdr where rated, entry (age at entry) where known."""
    path = find_table(folder, CLINICAL, deep=True)
    if path is None:
        raise SourceError(f"{folder}: no table of CDR ({CLINICAL[0]}) is there; put it there")
    found: dict[str, list[dict[str, float]]] = {}
    for row in read_table(path, CLINICAL_HEADINGS, need=("id", "cdr")):
        label = re.search(r"_d(\d+)$", row["label"])
        day = number(row["day"] or (label[1] if label else ""))
        if not row["id"] or day is None:
            continue
        visit = {"day": day}
        cdr, entry, age = number(row["cdr"]), number(row["entry"]), number(row["age"])
        if cdr is not None:
            visit["cdr"] = cdr
        if entry is not None or age is not None:
            visit["entry"] = entry if entry is not None else (age or 0.0) - day / 365.25
        found.setdefault(row["id"], []).append(visit)
    return {subject: sorted(rows, key=lambda visit: visit["day"]) for subject, rows in found.items()}


def _people(folder: Path) -> dict[str, dict[str, str]]:
    """subject -> its row of the demographics, codes replaced by words; empty where there is no such table."""
    path = find_table(folder, PEOPLE, deep=True)
    if path is None:
        return {}
    people = by_id(read_table(path, PEOPLE_HEADINGS, need=("id",)))
    return {
        subject: row | {column: codes.get(row[column], row[column]) for column, codes in CODES.items()}
        for subject, row in people.items()
    }


def _facts(
    person: dict[str, str] | None, visits: list[dict[str, float]], day: int
) -> tuple[str, dict[str, Any], list[str]]:
    """Standing, what is known of the person on a day, and what was not understood."""
    facts, doubts = person_facts({name: (person or {}).get(name, "") for name in ("sex", "handedness")})
    if person is None:
        doubts.append("the demographics have no row for this person")
    entry = number((person or {}).get("entry"))
    if entry is None:
        entry = next((visit["entry"] for visit in visits if "entry" in visit), None)
    if entry is None:
        doubts.append("the tables give no age at entry")
    else:
        aged, doubt = person_facts({"age": f"{entry + day / 365.25:.2f}"})
        facts |= aged
        doubts += doubt
    facts["site"] = "Washington University"
    near = [visit for visit in visits if "cdr" in visit and abs(visit["day"] - day) <= NEAR_DAYS]
    if not near:
        doubts.append(f"no CDR was rated within {NEAR_DAYS} days of the scan")
        return "", facts, doubts
    facts["cdr"] = min(near, key=lambda visit: (abs(visit["day"] - day), -visit["cdr"]))["cdr"]
    if facts["cdr"] == 0:
        facts["health"] = "healthy"
    return f"{facts['cdr']:g}", facts, doubts
