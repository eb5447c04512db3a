"""BIDS (bids.neuroimaging.io), and the simulated cohort, which is BIDS with true labels.

participants.tsv and its .json (what coded values mean, the unit of age), sub-01_sessions.tsv or a session_id
in participants.tsv (age and health at a visit), sub-*/[ses-*/]anat/*_{T1w,T2w,PDw,FLAIR}.nii.gz. Of several
runs of a session the first is used. A file whose header does not say the orientation is left out, for nothing
else says which side is left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atlas.errors import SourceError
from atlas.sources.health import NO_COLUMN, health_columns, is_healthy, standing_of
from atlas.sources.scan import (
    NO_ORIENTATION,
    Notes,
    Scan,
    field_strength,
    find_mask,
    note,
    read_json,
    stem,
)
from atlas.sources.tables import by_id, cell, headed, need_column, number, person_facts, read_rows
from atlas.volume import has_orientation

SUFFIXES = {"T1w": "T1", "T2w": "T2", "PDw": "PD", "FLAIR": "FLAIR"}
TEMPLATE_ANATOMY = "icbm152"  # the simulator's name for it in participants.tsv
SPACE = re.compile(r"_space-(?!orig|T1w|individual)")
IN_A_YEAR = {"year": 1.0, "month": 12.0, "week": 365.25 / 7, "day": 365.25}


def bids_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of a BIDS folder."""
    return _bids(folder, masks, source="bids")


