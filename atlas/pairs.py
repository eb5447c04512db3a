"""A folder of pairs: slices and their captions, written subject by subject, and read back.

dataset.json            format, geometry, atlas, counts, hashes; written last: its presence means complete
metadata.jsonl          one line a slice, Hugging Face imagefolder: file_name, text and the facts
<split>/<subject>/      8-bit grey PNG, <modality>_<plane>_<position>.png
subjects/<subject>.jsonl    written when a subject is done: volumes, rejects, slices
splits.json, settings.json  written first, so that a second run continues the first
rejected.jsonl          subject, path and the reason
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from atlas.atlas import load_atlas
from atlas.cohort import SPLITS, assign_splits, ventricle_sizes
from atlas.errors import PairsError
from atlas.facts import Facts
from atlas.prepare import Settings, prepare_subject, write_whole
from atlas.records import FORMAT, Pair, line_of, read_dataset, read_lines, read_pairs
from atlas.slices import WINDOWS, Geometry
from atlas.sources import Scan, find_scans
from atlas.strip import check_method

__all__ = ["SPLITS", "Pair", "read_dataset", "read_pairs", "write_pairs"]

LICENCES = {  # what the pictures of a source are made from, carried into dataset.json
    "ixi": "IXI (brain-development.org), CC BY-SA 3.0",
    "simulated": "simulated from the ICBM152 template and the atlas labels; no person was scanned",
    "bids": "as given in the data set's dataset_description.json",
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
    nonlinear: bool = True,
    strip: str = "network",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Summary of the folder of pairs made from a folder of scans: the content of dataset.json.

    source: a name in atlas.sources.SOURCES. every_mm: distance between slices, rounded to whole pixels.
    splits: shares of subjects for train, validation, test. limit: only the first subjects, in order of name.
    nonlinear: labels by SyN and not by the affine alone; it has no effect where true labels are given.
    strip: brain extraction, one of atlas.strip.METHODS, of whole heads that come without a mask.
    dry_run: counts only, nothing is written. Stopped half-way, the same call goes on with what is missing.
    Raises PairsError for unusable settings, a folder made with other settings, a full disk, or no slices.
    """
    out = Path(out)
    check_method(strip)
    scans, rejected = _scans_of(source, Path(folder), masks, modalities, limit)
    settings = Settings(geometry, every_mm, seed, nonlinear=nonlinear, strip=strip)
    if every_mm <= 0 or len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1) > 1e-6:
        raise PairsError(
            f"every_mm {every_mm} and splits {splits}: every_mm is above 0 and three shares sum to 1"
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
        assigned = _start(out, source, settings, families, splits)
        _sweep(out)
        missing = [name for name in sorted(subjects) if not (out / "subjects" / f"{name}.jsonl").exists()]
        jobs = [(subjects[name], assigned[name], out, settings) for name in missing]
        if jobs:
            (out / "dataset.json").unlink(missing_ok=True)  # not complete until the new subjects are in
        _run(jobs, workers)
        _sweep(out)
        return _finish(out, source, settings, sorted(subjects), rejected)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        done = len(list((out / "subjects").glob("*.jsonl")))
        raise PairsError(
            f"{out}: the disk is full; {done} of {len(subjects)} subjects are complete, "
            "free some space and run the same command again"
        ) from error


def _scans_of(
    source: str, folder: Path, masks: Path | None, modalities: Sequence[str] | None, limit: int | None
) -> tuple[list[Scan], list[dict[str, Any]]]:
    """The scans to use, of the asked contrasts and of the first subjects, and the rejected records."""
    scans, rejected = find_scans(source, folder, masks=masks)
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
    out: Path, source: str, settings: Settings, families: dict[str, str], shares: tuple[float, float, float]
) -> dict[str, str]:
    """Subject -> split, written before any work; a subject that has a split keeps it when others are added.

    families: subject -> family (its own name where it has none); a family stays together.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = {"format": FORMAT, "source": source, **asdict(settings)}
    path = out / "settings.json"
    if path.exists():
        given = {"strip": wanted["strip"]} | json.loads(path.read_text(encoding="utf-8"))  # older: no choice
        different = [name for name in wanted if given.get(name) != wanted[name]]
        if different:
            name = different[0]
            raise PairsError(
                f"{out}: was begun with {name} = {given.get(name)!r}, now {name} = {wanted[name]!r}; "
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


def _sweep(out: Path) -> None:
    """Remove what a run that was killed had only half written."""
    shutil.rmtree(out / ".partial", ignore_errors=True)
    for stale in (*out.glob(".*.partial"), *(out / "subjects").glob(".*.partial")):
        stale.unlink()


def _run(jobs: Sequence[tuple[list[Scan], str, Path, Settings]], workers: int) -> None:
    """Prepare the subjects, in this process or in several, with progress on stderr."""
    with tqdm(total=len(jobs), desc="pairs", unit="subject", file=sys.stderr) as bar:
        if workers <= 1 or len(jobs) <= 1:
            for job in jobs:
                prepare_subject(*job)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(workers, len(jobs)), mp_context=context, initializer=_begin_worker
        ) as pool:
            running: list[Future[dict[str, int]]] = [pool.submit(prepare_subject, *job) for job in jobs]
            try:
                for future in as_completed(running):
                    future.result()
                    bar.update()
            except BrokenProcessPool as error:
                raise PairsError(
                    "a worker process was ended from outside, most often for want of memory; "
                    "run the same command again with fewer workers"
                ) from error
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _begin_worker() -> None:
    """One thread for each worker, so that they do not compete, and an end when the main process is killed."""
    for name in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"

    def watch(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)  # else the worker would wait for work for ever

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def _finish(
    out: Path, source: str, settings: Settings, subjects: Sequence[str], rejected: list[dict[str, Any]]
) -> dict[str, Any]:
    """The content of dataset.json, written last, after metadata.jsonl, volumes.jsonl and rejected.jsonl."""
    names = sorted({*subjects, *(path.stem for path in (out / "subjects").glob("*.jsonl"))})
    read = [list(read_lines(out / "subjects" / f"{name}.jsonl")) for name in names]
    headers = [lines[0] for lines in read]
    sizes = ventricle_sizes(read)
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    metadata: list[str] = []
    for header, *records in read:
        digest.update(header["images_sha256"].encode())
        for record in records:
            facts = Facts.from_dict(record["facts"])
            size = sizes.get((header["subject"], record["session"]))
            if size is not None:
                facts.known["ventricles"] = size
            line = line_of(record["file_name"], header["subject"], header["split"], record["session"], facts)
            counts.update([header["split"], f"{line['modality']} {line['plane']}"])
            metadata.append(json.dumps(line) + "\n")
    if not metadata:
        raise PairsError(f"{out}: no slice could be made; see the reasons in {out / 'subjects'}")
    volumes = [
        json.dumps({"subject": header["subject"], "session": session, "volumes": visit["volumes"]}) + "\n"
        for header in headers
        for session, visit in sorted(header["sessions"].items())
    ]
    refused = sorted(
        [*rejected, *(row for header in headers for row in header["rejected"])],
        key=lambda row: (row["subject"], row["path"], row["reason"]),
    )
    write_whole(out / "rejected.jsonl", "".join(json.dumps(row) + "\n" for row in refused))
    write_whole(out / "volumes.jsonl", "".join(volumes))
    write_whole(out / "metadata.jsonl", "".join(metadata))
    digest.update("".join((*metadata, *volumes)).encode())
    atlas = load_atlas(settings.atlas)
    dataset = {
        "format": FORMAT,
        "source": source,
        "synthetic": source == "simulated",
        "pairs": len(metadata),
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
        "windows": WINDOWS,
        "atlas": {"name": atlas.name, "space": atlas.space, "hash": atlas.hash},
        "licences": [LICENCES.get(source, "unknown"), atlas.licence],
        "content_sha256": digest.hexdigest(),
    }
    write_whole(out / "dataset.json", json.dumps(dataset, indent=1) + "\n")
    return dataset
