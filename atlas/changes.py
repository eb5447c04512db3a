"""What a subject was made from, to see later whether its files have changed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.sources import Scan

PART = 2**16  # bytes of a file that are read to see whether it has changed


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
    """Of the first, middle and last 64 KiB of a file and of the header beside an .img; None without a file.

    A header written anew shows in it, and so does every change of a compressed file but one that leaves these
    three parts and the length as they were.
    """
    if path is None or not path.exists():
        return None
    found = 0
    for part in (path, path.with_name(path.name.replace(".img", ".hdr"))):
        if not part.exists():
            continue
        size = part.stat().st_size
        with part.open("rb") as file:
            for begin in (0, size // 2, max(size - PART, 0)):
                file.seek(begin)
                found = zlib.crc32(file.read(PART), found)
    return found