def simulated_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of a simulated cohort: BIDS, with the true labels of every subject as *_dseg.nii.gz."""
    return _bids(folder, masks, source="simulated")


def _bids(folder: Path, masks: Path | None, *, source: str) -> tuple[list[Scan], Notes]:
    path = folder / "participants.tsv"
    if source == "simulated" and not path.is_file():
        raise SourceError(f"{path}: missing; the simulator writes it last, so run `brainclip simulate` again")
    left_out: Notes = []
    rows: list[dict[str, str]] = []
    if path.is_file():
        rows = _rows(path, "participant_id")
    else:
        reason = "missing, so nobody's age, sex and health are known; everyone stays"
        left_out.append(note("", path, reason, kept=True))
    people = by_id(rows, "participant_id")
    by_visit: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row.get("session_id"):
            row["session_id"] = _prefixed(row["session_id"], "ses-")
            by_visit.setdefault(row["participant_id"], []).append(row)
    columns = [] if source == "simulated" else health_columns(rows)
    if path.is_file() and source == "bids":
        doubts = headed(path, read_rows(path)[0])[1] + ([] if columns else [NO_COLUMN])
        left_out += [note("", path, doubt, kept=True) for doubt in doubts]
    subjects = sorted(path for path in folder.glob("sub-*") if path.is_dir())
    for name in sorted(set(people) - {path.name for path in subjects}):
        left_out.append(note(name, folder / name, "listed in participants.tsv, but there is no such folder"))
    shared = sorted(folder.glob("*.json"))
    scans: list[Scan] = []
    for subject in subjects:
        person = people.get(subject.name)
        if person is None and rows:
            reason = "not listed in participants.tsv, so age and sex are unknown"
            left_out.append(note(subject.name, subject, reason, kept=True))
        visits = by_id(by_visit.get(subject.name, ()), "session_id") | _visits(subject)
        found, notes = _subject(subject, person or {}, visits, columns, masks, source, shared)
        scans += found
        left_out += notes
    return scans, left_out


def _plainest(path: Path) -> tuple[str, int, list[tuple[int, str]]]:
    """Sorts images of a visit: fewest entities in the name first, and run-2 before run-10."""
    parts = re.split(r"(\d+)", path.name)
    return (
        str(path.parent),
        path.name.count("_"),
        [(int(part) if part.isdecimal() else -1, part) for part in parts],
    )


def _subject(
    subject: Path,
    person: dict[str, str],
    visits: dict[str, dict[str, str]],
    columns: list[str],
    masks: Path | None,
    source: str,
    shared: Sequence[Path],
) -> tuple[list[Scan], Notes]:
    """The scans of one sub-* folder and what of it was left out.

    person, visits: rows of the tables, of the person and by session. shared: the data set's own JSON files.
    """
    left_out: Notes = []
    family = person.get("anatomy", "")
    if family == TEMPLATE_ANATOMY:
        family = ""  # else a cohort of the template alone had one split
    scans: list[Scan] = []
    seen: set[tuple[str, str]] = set()
    for path in sorted([*subject.glob("anat/*.nii*"), *subject.glob("ses-*/anat/*.nii*")], key=_plainest):
        suffix = stem(path).split("_")[-1]
        modality = SUFFIXES.get(suffix)
        if modality is None:
            if suffix not in ("dseg", "mask"):
                reason = f"{suffix} is not one of {', '.join(SUFFIXES)}"
                left_out.append(note(subject.name, path, reason))
            continue
        if "_ce-" in path.name:
            left_out.append(note(subject.name, path, "made with a contrast agent (ce-)"))
            continue
        session = path.parent.parent.name if path.parent.parent != subject else ""
        if (session, modality) in seen:
            reason = f"a further {suffix} of the same session; the first is used"
            left_out.append(note(subject.name, path, reason))
            continue
        if SPACE.search(path.name):
            left_out.append(note(subject.name, path, "in another space (space-), its shape changed"))
            continue
        mask, reason = find_mask(stem(path), masks, path.parent.relative_to(subject.parent))
        labels = None
        if source == "simulated":
            parts = [subject.name, *([session] if session else []), "dseg.nii.gz"]
            labels = path.with_name("_".join(parts))
            if not labels.is_file():
                reason = f"the true labels {labels.name} are missing beside it"
        if not has_orientation(path):
            reason = NO_ORIENTATION
        if reason:
            left_out.append(note(subject.name, path, reason))
            continue
        seen.add((session, modality))
        visit = {name: value for name, value in visits.get(session, {}).items() if value}
        facts, doubts = person_facts(person | visit)
        for doubt in doubts:
            if (doubted := note(subject.name, subject, doubt, kept=True)) not in left_out:
                left_out.append(doubted)
        known = facts | field_strength(*_sidecars(path, subject, shared))
        about = columns + [name for name in health_columns([visit]) if name not in columns]
        standing, healthy = standing_of(person | visit, about)
        if source == "simulated" or healthy:
            known["health"] = "healthy"
        scans.append(
            Scan(
                source,
                subject.name,
                session,
                modality,
                path,
                known,
                mask,
                labels,
                family,
                standing=standing,
            )
        )
    if not seen:
        reason = f"no scan among {', '.join(SUFFIXES)} that can be used"
        left_out.append(note(subject.name, subject, reason))
    return scans, left_out


def _sidecars(scan: Path, subject: Path, shared: Sequence[Path]) -> list[Path]:
    """The JSON files that apply to a scan, the nearest first: BIDS' inheritance principle.

    A file applies to all scans below it with its suffix and with every entity (acq-x, run-1) that it names;
    of several in one folder the one that names most comes first.
    """
    *entities, suffix = stem(scan).split("_")
    places = [place for place in scan.parents if place.is_relative_to(subject)]
    found: list[Path] = []
    for here in (*(place.glob(f"*{suffix}.json") for place in places), shared):
        named = [(path, stem(path).split("_")) for path in here]
        fitting = [
            (path, parts) for path, parts in named if parts[-1] == suffix and set(parts[:-1]) <= set(entities)
        ]
        found += [path for path, _ in sorted(fitting, key=lambda one: (-len(one[1]), one[0]))]
    return found


def _visits(subject: Path) -> dict[str, dict[str, str]]:
    """session_id -> the row of sub-*_sessions.tsv; empty where there is no such table."""
    path = subject / f"{subject.name}_sessions.tsv"
    return by_id(_rows(path, "session_id"), "session_id") if path.is_file() else {}


def _rows(path: Path, name: str) -> list[dict[str, str]]:
    """The rows with headings in lower case, in the words and the unit that the .json beside it gives them."""
    rows = read_rows(path)
    need_column(path, rows, name)
    prefix = "sub-" if name == "participant_id" else "ses-"
    ours = {heading: column for column, heading in headed(path, rows[0])[0].items()}
    rows = [{ours.get(key, key): value for key, value in row.items()} for row in rows]
    sidecar = path.with_suffix(".json")
    legend = {key.lower(): value for key, value in read_json(sidecar).items()} if sidecar.is_file() else {}
    table = []
    for row in rows:
        cells = {
            key.lower(): _meant(key.lower(), cell(value, key.lower()), legend) for key, value in row.items()
        }
        table.append(cells | {name: _prefixed(cells[name], prefix)})
    return table


def _prefixed(value: str, prefix: str) -> str:
    """ "01" as "sub-01"; nothing stays nothing."""
    return value if not value or value.startswith(prefix) else prefix + value


def _meant(column: str, value: str, legend: dict[str, Any]) -> str:
    """A cell as its legend means it: a code as its level's name, an age in months as years."""
    entry = legend.get(column)
    if not value or not isinstance(entry, dict):
        return value
    levels = entry.get("Levels")
    if isinstance(levels, dict) and value in levels:
        level = levels[value]
        meaning = cell(level.get("Description") if isinstance(level, dict) else level)
        understood = bool(person_facts({column: value})[0]) or is_healthy(value, column)
        return value if understood else meaning or value
    unit = str(entry.get("Units", "year")).lower().rstrip("s")
    age = number(value)
    if column == "age" and age is not None and IN_A_YEAR.get(unit, 1.0) != 1.0:
        return f"{age / IN_A_YEAR[unit]:.2f}"
    return value
