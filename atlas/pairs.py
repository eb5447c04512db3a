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
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atlas.begin import arrange, begin, check_begun, is_done, only_run, sweep
from atlas.cohort import SPLITS
from atlas.errors import PairsError
from atlas.files import subject_path
from atlas.finish import finish
from atlas.prepare import Settings
from atlas.records import Pair, read_dataset, read_pairs
from atlas.register import OVERLAP_FLOOR, SIMILARITY_FLOOR
from atlas.shards import write_shards
from atlas.slices import MODALITIES, Geometry
from atlas.sources import Scan, find_scans
from atlas.strip import check_method
from atlas.workers import run

__all__ = ["SPLITS", "Pair", "read_dataset", "read_pairs", "write_pairs"]

LEAST_MM = 150.0  # of a slice; brains are 130 to 190 mm long


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
    Raises PairsError for unusable settings, a folder made with other settings or being written by another
    run, a full disk, or no slices.
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
    wrong = sorted(set(modalities or ()) - set(MODALITIES))
    if wrong:
        raise PairsError(f"contrast {wrong[0]!r}: possible are {', '.join(MODALITIES)}")
    wide_mm = geometry.size * geometry.spacing_mm
    if not (16 <= geometry.size <= 1024 and 0.2 <= geometry.spacing_mm <= 10 and wide_mm >= LEAST_MM):
        raise PairsError(
            f"{geometry.size} pixels of {geometry.spacing_mm:g} mm: give 16 to 1024 of 0.2 to 10 mm, "
            f"{LEAST_MM:g} mm in all at least, or a brain does not fit"
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
    check_begun(out, source, settings, keep)
    if dry_run:
        return summary
    try:
        with only_run(out):
            families = {name: found[0].family or name for name, found in sorted(subjects.items())}
            assigned = begin(out, source, settings, families, splits, keep)
            sweep(out)
            # not complete until all that it counts is in its place
            (out / "dataset.json").unlink(missing_ok=True)
            arrange(out, subjects, assigned)
            missing = [name for name in sorted(subjects) if not is_done(out, subjects[name])]
            jobs = [(subjects[name], assigned[name], out, settings) for name in missing]
            run(jobs, workers=workers, dask=dask)
            sweep(out)
            dataset = finish(out, source, Path(folder), settings, subjects, rejected)
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
