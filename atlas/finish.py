"""The lists of a folder of pairs, when every subject is done; dataset.json comes last."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from atlas.atlas import load_atlas
from atlas.cohort import FEWEST, SPLITS, volume_percentiles
from atlas.errors import PairsError, SourceError
from atlas.facts import Facts
from atlas.files import subject_path, write_whole, writing_whole
from atlas.prepare import Settings
from atlas.records import FORMAT, line_of, read_lines, visit_facts, visit_lines
from atlas.slices import WINDOWS
from atlas.sources import Scan, counts_as_healthy
from atlas.structures import SIZES

Known = Mapping[tuple[str, str, str], Mapping[str, Any]]  # subject, session, contrast -> what the table says
# what the pictures of a source are made from, carried into dataset.json; what a data set says of itself in
# dataset_description.json comes first
LICENCES = {
    "ixi": "IXI (brain-development.org), CC BY-SA 3.0",
    "simulated": "simulated from the ICBM152 template and the atlas labels; no person was scanned",
    "bids": "as given in the data set's dataset_description.json",
    "oasis1": "OASIS-1 (Washington University), OASIS data use terms",
    "oasis2": "OASIS-2 (Washington University), OASIS data use terms",
    "oasis3": "OASIS-3 (Washington University), OASIS data use terms",
    "hcp": "HCP Young Adult (WU-Minn HCP Consortium), open access data use terms",
    "folder": "as given by the owner of the volumes",
}
STRIP_LICENCE = "brain masks by brainclip's network, trained on IXI and DLMUSE, CC BY-SA 3.0; see NOTICE"


def finish(
    out: Path,
    source: str,
    folder: Path,
    settings: Settings,
    subjects: Mapping[str, Sequence[Scan]],
    rejected: list[dict[str, Any]],
) -> dict[str, Any]:
    """The content of dataset.json, written last, after metadata, volumes.jsonl and rejected.jsonl.

    The subjects' files are read twice, so that thousands of subjects need not lie in memory at once.
    """
    known = {
        (name, scan.session or "", scan.modality): scan.known
        for name, scans in subjects.items()
        for scan in sorted(scans, key=lambda scan: str(scan.path), reverse=True)  # the first is the one used
    }
    people = [_person(out, name, known) for name in sorted(subjects)]
    healthy = {
        (name, scan.session or "")
        for name, scans in subjects.items()
        for scan in scans
        if counts_as_healthy(scan)
    }
    headers: list[dict[str, Any]] = [header for header, *_ in people]
    digest = hashlib.sha256("".join(header["images_sha256"] for header in headers).encode())
    percentiles, compared = volume_percentiles(people, healthy=healthy)
    visits = visit_lines(headers, percentiles)
    facts = {(visit["subject"], visit["session"]): visit_facts(visit) for visit in visits}
    counts = _write_metadata(out, headers, known, facts, digest.update)
    refused = sorted(
        [*rejected, *(row for header in headers for row in header["rejected"])],
        key=lambda row: (row["subject"], row["path"], row["reason"]),
    )
    write_whole(out / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in refused))
    if not counts:
        raise PairsError(f"{out}: no slice could be made; see the reasons in {out / 'rejected.jsonl'}")
    volumes = [json.dumps(line) + "\n" for line in visits]
    write_whole(out / "volumes.jsonl", "".join(volumes))
    digest.update("".join(volumes).encode())
    atlas = load_atlas(settings.atlas)
    masks = Counter(
        origin for h in headers for visit in h["sessions"].values() for origin in visit["masks"].values()
    )
    dataset = {
        "format": FORMAT,
        "source": source,
        "synthetic": source == "simulated",
        "pairs": sum(counts[split] for split in SPLITS),
        "subjects": {
            split: sum(h["split"] == split and h["slices"] > 0 for h in headers) for split in SPLITS
        },
        "slices": {split: counts[split] for split in SPLITS},
        "slices_by_kind": {kind: n for kind, n in sorted(counts.items()) if kind not in SPLITS},
        "rejected": sum(not row.get("kept") for row in refused),
        "geometry": asdict(settings.geometry),
        "every_mm": settings.every_mm,
        "seed": settings.seed,
        "nonlinear": settings.nonlinear,
        "sizes": {"people": compared, "fewest": FEWEST, "percentiles": SIZES},
        "windows": WINDOWS,
        "atlas": {"name": atlas.name, "space": atlas.space, "hash": atlas.hash},
        "brain_masks": dict(sorted(masks.items())),
        "licences": [
            _licence(source, folder),
            atlas.licence,
            *([STRIP_LICENCE] if "network" in masks else []),
        ],
        "content_sha256": digest.hexdigest(),
    }
    write_whole(out / "dataset.json", json.dumps(dataset, indent=1) + "\n")
    return dataset


def _licence(source: str, folder: Path) -> str:
    """Name and licence of the data set in its own words (BIDS), else what is known of the source."""
    path = folder / "dataset_description.json"
    known = LICENCES.get(source, "unknown")
    if not path.exists():
        if source == "bids":
            return f"{folder.name}: licence unknown, the data set has no dataset_description.json"
        return known
    try:
        description = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SourceError(f"{path}: not a JSON object ({error}); repair or remove it") from error
    name, licence = description.get("Name") or folder.name, description.get("License")
    return f"{name}: {licence}" if licence else known


def _lines(out: Path, subject: str, known: Known) -> Iterator[dict[str, Any]]:
    """The lines of a subject's file, the header first; the person as the table has it now."""
    lines = read_lines(subject_path(out, subject))
    yield next(lines)
    for record in lines:
        facts = record["facts"]
        facts["known"] = known.get((subject, record["session"], facts["modality"]), facts["known"])
        yield record


def _person(out: Path, subject: str, known: Known) -> list[dict[str, Any]]:
    """The first line of a subject's file, and of each visit one slice whose age is known, if there is one."""
    lines = _lines(out, subject, known)
    header = next(lines)
    aged: dict[str, dict[str, Any]] = {}
    for record in lines:
        if record["session"] not in aged and record["facts"]["known"].get("age") is not None:
            aged[record["session"]] = record
    return [header, *aged.values()]


def _write_metadata(
    out: Path,
    headers: Iterable[dict[str, Any]],
    known: Known,
    visits: dict[tuple[str, str], dict[str, dict[str, Any]]],
    digest: Callable[[bytes], None],
) -> Counter[str]:
    """Slices in each split and of each kind; writes <split>/metadata.jsonl, gives `digest` all lines.

    known: as in _lines. visits: (subject, session) -> the facts that all slices of the visit share.
    """
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for header in headers:
            subject, split = header["subject"], header["split"]
            records = _lines(out, subject, known)
            next(records)  # the header
            for record in records:
                facts = Facts.from_dict(record["facts"] | visits[subject, record["session"]])
                line = line_of(record["file_name"], subject, split, record["session"], facts)
                digest((json.dumps(line) + "\n").encode())
                if split not in files:
                    files[split] = stack.enter_context(writing_whole(out / split / "metadata.jsonl"))
                within = line | {"file_name": record["file_name"].removeprefix(f"{split}/")}
                files[split].write(json.dumps(within) + "\n")
                counts.update([split, f"{line['modality']} {line['plane']}"])
    # of splits that are empty now, and of folders made when there was one for all (Hugging Face missed it)
    for stale in (out, *(out / split for split in SPLITS if split not in files)):
        (stale / "metadata.jsonl").unlink(missing_ok=True)
    return counts
