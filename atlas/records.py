"""The lines of a folder of pairs: what is written for a slice, and the folder read back.

The lines lie in <split>/metadata.jsonl with file names within the split, where Hugging Face looks for them;
in one metadata.jsonl with whole file names in shards, and in folders made before there were shards.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlas.caption import captions, keywords
from atlas.cohort import SPLITS
from atlas.errors import PairsError
from atlas.facts import Facts
from atlas.lint import foreign_words
from atlas.structures import sizes_of, summed

FORMAT = 1
CAPTIONS = 4  # a slice
PERSON = ("age", "sex", "handedness", "site", "field_strength", "health")


@dataclass(frozen=True)
class Pair:
    """One slice and its captions. file_name is relative to the folder of pairs; split is one of SPLITS.

    captions: different wordings, in all styles; text is the first of them. Training draws others from facts.
    place: (shard, offset, bytes) of the picture when it lies in a shard, not in a file of its own.
    """

    file_name: str
    subject: str
    split: str
    facts: Facts
    text: str
    keywords: tuple[str, ...]
    captions: tuple[str, ...] = ()
    place: tuple[str, int, int] | None = None


def read_dataset(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of dataset.json. Raises PairsError if it is missing (incomplete) or of another format."""
    path = Path(folder) / "dataset.json"
    if not path.exists():
        raise PairsError(
            f"{folder}: no dataset.json, so this is no complete folder of pairs; run `brainclip pairs`"
        )
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PairsError(f"{path}: not readable as JSON ({error}); run `brainclip pairs` again") from error
    if not isinstance(dataset, dict) or dataset.get("format") != FORMAT:
        found = dataset.get("format") if isinstance(dataset, dict) else None
        raise PairsError(
            f"{path}: format {found!r}, this version reads {FORMAT}; rebuild with `brainclip pairs`"
        )
    return dataset


def read_pairs(folder: str | os.PathLike[str], split: str | None = None) -> list[Pair]:
    """The pairs of a folder or of its shards, in the order they were written; of one split, or of all.

    Raises PairsError for an incomplete folder, another format, a subject in two splits, or missing files.
    """
    folder = Path(folder)
    if split is not None and split not in SPLITS:
        raise PairsError(f"split {split!r}; possible: {', '.join(SPLITS)}")
    dataset = read_dataset(folder)
    visits = {
        (line["subject"], line["session"]): visit_facts(line) for line in read_lines(folder / "volumes.jsonl")
    }
    split_of: dict[str, str] = {}
    pairs: list[Pair] = []
    count = 0
    for line in read_metadata(folder):
        count += 1
        if split_of.setdefault(line["subject"], line["split"]) != line["split"]:
            raise PairsError(
                f"{folder}: subject {line['subject']!r} is in both {split_of[line['subject']]} and "
                f"{line['split']}; rebuild with `brainclip pairs`"
            )
        if split in (None, line["split"]):
            facts = facts_of(line, visits.get((line["subject"], line["session"]), {}))
            pairs.append(
                Pair(
                    line["file_name"],
                    line["subject"],
                    line["split"],
                    facts,
                    line["text"],
                    tuple(line["keywords"]),
                    tuple(line.get("captions", [line["text"]])),
                    (sys.intern(line["shard"]), line["offset"], line["bytes"]) if "shard" in line else None,
                )
            )
    on_disk = _pictures_on_disk(folder, dataset)
    if not dataset["pairs"] == count == on_disk:
        raise PairsError(
            f"{folder}: dataset.json lists {dataset['pairs']} pairs, metadata.jsonl {count}, and there are "
            f"{on_disk} pictures; copy the folder again or rebuild it with `brainclip pairs`"
        )
    return pairs


def _pictures_on_disk(folder: Path, dataset: Mapping[str, Any]) -> int:
    """How many pictures the folder or its shards have; PairsError for a shard that is missing or cut off."""
    for name, size in dataset.get("shards", {}).items():
        path = folder / name
        found = path.stat().st_size if path.exists() else 0
        if found != size:
            raise PairsError(
                f"{path}: has {found} bytes, dataset.json says {size}; copy the shards again or write them "
                "again with `brainclip pairs ... --shards`"
            )
    if "shards" in dataset:
        return int(dataset["pairs"])
    return sum(1 for part in SPLITS for _ in (folder / part).rglob("*.png"))


