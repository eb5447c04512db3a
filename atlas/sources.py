"""Data sets as lists of scans: each adapter knows how one data set is laid out and what its table says.

Nothing is dropped silently: the second list names every file or fact left out, with the reason.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlas.errors import SourceError
from atlas.slices import MODALITIES

TEMPLATE_ANATOMY = "icbm152"  # the simulator's name for it in participants.tsv
OLDEST = 120.0  # years; beyond it, and at 0 or below, an age is a typing error


@dataclass(frozen=True)
class Scan:
    """One volume on disk and what is known of the person.

    known: any of age (years), sex ("female", "male"), handedness, site, field_strength (tesla), health.
    mask: an image whose voxels above 0 are brain. labels: true region ids on its grid (simulated only).
    family: subjects of one family stay in one split (simulated from one person's anatomy); empty: none.
    """

    source: str
    subject: str
    session: str
    modality: str
    path: Path
    known: dict[str, Any] = field(default_factory=dict)
    mask: Path | None = None
    labels: Path | None = None
    family: str = ""


def find_scans(
    source: str, folder: Path, *, masks: Path | None = None
) -> tuple[list[Scan], list[dict[str, Any]]]:
    """The scans of a data set, sorted, and what was left out: {subject, path, reason, kept}.

    kept is true when the scan itself stays and only a fact about it was dropped. masks: a folder of label
    maps `<name of the scan>_*.nii.gz`, brain where above 0. Raises SourceError for an unknown source, a
    folder or table that is missing or laid out differently, and when there is no scan at all.
    """
    folder = Path(folder)
    if source not in SOURCES:
        raise SourceError(f"unknown source {source!r}; possible: {', '.join(SOURCES)}")
    for place in (folder, masks):
        if place is not None and not Path(place).is_dir():
            raise SourceError(f"{place}: no such folder; give the folder that holds the data set")
    scans, left_out = SOURCES[source](folder, None if masks is None else Path(masks))
    if not scans:
        reason = f" (first of {len(left_out)} left out: {left_out[0]['reason']})" if left_out else ""
        raise SourceError(f"{folder}: no scan laid out as {source!r} distributes them{reason}")
    return sorted(scans, key=lambda scan: (scan.subject, scan.session, scan.modality)), left_out


IXI_NAME = re.compile(r"IXI(\d+)-([A-Za-z]+)-(\d+)-([A-Za-z0-9]+)\.nii(\.gz)?")
IXI_SITES = {
    "Guys": ("Guy's Hospital", 1.5),
    "HH": ("Hammersmith Hospital", 3.0),
    "IOP": ("Institute of Psychiatry", 1.5),
}
IXI_COLUMNS = ("IXI_ID", "SEX_ID (1=m, 2=f)", "AGE")


def ixi_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], list[dict[str, Any]]]:
    """The scans of IXI (brain-development.org): IXI012-HH-1211-T1.nii.gz, IXI.xls or .csv there or above."""
    table = _ixi_table(folder)
    scans, left_out = [], []
    for path in sorted(path for path in folder.rglob("*.nii*") if path.is_file()):
        match = IXI_NAME.fullmatch(path.name)
        if match is None:
            left_out.append(_note("", path, "not named as IXI names its scans (IXI012-HH-1211-T1.nii.gz)"))
            continue
        number, site, session, modality = match.group(1, 2, 3, 4)
        subject = f"IXI{number}"
        if modality not in MODALITIES:
            left_out.append(
                _note(subject, path, f"contrast {modality} is not one of {', '.join(MODALITIES)}")
            )
            continue
        if site not in IXI_SITES:
            left_out.append(_note(subject, path, f"unknown site {site}; IXI has {', '.join(IXI_SITES)}"))
            continue
        known: dict[str, Any] = {"health": "healthy"}  # IXI scanned healthy volunteers
        known["site"], known["field_strength"] = IXI_SITES[site]
        facts, doubts = table.get(int(number), ({}, ["the table has no row for this id"]))
        known.update(facts)
        left_out += [_note(subject, path, doubt, kept=True) for doubt in doubts]
        mask, reason = _mask(path, masks)
        if reason:
            left_out.append(_note(subject, path, reason))
            continue
        scans.append(Scan("ixi", subject, session, modality, path, known, mask))
    return scans, left_out


def _ixi_table(folder: Path) -> dict[int, tuple[dict[str, Any], list[str]]]:
    """IXI id -> (age and sex as far as the rows agree, what was dropped and why)."""
    places = [place / name for place in (folder, folder.parent) for name in ("IXI.xls", "IXI.csv")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SourceError(
            f"{folder}: neither IXI.xls nor IXI.csv is there or in the folder above; put one there"
        )
    rows = _xls_rows(path) if path.suffix == ".xls" else _text_rows(path, ",")
    _need_columns(path, rows, IXI_COLUMNS)
    found: dict[int, list[tuple[float | None, str | None]]] = {}
    for row in rows:
        number, sex_id, age = (_number(row[column]) for column in IXI_COLUMNS)
        if number is None:
            continue
        sex = {1.0: "male", 2.0: "female"}.get(sex_id) if sex_id is not None else None
        found.setdefault(int(number), []).append((age if age and 0 < age <= OLDEST else None, sex))
    table = {}
    for number, people in found.items():
        facts: dict[str, Any] = {}
        doubts = []
        ages = sorted({age for age, _ in people if age is not None})
        sexes = sorted({sex for _, sex in people if sex is not None})
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
        table[int(number)] = (facts, doubts)
    return table


BIDS_SUFFIXES = {"T1w": "T1", "T2w": "T2", "PDw": "PD", "FLAIR": "FLAIR"}
SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
HANDS = {"l": "left", "left": "left", "r": "right", "right": "right", "a": "both", "ambidextrous": "both"}


def bids_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], list[dict[str, Any]]]:
    """The scans of a BIDS folder: participants.tsv, sub-*/[ses-*/]anat/*_{T1w,T2w,PDw,FLAIR}.nii.gz."""
    return _bids(folder, masks, source="bids")


def simulated_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], list[dict[str, Any]]]:
    """The scans of a simulated cohort: BIDS, with the true labels of every subject as *_dseg.nii.gz."""
    return _bids(folder, masks, source="simulated")


def _bids(folder: Path, masks: Path | None, *, source: str) -> tuple[list[Scan], list[dict[str, Any]]]:
    table = folder / "participants.tsv"
    if not table.is_file():
        raise SourceError(
            f"{table}: missing; a BIDS folder lists its people there (participant_id, age, sex)"
        )
    rows = _text_rows(table, "\t")
    _need_columns(table, rows, ("participant_id",))
    people = {row["participant_id"]: row for row in rows}
    scans: list[Scan] = []
    left_out: list[dict[str, Any]] = []
    subjects = sorted(path for path in folder.glob("sub-*") if path.is_dir())
    for name in sorted(set(people) - {path.name for path in subjects}):
        left_out.append(_note(name, folder / name, "listed in participants.tsv, but there is no such folder"))
    for subject in subjects:
        facts, doubts = _bids_facts(people.get(subject.name))
        if source == "simulated":
            facts["health"] = "healthy"
        left_out += [_note(subject.name, subject, doubt, kept=True) for doubt in doubts]
        family = (people.get(subject.name) or {}).get("anatomy") or ""
        family = (
            "" if family == TEMPLATE_ANATOMY else family
        )  # else a cohort of the template alone had one split
        seen: set[tuple[str, str]] = set()
        for path in sorted([*subject.glob("anat/*.nii*"), *subject.glob("ses-*/anat/*.nii*")]):
            suffix = path.name.split(".")[0].split("_")[-1]
            modality = BIDS_SUFFIXES.get(suffix)
            if modality is None:
                if suffix not in ("dseg", "mask"):
                    left_out.append(
                        _note(subject.name, path, f"{suffix} is not one of {', '.join(BIDS_SUFFIXES)}")
                    )
                continue
            session = path.parent.parent.name if path.parent.parent != subject else ""
            if (session, modality) in seen:
                left_out.append(
                    _note(subject.name, path, f"a further {suffix} of the same session; the first is used")
                )
                continue
            mask, reason = _mask(path, masks)
            labels = None
            if source == "simulated":
                labels = path.with_name(
                    "_".join([subject.name, *([session] if session else []), "dseg.nii.gz"])
                )
                if not labels.is_file():
                    reason = f"the true labels {labels.name} are missing beside it"
            if reason:
                left_out.append(_note(subject.name, path, reason))
                continue
            seen.add((session, modality))
            known = facts | _field_strength(path)
            scans.append(Scan(source, subject.name, session, modality, path, known, mask, labels, family))
        if not seen:
            left_out.append(
                _note(subject.name, subject, f"no scan among {', '.join(BIDS_SUFFIXES)} that can be used")
            )
    return scans, left_out


def _bids_facts(row: dict[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """What a row of participants.tsv says, in our words, and what in it was not understood."""
    if row is None:
        return {}, ["not listed in participants.tsv, so age and sex are unknown"]
    facts: dict[str, Any] = {}
    doubts = []
    given = {key.lower(): (value or "").strip() for key, value in row.items() if key}
    given = {key: value for key, value in given.items() if value.lower() not in ("", "n/a", "na", "nan")}
    if "age" in given:
        age = _number(given["age"])
        if age is not None and 0 < age <= OLDEST:
            facts["age"] = age
        else:
            doubts.append(f"age {given['age']!r} dropped: not a number of years above 0 and up to {OLDEST:g}")
    for column, words in (("sex", SEXES), ("handedness", HANDS)):
        if column in given:
            if given[column].lower() in words:
                facts[column] = words[given[column].lower()]
            else:
                doubts.append(f"{column} {given[column]!r} dropped: known are {', '.join(words)}")
    if "site" in given:
        facts["site"] = given["site"]
    return facts, doubts


def _field_strength(path: Path) -> dict[str, float]:
    """{"field_strength": tesla} from the JSON sidecar of a BIDS image, or nothing."""
    sidecar = path.with_name(path.name.split(".")[0] + ".json")
    if not sidecar.is_file():
        return {}
    try:
        value = json.loads(sidecar.read_text(encoding="utf-8")).get("MagneticFieldStrength")
    except (ValueError, AttributeError) as error:
        raise SourceError(f"{sidecar}: not a JSON object ({error}); repair or remove it") from error
    return {"field_strength": float(value)} if isinstance(value, int | float) else {}


Adapter = Callable[[Path, Path | None], tuple[list[Scan], list[dict[str, Any]]]]
SOURCES: dict[str, Adapter] = {"ixi": ixi_scans, "bids": bids_scans, "simulated": simulated_scans}


def _mask(path: Path, masks: Path | None) -> tuple[Path | None, str]:
    """The mask of a scan and, when a folder of masks was given and there is not exactly one, the reason."""
    if masks is None:
        return None, ""
    stem = path.name.split(".")[0]
    found = sorted([*masks.glob(f"{stem}_*.nii*"), *masks.glob(f"{stem}.nii*")])
    if len(found) == 1:
        return found[0], ""
    return None, f"{len(found)} masks named {stem}_*.nii.gz in {masks.name}; one is needed"


def _note(subject: str, path: Path, reason: str, *, kept: bool = False) -> dict[str, Any]:
    return {"subject": subject, "path": str(path), "reason": reason, "kept": kept}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number else None  # not NaN


def _need_columns(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    if not rows:
        raise SourceError(f"{path}: the table has no rows; use the table that the data set distributes")
    missing = [column for column in columns if column not in rows[0]]
    if missing:
        raise SourceError(
            f"{path}: column {missing[0]!r} is missing; the table has {', '.join(map(str, rows[0]))}"
        )


def _text_rows(path: Path, delimiter: str) -> list[dict[str, Any]]:
    try:
        with path.open(
            encoding="utf-8-sig", newline=""
        ) as file:  # -sig: some tables begin with a byte-order mark
            return list(csv.DictReader(file, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{path}: not a text table ({error}); use the table that the data set distributes"
        ) from error


def _xls_rows(path: Path) -> list[dict[str, Any]]:
    import xlrd

    try:
        sheet = xlrd.open_workbook(path).sheet_by_index(0)
    except Exception as error:  # xlrd raises a dozen kinds for damaged files
        raise SourceError(
            f"{path}: not an Excel 97 table ({error}); download it again or save it as .csv"
        ) from error
    if sheet.nrows == 0:
        return []
    names = [str(name).strip() for name in sheet.row_values(0)]
    return [dict(zip(names, sheet.row_values(i), strict=True)) for i in range(1, sheet.nrows)]
