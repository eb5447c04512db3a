"""A folder of pairs: slices and their captions, written subject by subject, and read back.

dataset.json            format, geometry, atlas, counts, hashes; written last: its presence means complete
<split>/metadata.jsonl  one line a slice, Hugging Face imagefolder: file_name, text (the first of captions),
                        captions (several, in different styles) and the facts
<split>/<subject>/      8-bit grey PNG, <modality>_<plane>_<position>.png
unlisted/<subject>/     pictures of subjects that the latest call left out, until one asks for them again
volumes.jsonl           one line a visit: native mm3 of regions and structures, percentiles of structures
subjects/<subject>.jsonl    written when a subject is done: what it was made from, volumes, rejects, slices
overlays/               the registered volume of each visit with outlines of its labels, for `brainclip qc`
shards/                 the same pairs as WebDataset shards, when asked for
splits.json, settings.json  written first, so that a second run continues the first
rejected.jsonl          subject, path and the reason
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from atlas.atlas import load_atlas
from atlas.cohort import FEWEST, SPLITS, assign_splits, volume_percentiles
from atlas.errors import PairsError, SourceError
from atlas.facts import Facts
from atlas.prepare import Settings, made_from, subject_path, write_whole, writing_whole
from atlas.records import (
    FORMAT,
    Pair,
    line_of,
    read_dataset,
    read_lines,
    read_pairs,
    visit_facts,
    visit_lines,
)
from atlas.register import OVERLAP_FLOOR, SIMILARITY_FLOOR
from atlas.shards import write_shards
from atlas.slices import WINDOWS, Geometry
from atlas.sources import Scan, counts_as_healthy, find_scans
from atlas.strip import check_method
from atlas.structures import SIZES
from atlas.workers import run

__all__ = ["SPLITS", "Pair", "read_dataset", "read_pairs", "write_pairs"]

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


def write_pairs(
    source: str,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    geometry: Geometry,
    every_mm: float,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    workers: int = 2,
    masks: Path | None = None,
    modalities: Sequence[str] | None = None,
    limit: int | None = None,
    keep: Sequence[str] = (),
    nonlinear: bool = True,
    strip: str = "network",
    denoise: bool = False,
    least_similarity: float = SIMILARITY_FLOOR,
    least_overlap: float = OVERLAP_FLOOR,
    shards: bool = False,
    dask: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Summary of the folder of pairs made from a folder of scans: the content of dataset.json.

    source: a name in atlas.sources.SOURCES. every_mm: distance between slices, rounded to whole pixels.
    splits: shares of subjects for train, validation, test. limit: only the first subjects, in order of name.
    keep: who stays besides the healthy, see atlas.sources.find_scans.
    nonlinear: labels by SyN and not by the affine alone; it has no effect where true labels are given.
    strip: brain extraction, one of atlas.strip.METHODS, of whole heads that come without a mask.
    denoise: non-local means before the bias field is taken out, see atlas.register.denoise.
    least_similarity, least_overlap: floors, 0 to 1, of how well a visit fits the template, see
    atlas.register.Registration; below either it is set aside and listed in rejected.jsonl. 0: no floor.
    shards: write <out>/shards as well. dask: "local" or a scheduler's address instead of a pool of processes.
    dry_run: counts only, nothing is written. Stopped half-way, the same call goes on with what is missing; a
    subject whose scans or masks have changed is prepared again. Only subjects of this call are listed: the
    pictures of others wait in <out>/unlisted for a call that takes them in again.
    Raises PairsError for unusable settings, a folder made with other settings, a full disk, or no slices.
    """
    out = Path(out)
    check_method(strip)
    scans, rejected = _scans_of(source, Path(folder), masks, modalities, limit, keep)
    settings = Settings(
        geometry,
        every_mm,
        seed,
        nonlinear=nonlinear,
        strip=strip,
        denoise=denoise,
        least_similarity=least_similarity,
        least_overlap=least_overlap,
    )
    if every_mm <= 0 or len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1) > 1e-6:
        raise PairsError(
            f"every_mm {every_mm} and splits {splits}: every_mm is above 0 and three shares sum to 1"
        )
    if not (0 <= least_similarity <= 1 and 0 <= least_overlap <= 1):
        raise PairsError(
            f"least_similarity {least_similarity} and least_overlap {least_overlap}: floors lie from 0 to 1"
        )
    subjects: dict[str, list[Scan]] = {}
    for scan in scans:
        subjects.setdefault(scan.subject, []).append(scan)
    left_out = sum(not row.get("kept") for row in rejected)
    summary = {"subjects": len(subjects), "scans": len(scans), "rejected": left_out}
    if not subjects:
        raise PairsError(f"{folder}: no usable scans of the source {source!r}; {left_out} were rejected")
    if dry_run:
        return summary
    try:
        families = {name: found[0].family or name for name, found in sorted(subjects.items())}
        assigned = _start(out, source, settings, families, splits, keep)
        _sweep(out)
        # not complete until all that it counts is in its place
        (out / "dataset.json").unlink(missing_ok=True)
        _arrange(out, subjects, assigned)
        missing = [name for name in sorted(subjects) if not _is_done(out, subjects[name])]
        jobs = [(subjects[name], assigned[name], out, settings) for name in missing]
        run(jobs, workers=workers, dask=dask)
        _sweep(out)
        licence = _licence(source, Path(folder))
        dataset = _finish(out, source, settings, subjects, rejected, licence)
        if shards or (out / "shards").exists():  # else they would keep people who have gone
            write_shards(out)
        return dataset
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        done = sum(subject_path(out, name).exists() for name in subjects)
        raise PairsError(
            f"{out}: the disk is full; {done} of {len(subjects)} subjects are complete, "
            "free some space and run the same command again"
        ) from error


