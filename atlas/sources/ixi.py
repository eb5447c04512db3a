"""IXI (brain-development.org): T1, T2 and PD of healthy volunteers from three London hospitals.

A file whose header does not say the orientation is left out, for nothing else says which side is left. Two of
one sex and date of birth who were scanned on one day are twins: a family, which stays in one split.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atlas.errors import SourceError
from atlas.slices import MODALITIES
from atlas.sources.scan import NO_ORIENTATION, Notes, Scan, find_mask, note, stem
from atlas.sources.tables import OLDEST, number, read_table
from atlas.volume import has_orientation

NAME = re.compile(r"IXI(\d+)-([A-Za-z]+)-(\d+)-([A-Za-z0-9]+)\.nii(\.gz)?")
SITES = {
    "Guys": ("Guy's Hospital", 1.5),
    "HH": ("Hammersmith Hospital", 3.0),
    "IOP": ("Institute of Psychiatry", 1.5),
}
HEADINGS = {"id": ("IXI_ID",), "sex": ("SEX_ID (1=m, 2=f)",), "age": ("AGE",)}
DATES = {"born": ("DOB",), "scanned": ("STUDY_DATE",)}  # not in every copy


def ixi_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of IXI: IXI012-HH-1211-T1.nii.gz, IXI.xls or .csv there or above."""
    rows = _rows(folder)
    table, twins = _people(rows), _twins(rows)
    scans: list[Scan] = []
    left_out: Notes = []
    for path in sorted(path for path in folder.rglob("*.nii*") if not path.is_dir()):
        match = NAME.fullmatch(path.name)
        if match is None:
            left_out.append(note("", path, "not named as IXI names its scans (IXI012-HH-1211-T1.nii.gz)"))
            continue
        digits, site, session, modality = match.group(1, 2, 3, 4)
        subject = f"IXI{digits}"
        if modality not in MODALITIES:
            reason = f"contrast {modality} is not one of {', '.join(MODALITIES)}"
            left_out.append(note(subject, path, reason))
            continue
        if site not in SITES:
            left_out.append(note(subject, path, f"unknown site {site}; IXI has {', '.join(SITES)}"))
            continue
        known: dict[str, Any] = {"health": "healthy"}
        known["site"], known["field_strength"] = SITES[site]
        facts, doubts = table.get(int(digits), ({}, ["the table has no row for this id"]))
        known.update(facts)
        left_out += [note(subject, path, doubt, kept=True) for doubt in doubts]
        mask, reason = find_mask(stem(path), masks)
        if not has_orientation(path):
            reason = NO_ORIENTATION
        if reason:
            left_out.append(note(subject, path, reason))
            continue
        family = twins.get(int(digits), "")
        scans.append(Scan("ixi", subject, session, modality, path, known, mask, family=family))
    return scans, left_out


def _rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the table with an id."""
    places = [place / name for place in (folder, folder.parent) for name in ("IXI.xls", "IXI.csv")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SourceError(
            f"{folder}: neither IXI.xls nor IXI.csv is there or in the folder above; put one there"
        )
    rows = read_table(path, HEADINGS | DATES, need=tuple(HEADINGS))
    return [row for row in rows if number(row["id"]) is not None]


def _twins(rows: list[dict[str, str]]) -> dict[int, str]:
    """IXI id -> family, of those who share sex, date of birth and day of the scan with another id."""
    alike: dict[tuple[str, ...], set[int]] = {}
    for row in rows:
        if row["born"] and row["scanned"] and row["sex"]:
            key = (row["born"], row["scanned"], row["sex"])
            alike.setdefault(key, set()).add(int(number(row["id"]) or 0))
    return {ixi_id: f"IXI{min(ids):03d} and twin" for ids in alike.values() if len(ids) > 1 for ixi_id in ids}


def _people(rows: list[dict[str, str]]) -> dict[int, tuple[dict[str, Any], list[str]]]:
    """IXI id -> (age and sex as far as the rows agree, what was dropped and why)."""
    found: dict[int, list[tuple[float | None, str | None]]] = {}
    for row in rows:
        sex_id, age = number(row["sex"]), number(row["age"])
        sex = {1.0: "male", 2.0: "female"}.get(sex_id) if sex_id is not None else None
        one = (age if age and 0 < age <= OLDEST else None, sex)
        found.setdefault(int(number(row["id"]) or 0), []).append(one)
    return {ixi_id: _agreed(rows) for ixi_id, rows in found.items()}


def _agreed(rows: list[tuple[float | None, str | None]]) -> tuple[dict[str, Any], list[str]]:
    """The age and sex on which all rows of one id agree, and what was dropped; two people share some ids."""
    facts: dict[str, Any] = {}
    doubts = []
    ages = sorted({age for age, _ in rows if age is not None})
    sexes = sorted({sex for _, sex in rows if sex is not None})
    if not ages:
        doubts.append("the table gives no age")
    elif ages[-1] - ages[0] > 0.01:  # two rows of one person that differ by more than rounding
        doubts.append(f"age dropped: rows with the same id give {ages[0]:.1f} and {ages[-1]:.1f} years")
    else:
        facts["age"] = ages[0]
    if len(sexes) == 1:
        facts["sex"] = sexes[0]
    else:
        doubts.append("sex dropped: rows with the same id differ" if sexes else "the table gives no sex")
    return facts, doubts
