"""A plain folder of volumes, with a table or without.

Without a table the contrast (T1, T1w, T2, PD, FLAIR) is a part of the file's name, or a folder called so. The
person is the folder below the given one, or else what is left of the name without words of processing:
anna/visit1_T1.nii.gz is the visit1 of anna, anna_T1_defaced.nii.gz and T1/anna.nii.gz are of anna. In
participants.tsv or .csv, or table.tsv or .csv, a row tells more of a person (column subject) or of one file
(column file, relative to the folder): modality, session, age, sex, handedness, site, field_strength,
pathology, diagnosis, dx, health or group, and orientation ("LAS") for files whose header does not say which
side is left, as Analyze never does.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from atlas.errors import SourceError
from atlas.sources.bids import SUFFIXES
from atlas.sources.health import health_column, is_healthy
from atlas.sources.scan import Notes, Scan, find_mask, note, stem
from atlas.sources.tables import by_id, number, person_facts, read_table
from atlas.volume import SUFFIXES as ENDINGS
from atlas.volume import has_orientation

TABLES = ("participants.tsv", "participants.csv", "table.tsv", "table.csv")
HEADINGS = {
    "file": ("file", "file_name", "path"),
    "subject": ("subject", "participant_id", "subject_id", "id"),
    "session": ("session", "session_id", "visit"),
    "modality": ("modality", "contrast"),
    "age": ("age",),
    "sex": ("sex", "gender"),
    "handedness": ("handedness", "hand"),
    "site": ("site",),
    "field_strength": ("field_strength", "MagneticFieldStrength"),
    "orientation": ("orientation",),
    "pathology": ("pathology",),
    "diagnosis": ("diagnosis", "dx"),
    "health": ("health",),
    "group": ("group",),
}
CONTRASTS = {"t1": "T1", "t2": "T2", "pd": "PD", "flair": "FLAIR"} | {
    suffix.lower(): modality for suffix, modality in SUFFIXES.items()
}
SAID = re.compile(rf"(?i)(?<![a-z0-9])({'|'.join(CONTRASTS)})(?![a-z0-9])")
NOT_SCANS = {"mask", "seg", "dseg", "labels", "label", "brainmask"}
PROCESSED = re.compile(  # what was done to an image says nothing of whose it is
    r"(?i)(?<![a-z0-9])(defaced?|brain|(skull)?stripped|bet|n4|biascorrected|denoised|restored?|acpc|raw"
    r"|mri|scans?|images?|anat)(?![a-z0-9])"
)


def folder_scans(folder: Path, masks: Path | None) -> tuple[list[Scan], Notes]:
    """The scans of a plain folder."""
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    rows = read_table(table, HEADINGS, need=()) if table else []
    if table and not any(row["file"] or row["subject"] for row in rows):
        raise SourceError(f"{table}: no row names a file or a subject; give it a column file or subject")
    column = health_column(rows)
    rows = [row | {"subject": _safe(row["subject"])} for row in rows]
    files, people = by_id(rows, "file"), by_id((row for row in rows if not row["file"]), "subject")
    scans: list[Scan] = []
    left_out: Notes = []
    seen: set[tuple[str, str, str]] = set()
    for path in sorted(path for path in folder.rglob("*") if _is_volume(path)):
        place = path.relative_to(folder)
        subject, session, modality = _from_name(place)
        own = {name: value for name, value in files.get(place.as_posix(), {}).items() if value}
        subject = own.get("subject", subject)
        row = people.get(subject, {}) | own
        session = _safe(row.get("session", "")) or session
        modality = CONTRASTS.get(row.get("modality", "").lower(), modality)
        mask, reason = find_mask(stem(path), masks)
        orientation = row.get("orientation", "").upper()
        if modality not in CONTRASTS.values():
            reason = "a mask or label map" if modality else "neither its name nor a table says the contrast"
        elif not subject:
            reason = "its name does not say whose it is; name it after the person, or give a table"
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
        standing = row.get(column, "") if column else None
        if column and standing is not None and is_healthy(standing, column):
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


def _is_volume(path: Path) -> bool:
    endings = (ending for ending in ENDINGS if ending != ".hdr")  # its .img stands for both
    return not path.is_dir() and path.name.endswith(tuple(endings))


def _from_name(place: Path) -> tuple[str, str, str]:
    """(subject, session, modality) as a file's place and name tell them; "?" for a mask, "" for not told."""
    parts = re.split(r"[^a-z0-9]+", stem(place).lower())
    folders = [part for part in place.parts[:-1] if _whose(part)]
    of_folders = [SAID.search(part) for part in place.parts[-2::-1] if not _whose(part)]
    said = SAID.search(stem(place)) or next((match for match in of_folders if match), None)
    modality = CONTRASTS[said[1].lower()] if said else ""
    if NOT_SCANS & set(parts):
        modality = "?"
    rest = _whose(stem(place))
    if not folders:
        return rest, "", modality
    subject, *between = (_safe(part) for part in folders)
    return subject, "_".join([*between, rest] if rest not in ("", subject) else between), modality


def _whose(name: str) -> str:
    """A name without the words of contrast and processing: the person or visit; empty if nothing is left."""
    return _safe(PROCESSED.sub(" ", SAID.sub(" ", name)))


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


def _safe(name: str) -> str:
    """A name that can be part of a file name: letters of any alphabet, digits, - and _."""
    return re.sub(r"(?:[^\w-]|_)+", "_", unicodedata.normalize("NFC", name)).strip("_-")