def _scans_of(
    source: str,
    folder: Path,
    masks: Path | None,
    modalities: Sequence[str] | None,
    limit: int | None,
    keep: Sequence[str],
) -> tuple[list[Scan], list[dict[str, Any]]]:
    """The scans to use, of the asked contrasts and of the first subjects, and the rejected records."""
    scans, rejected = find_scans(source, folder, masks=masks, keep=keep)
    for row in rejected:  # paths within the data set: the same pairs on another disk
        path = Path(row["path"])
        row["path"] = str(path.relative_to(folder) if path.is_relative_to(folder) else path.name)
    if modalities is not None:
        scans = [scan for scan in scans if scan.modality in modalities]
    if limit is not None:
        first = set(sorted({scan.subject for scan in scans})[:limit])
        scans = [scan for scan in scans if scan.subject in first]
        rejected = [row for row in rejected if row["subject"] in first]
    return scans, rejected


def _start(
    out: Path,
    source: str,
    settings: Settings,
    families: dict[str, str],
    shares: tuple[float, float, float],
    keep: Sequence[str],
) -> dict[str, str]:
    """Subject -> split, written before any work; a subject that has a split keeps it when others are added.

    families: subject -> family (its own name where it has none); a family stays together.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = {"format": FORMAT, "source": source, **asdict(settings)}
    if keep:
        wanted["keep"] = sorted(keep)
    path = out / "settings.json"
    if path.exists():
        # older folders say nothing of these: they go on under the defaults
        later = ("strip", "denoise", "least_similarity", "least_overlap")
        given = {name: getattr(Settings, name) for name in later}
        given |= json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in given | wanted if given.get(name) != wanted.get(name)]
        if different:
            name = different[0]
            raise PairsError(
                f"{out}: was begun with {name} = {given.get(name)!r}, now {name} = {wanted.get(name)!r}; "
                "give another folder or delete this one"
            )
    elif any(out.iterdir()):
        raise PairsError(f"{out}: is not empty and no folder of pairs; give a new folder")
    else:
        write_whole(path, json.dumps(wanted, indent=1) + "\n")
    path = out / "splits.json"
    assigned: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {families[name]: split for name, split in assigned.items() if name in families}
    by_family = assign_splits(sorted(set(families.values())), shares, seed=settings.seed, assigned=known)
    assigned |= {name: by_family[family] for name, family in families.items() if name not in assigned}
    write_whole(path, json.dumps(assigned, indent=1, sort_keys=True) + "\n")
    return assigned


def _is_done(out: Path, scans: Sequence[Scan]) -> bool:
    """Whether a subject was prepared from just these scans; files of older versions do not say and count."""
    path = subject_path(out, scans[0].subject)
    if not path.exists():
        return False
    try:
        header = next(read_lines(path))
    except (PairsError, StopIteration):  # damaged
        return False
    now = made_from(scans)
    return bool(header.get("made_from", now) == now)


def _arrange(out: Path, subjects: Container[str], assigned: Mapping[str, str]) -> None:
    """Move the pictures of subjects that are not asked for out of the splits, and those of others back.

    assigned: subject -> split. Whoever opens a split elsewhere (Hugging Face) takes every picture in it.
    """
    aside = out / "unlisted"  # no folders of splits in it: Hugging Face finds them at any depth
    moves = [(path, aside) for split in SPLITS for path in (out / split).glob("*") if path.is_dir()]
    moves = [(path, place) for path, place in moves if path.name not in subjects]
    moves += [(path, out / assigned[path.name]) for path in aside.glob("*") if path.name in subjects]
    for path, place in moves:
        place.mkdir(exist_ok=True)
        path.rename(place / path.name)
    with suppress(OSError):  # it is not there, or not empty
        aside.rmdir()


def _sweep(out: Path) -> None:
    """Remove what a run that was killed had only half written."""
    shutil.rmtree(out / ".partial", ignore_errors=True)
    for folder in (out, *(out / name for name in ("subjects", *SPLITS))):
        for stale in folder.glob(".*.partial"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()


def _licence(source: str, folder: Path) -> str:
    """Name and licence of the data set in its own words (BIDS), else what is known of the source."""
    path = folder / "dataset_description.json"
    known = LICENCES.get(source, "unknown")
    if not path.exists():
        return known
    try:
        description = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SourceError(f"{path}: not a JSON object ({error}); repair or remove it") from error
    name, licence = description.get("Name") or folder.name, description.get("License")
    return f"{name}: {licence}" if licence else known


def _finish(
    out: Path,
    source: str,
    settings: Settings,
    subjects: Mapping[str, Sequence[Scan]],
    rejected: list[dict[str, Any]],
    licence: str,
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
        "licences": [licence, atlas.licence],
        "content_sha256": digest.hexdigest(),
    }
    write_whole(out / "dataset.json", json.dumps(dataset, indent=1) + "\n")
    return dataset


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
