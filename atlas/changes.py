"""What a subject was made from, to see later whether its files have changed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.sources import Scan

PART = 2**20  # bytes that are read at a time


def made_from(scans: Sequence[Scan]) -> list[dict[str, Any]]:
    """What decides a subject's slices besides Settings, one entry a scan, as the subject's file keeps it.

    bytes and crc are those of the files as they are now, see _size and _crc. Paths are names alone, so that
    the same data set on another disk is the same.
    """
    entries = [
        {
            "session": scan.session or "",
            "modality": scan.modality,
            "path": scan.path.name,
            "bytes": _size(scan.path),
            "crc": _crc(scan.path),
            "mask": scan.mask.name if scan.mask else None,
            "mask_bytes": _size(scan.mask),
            "mask_crc": _crc(scan.mask),
            "labels_bytes": _size(scan.labels),
            "labels_crc": _crc(scan.labels),
            "orientation": scan.orientation,
            "scale": scan.scale,
        }
        for scan in scans
    ]
    return sorted(entries, key=lambda entry: (entry["session"], entry["modality"], entry["path"]))


def is_made_from(scans: Sequence[Scan], before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether scans are those of an earlier made_from; what it did not note yet is not compared."""
    now = made_from(scans)
    return len(now) == len(before) and all(
        new | dict(old) == new for new, old in zip(now, before, strict=True)
    )


def _size(path: Path | None) -> int | None:
    """Bytes of a file, None where there is none."""
    return path.stat().st_size if path is not None and path.exists() else None


def _crc(path: Path | None) -> int | None:
    """Of a whole file, and of the header beside an .img; None without a file."""
    if path is None or not path.exists():
        return None
    header = [path.with_name(path.name.replace(".img", ".hdr"))] if ".img" in path.name else []
    found = 0
    for part in (path, *(one for one in header if one.exists())):
        with part.open("rb") as file:
            while block := file.read(PART):
                found = zlib.crc32(block, found)
    return found
