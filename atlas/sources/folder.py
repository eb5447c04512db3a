"""A plain folder of volumes, with a table or without.

Without a table names.py reads the contrast, the person and the visit from a file's name and place:
anna/visit1_T1.nii.gz is the visit1 of anna, anna_T1_defaced.nii.gz and T1/anna.nii.gz are of anna. In
participants.tsv or .csv, or table.tsv or .csv, a row tells more of a person (column subject) or of one file
(column file, relative to the folder): modality, session, age, sex, handedness, site, field_strength,
pathology, diagnosis, dx, health or group, and orientation ("LAS") for files whose header does not say which
side is left, as Analyze never does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from atlas.errors import SourceError
from atlas.sources.health import HEALTH_COLUMNS, NO_COLUMN, health_columns, standing_of
from atlas.sources.names import CONTRASTS, Named, is_visit, read_name, safe
from atlas.sources.scan import Notes, Scan, find_mask, note, stem
from atlas.sources.tables import PERSON_HEADINGS, by_id, headed, number, person_facts, read_rows, read_table
from atlas.volume import SUFFIXES as ENDINGS
from atlas.volume import has_orientation

TABLES = ("participants.tsv", "participants.csv", "table.tsv", "table.csv")
HEADINGS = {
    "file": ("file", "file_name", "path"),
    "subject": ("subject", "participant_id", "subject_id", "id"),
    "session": ("session", "session_id", "visit"),
    "modality": ("modality", "contrast"),
    **{name: PERSON_HEADINGS[name] for name in ("age", "sex", "handedness")},
    "site": ("site",),
    "field_strength": ("field_strength", "MagneticFieldStrength"),
    "orientation": ("orientation",),
    **{name: (name,) for name in HEALTH_COLUMNS},
}
UNREAD = (".nrrd", ".nhdr", ".mnc", ".mha", ".mhd", ".dcm", ".ima")


def folder_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of a plain folder."""
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    rows = read_table(table, HEADINGS, need=()) if table else []
    if table and not any(row["file"] or row["subject"] for row in rows):
        raise SourceError(f"{table}: no row names a file or a subject; give it a column file or subject")
    columns = health_columns(rows)
    left_out = _notes_of(folder, table, rows, columns)
    rows = [row | {"subject": safe(row["subject"])} for row in rows]
    files, people = by_id(rows, "file"), by_id((row for row in rows if not row["file"]), "subject")
    scans: list[Scan] = []
    seen: set[tuple[str, str, str]] = set()
    paths = sorted(path for path in folder.rglob("*") if _is_volume(path))
    named = {path: read_name(path.relative_to(folder)) for path in paths}
    crowded = _crowded(named.values())
    for path in paths:
        place, name = path.relative_to(folder), named[path]
        own = {key: value for key, value in files.get(place.as_posix(), {}).items() if value}
        subject = own.get("subject", name.subject)
        row = people.get(subject, {}) | own
        session = safe(row.get("session", "")) or name.session
        modality = CONTRASTS.get(row.get("modality", "").lower(), row.get("modality", "") or name.modality)
        mask, reason = find_mask(stem(path), masks, place.parent)
        orientation = row.get("orientation", "").upper()
        if name.reason and not own:
            reason = name.reason
        elif modality not in CONTRASTS.values():
            reason = "neither its name nor a table says the contrast"
            if modality:
                reason = f"contrast {modality!r} is not one of {', '.join(dict.fromkeys(CONTRASTS.values()))}"
        elif not subject:
            reason = "its name does not say whose it is; name it after the person, or give a table"
        elif (name.subject, name.modality) in crowded and not own:
            reason = (
                f"several {modality} in the folder {place.parts[0]!r} whose names are not visits'; say "
                "in a table whose they are (columns file, subject, session)"
            )
        elif (subject, session, modality) in seen:
            reason = f"a further {modality} of the same session; the first is used"
        elif not orientation and not has_orientation(path):
            reason = "its header does not say which side is left; give it in the column orientation (LAS)"
        if reason:
            left_out.append(note(subject or stem(path), path, reason))
            continue
        seen.add((subject, session, modality))
        known, doubts = _facts(row)
        if rows and not row:
            doubts.append("the table has no row for it")
        standing, healthy = standing_of(row, columns)
        if healthy:
            known["health"] = "healthy"
        left_out += [note(subject, path, doubt, kept=True) for doubt in doubts]
        scans.append(
            Scan(
                "folder",
                subject,
                session,
                modality,
                path,
                known,
                mask,
                orientation=orientation,
                standing=standing,
            )
        )
    return scans, left_out


def _notes_of(folder: Path, table: Path | None, rows: Sequence[dict[str, str]], columns: list[str]) -> Notes:
    """What of the folder is not read: other tables, columns, rows of absent files, other formats."""
    found: Notes = []
    kinds = (".csv", ".tsv", ".xls", ".xlsx", ".txt")
    for path in sorted(path for path in folder.glob("*") if path.suffix.lower() in kinds and path != table):
        found.append(note("", path, f"not read; a table is called {' or '.join(TABLES)}", kept=True))
    if table:
        doubts = headed(table, read_rows(table)[0])[1] + ([] if columns else [NO_COLUMN])
        found += [note("", table, doubt, kept=True) for doubt in doubts]
    for row in rows:
        if row["file"] and not (folder / row["file"]).exists():
            found.append(note(row["subject"], folder / row["file"], "named in the table, but not there"))
    for path in sorted(path for path in folder.rglob("*") if path.name.lower().endswith(UNREAD)):
        found.append(note(stem(path), path, "not a format that is read; convert it to NIfTI"))
    return found


def _crowded(named: Iterable[Named]) -> set[tuple[str, str]]:
    """(subject, contrast) of which there are several sessions that are not named as visits are."""
    sessions = {(name.subject, name.modality, name.session) for name in named if not name.reason}
    strange = Counter(
        (subject, modality)
        for subject, modality, session in sessions
        if session and not is_visit(session, subject)
    )
    return {key for key, count in strange.items() if count > 1}


def _is_volume(path: Path) -> bool:
    endings = (ending for ending in ENDINGS if ending != ".hdr")  # its .img stands for both
    return not path.is_dir() and path.name.lower().endswith(tuple(endings))


def _facts(row: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """What a row says of the person, and what in it was not understood."""
    facts, doubts = person_facts(row)
    said = row.get("field_strength", "")
    tesla = number(said)
    if tesla is not None and 0 < tesla <= 20:
        facts["field_strength"] = tesla
    elif said:
        doubts.append(f"field_strength {said!r} dropped: not a number of tesla above 0 and up to 20")
    return facts, doubts