def read_picture(folder: Path, pair: Pair) -> bytes:
    """The PNG file of a pair, wherever it lies; OSError when it cannot be read."""
    if pair.place is None:
        return (folder / pair.file_name).read_bytes()
    shard, offset, size = pair.place
    with (folder / shard).open("rb") as file:
        file.seek(offset)
        return file.read(size)


def read_metadata(folder: Path) -> Iterator[dict[str, Any]]:
    """A line for each slice, file_name relative to the folder; PairsError if they are missing or damaged."""
    if (folder / "metadata.jsonl").exists():
        yield from read_lines(folder / "metadata.jsonl")
        return
    paths = [folder / split / "metadata.jsonl" for split in SPLITS]
    for path in [path for path in paths if path.exists()] or paths[:1]:
        for line in read_lines(path):
            yield line | {"file_name": f"{path.parent.name}/{line['file_name']}"}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; PairsError if it is missing or damaged."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except FileNotFoundError as error:
        raise PairsError(
            f"{path}: missing; copy the folder again or rebuild it with `brainclip pairs`"
        ) from error
    except ValueError as error:
        raise PairsError(
            f"{path}: not readable as JSON lines ({error}); rebuild with `brainclip pairs`"
        ) from error


def line_of(file_name: str, subject: str, split: str, session: str, facts: Facts) -> dict[str, Any]:
    """A slice's line, file_name relative to the folder: the same columns for all, whatever is known.

    PairsError for a word in a caption or keyword that is in no table.
    """
    texts = [made.text for made in captions(facts, seed=zlib.crc32(file_name.encode()), n=CAPTIONS)]
    words = keywords(facts)
    for text in (*texts, *words):
        if foreign := foreign_words(text):
            raise PairsError(
                f"{subject}: the caption word {foreign[0]!r} of {file_name} is in no table of atlas/tables, "
                "so it could be a name or a date; correct what is known of this subject, or report this"
            )
    return {
        "file_name": file_name,
        "text": texts[0],
        "captions": texts,
        "keywords": list(words),
        "subject": subject,
        "session": session,
        "split": split,
        "source": facts.source,
        "plane": facts.plane,
        "position_mm": facts.position_mm,
        "modality": facts.modality,
        "level": facts.level,
        **{name: facts.known.get(name) for name in PERSON},
        "regions": list(facts.regions),
        "areas_mm2": list(facts.regions.values()),
    }


def visit_lines(
    headers: Iterable[Mapping[str, Any]], percentiles: Mapping[tuple[str, str], Mapping[str, float]]
) -> list[dict[str, Any]]:
    """The lines of volumes.jsonl, one a visit: native mm3 of regions and structures, and percentiles.

    headers: the first lines of the subjects' files. percentiles: see atlas.cohort.volume_percentiles.
    """
    lines = []
    for header in headers:
        for session, visit in sorted(header["sessions"].items()):
            together = {name: round(mm3, 1) for name, mm3 in summed(visit["volumes"]).items()}
            lines.append(
                {
                    "subject": header["subject"],
                    "session": session,
                    "volumes": visit["volumes"],
                    "structures": together,
                    "percentiles": percentiles.get((header["subject"], session), {}),
                }
            )
    return lines


def visit_facts(line: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The Facts fields volumes, percentiles and sizes of a visit, from its line of volumes.jsonl.

    Folders made before structures were measured have neither percentiles nor sizes.
    """
    percentiles = line.get("percentiles", {})
    return {
        "volumes": line["volumes"] | line.get("structures", {}),
        "percentiles": percentiles,
        "sizes": sizes_of(percentiles),
    }


def facts_of(line: Mapping[str, Any], visit: Mapping[str, dict[str, Any]]) -> Facts:
    """The facts of a slice from its line and what visit_facts gives, shared by its slices."""
    facts = Facts(
        plane=line["plane"],
        position_mm=line["position_mm"],
        modality=line["modality"],
        level=line["level"],
        regions={
            sys.intern(name): area for name, area in zip(line["regions"], line["areas_mm2"], strict=True)
        },
        known={name: line[name] for name in PERSON if line[name] is not None},
        source=line["source"],
        **visit,
    )
    if line.get("ventricles"):  # in folders made before there were sizes of other structures
        return replace(facts, sizes={"lateral ventricles": line["ventricles"]})
    return facts
