"""What a person has to look at in a folder of pairs: each visit against the cohort, what the slices hold."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atlas.errors import PairsError
from atlas.files import overlay_path
from atlas.records import read_lines, read_metadata

FEWEST = 10  # visits, before any is compared with the others
WORD = re.compile(r"[a-z][a-z0-9'-]*")
FILLERS = {
    "a",
    "an",
    "and",
    "at",
    "for",
    "her",
    "his",
    "in",
    "is",
    "of",
    "on",
    "that",
    "the",
    "this",
    "through",
    "to",
    "with",
}
LEAST_ML = 0.5  # the median volume of a region that is compared; smaller ones are mostly noise
SHOWN = {
    "brain": ("brain",),
    "lateral ventricles": ("left lateral ventricle", "right lateral ventricle"),
    "hippocampi": ("left hippocampus", "right hippocampus"),
}


@dataclass
class Row:
    """One visit of one subject. volumes: native mm3. similarity, overlap: None where they were not kept.
    warped: the similarity after the warp, None without one.

    reasons: why scans were rejected, or what was dropped of the person. far: (region, robust z of its share
    of the brain), the furthest from the cohort first. overlay: the picture's path, None where there is none.
    """

    subject: str
    session: str
    split: str = ""
    slices: int = 0
    age: float | None = None
    sex: str | None = None
    volumes: dict[str, float] = field(default_factory=dict)
    similarity: float | None = None
    overlap: float | None = None
    warped: float | None = None
    rejected: bool = False
    reasons: list[str] = field(default_factory=list)
    far: list[tuple[str, float]] = field(default_factory=list)
    overlay: Path | None = None


@dataclass(frozen=True)
class Quality:
    """The rows, those to look at first in front, and how often each thing occurs in the slices."""

    rows: list[Row]
    counts: dict[str, dict[str, int]]
    longest: int  # words of the longest caption


def quality(folder: Path) -> Quality:
    """Rows in the order rejected, then the worst fit to the template, then furthest from the cohort.

    PairsError when the subjects' files are missing, as in shards.
    """
    rows: dict[tuple[str, str], Row] = {}
    paths = sorted((folder / "subjects").glob("*.jsonl"))
    if not paths:
        raise PairsError(f"{folder}: has no subjects/*.jsonl; give the folder that `brainclip pairs` wrote")
    listed = {line["subject"] for line in read_lines(folder / "volumes.jsonl")}
    for path in paths:
        header = next(read_lines(path))
        if header["subject"] not in listed:  # left out by the latest `brainclip pairs`
            continue
        for session, visit in header["sessions"].items():
            picture = overlay_path(folder, header["subject"], session)
            rows[header["subject"], session] = Row(
                header["subject"],
                session,
                split=header["split"],
                volumes=visit["volumes"],
                similarity=visit.get("similarity"),
                overlap=visit.get("overlap"),
                warped=visit.get("warped_similarity"),
                overlay=picture if picture.exists() else None,
            )
    _add_rejected(folder, rows)
    counts, longest = _add_slices(folder, rows)
    _add_distances([row for row in rows.values() if row.volumes.get("brain")])
    similar = _places([row.similarity for row in rows.values()])
    shared = _places([row.overlap for row in rows.values()])
    worst = dict(zip(rows, map(min, similar, shared), strict=True))
    ordered = sorted(
        rows.values(),
        key=lambda row: (
            not row.rejected,
            bool(row.volumes) or row.similarity is not None,  # first: never registered
            worst[row.subject, row.session],
            -max((abs(z) for _, z in row.far), default=0.0),
            row.subject,
            row.session,
        ),
    )
    binned = {
        "age": _binned([row.age for row in ordered], 5),
        "similarity": _binned([row.similarity for row in ordered], 0.02),
        "overlap": _binned([row.overlap for row in ordered], 0.02),
    }
    return Quality(ordered, binned | counts, longest)


def volume_ml(row: Row, name: str) -> float | None:
    """The volume of a name of SHOWN in ml; None where it was not measured."""
    parts = [row.volumes[part] for part in SHOWN[name] if part in row.volumes]
    return sum(parts) / 1000 if parts else None


def _add_rejected(folder: Path, rows: dict[tuple[str, str], Row]) -> None:
    """Reasons to the visit, else to the subject's first one, or to a row of its own where there is none."""
    first = {subject: row for (subject, _), row in sorted(rows.items(), reverse=True)}
    for line in read_lines(folder / "rejected.jsonl"):
        row = rows.get((line["subject"], line.get("session", ""))) or first.get(line["subject"])
        if row is None:
            row = first[line["subject"]] = rows[line["subject"], ""] = Row(line["subject"], "")
        row.reasons.append(f"{line['path']}: {line['reason']}")
        row.rejected |= not line.get("kept")


def _add_slices(folder: Path, rows: dict[tuple[str, str], Row]) -> tuple[dict[str, dict[str, int]], int]:
    """Age, sex and slices to each row; slices of each plane, level and word; words of the longest caption."""
    sexes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    levels: Counter[tuple[str, str]] = Counter()
    words: Counter[str] = Counter()
    longest = 0
    for line in read_metadata(folder):
        row = rows[line["subject"], line["session"]]
        if not row.slices:
            row.age, row.sex = line["age"], line["sex"]
            sexes[line["sex"] or "not known"] += 1
        row.slices += 1
        kinds[f"{line['modality']} {line['plane']}"] += 1
        levels[line["plane"], line["level"]] += 1
        words.update(set(WORD.findall(line["text"].lower())) - FILLERS)
        longest = max(longest, len(line["text"].split()))
    return {
        "sex": dict(sorted(sexes.items())),
        "contrast and plane": dict(sorted(kinds.items())),
        **{
            f"{plane} level": {name: n for (of, name), n in levels.most_common() if of == plane}
            for plane in sorted({plane for plane, _ in levels})
        },
        "word": dict(words.most_common()),
    }, longest


def _add_distances(rows: list[Row]) -> None:
    """`far` of each row: robust z, (x - median) / (1.4826 MAD), of the brain's ml and each region's share."""
    if len(rows) < FEWEST:
        return
    names = sorted({name for row in rows for name in row.volumes})
    values: Any = np.array([[row.volumes.get(name, 0.0) for name in names] for row in rows])
    brain = values[:, names.index("brain")]
    large = np.median(values, axis=0) >= LEAST_ML * 1000
    shares = np.where(np.array(names) == "brain", values, values / brain[:, None])
    away = shares - np.median(shares, axis=0)
    spread = 1.4826 * np.median(np.abs(away), axis=0)
    z = np.where(large & (spread > 0), away / np.where(spread > 0, spread, 1), 0.0)
    for row, distances in zip(rows, z, strict=True):
        order = np.argsort(-np.abs(distances))[:3]
        row.far = [(names[k], float(distances[k])) for k in order if distances[k] != 0]


def _places(values: list[float | None]) -> list[int]:
    """For each value how many are as low or lower; for one that is not known, the number of all."""
    known = sorted(value for value in values if value is not None)
    return [len(values) if value is None else bisect_right(known, value) for value in values]


def _binned(values: list[float | None], width: float) -> dict[str, int]:
    """How many values lie in each bin, those without a value last; empty bins between others are kept."""
    known = np.array([value for value in values if value is not None])
    counts: dict[str, int] = {}
    if len(known):
        bins = np.floor(known / width + 1e-9).astype(int)
        for k in range(bins.min(), bins.max() + 1):
            counts[f"{k * width:g} to {(k + 1) * width:g}"] = int((bins == k).sum())
    missing = len(values) - len(known)
    return counts | ({"not known": missing} if missing else {})
