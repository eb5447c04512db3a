"""A folder of scans or of pairs, embedded into one parquet file: resumable, one visit in memory at a time."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from atlas.changes import made_from
from atlas.records import Pair, read_dataset, read_pairs, read_picture
from atlas.slices import Geometry
from brainclip.config import digest
from brainclip.embedding.embedded import geometry_of
from brainclip.embedding.rows import read_about, row_of, table_of
from brainclip.embedding.samples import EVERY_MM, visit_samples
from brainclip.encode import encode_images
from brainclip.errors import BrainclipError, PairsError
from brainclip.model import BrainCLIP

if TYPE_CHECKING:
    from atlas.sources import Scan

FORMAT = 1
Slices = tuple[np.ndarray, list[dict[str, Any]], list[dict[str, str]]]  # (N, H, W) uint8, rows, left out


@dataclass(frozen=True)
class Unit:
    """What is embedded together and kept as one part: a visit's scans, or a person's pairs."""

    key: str
    scans: tuple[Scan, ...] = ()
    pairs: tuple[Pair, ...] = ()


def embed_folder(
    folder: Path,
    out: Path,
    *,
    model: BrainCLIP,
    source: str = "folder",
    masks: Path | None = None,
    every_mm: float = EVERY_MM,
    strip: str = "network",
    splits: Sequence[str] = (),
    limit: int | None = None,
    workers: int = 1,
    device: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Counts of people, slices and scans left out, after writing `out` (.parquet), a row for each slice.

    folder: of scans, laid out as `source` (an adapter of atlas.sources) says, or of pairs, of which `splits`
    picks some. A scan goes through the preparation of the training data; one that cannot be used is listed in
    the file's metadata with the reason. Rows: embedding, subject, session, file, its sha256, plane,
    position_mm, contrast, level, age, sex, and the hash of the model.
    The part of each visit is kept in a folder beside `out` until all are there, so that a second call goes on
    where the first was stopped. BrainclipError and its kin for what cannot be used at all.
    """
    if out.suffix != ".parquet":
        raise BrainclipError(f"--out {out}: the embeddings of a folder are saved as .parquet")
    if not folder.is_dir():
        raise BrainclipError(f"{folder}: no such folder")
    geometry = geometry_of(model)
    from_pairs = (folder / "dataset.json").is_file()
    left_out: list[dict[str, str]] = []
    if from_pairs:
        units = _units_of_pairs(folder, geometry, splits)
    else:
        units, left_out = _units_of_scans(folder, source, masks)
    units = units[:limit]
    about = {
        "format": FORMAT,
        "model": model.name,
        "clip": model.clip.hash,
        "folder": folder.name,
        "source": "pairs" if from_pairs else source,
        "geometry": {"size": geometry.size, "spacing_mm": geometry.spacing_mm},
        "every_mm": None if from_pairs else every_mm,
        "strip": None if from_pairs else strip,
        "units": [unit.key for unit in units],
    }
    if out.is_file() and read_about(out).get("made_from") == digest(about):
        return _counted(out) | {"already": True}
    if dry_run:
        return {"units": len(units), "left_out": len(left_out)}
    parts = out.with_name(f"{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    settings = {name: about[name] for name in ("clip", "geometry", "every_mm", "strip")}
    paths = [parts / f"{digest([settings, unit.key])}.parquet" for unit in units]
    waiting = [number for number, path in enumerate(paths) if not path.is_file()]
    jobs = [(units[number], folder, geometry, every_mm, strip) for number in waiting]
    for index, (pixels, rows, refused) in _made(jobs, 1 if from_pairs else workers, done=len(units)):
        made = encode_images(model.clip, (one.astype(np.float32) / 255 for one in pixels), device=device)
        rows = [row | {"model": model.name} for row in rows]
        write_table(table_of(rows, made.numpy(), {"left_out": refused}), paths[waiting[index]])
    join_parts(paths, out, about | {"made_from": digest(about)}, left_out)
    shutil.rmtree(parts)
    return _counted(out)


def _units_of_pairs(folder: Path, geometry: Geometry, splits: Sequence[str]) -> list[Unit]:
    """A unit for each person of a folder of pairs. PairsError where its slices are of another geometry."""
    dataset = read_dataset(folder)
    own = Geometry(int(dataset["geometry"]["size"]), float(dataset["geometry"]["spacing_mm"]))
    if own != geometry:
        raise PairsError(
            f"{folder}: slices of {own.size} pixels of {own.spacing_mm:g} mm; this model takes "
            f"{geometry.size} of {geometry.spacing_mm:g} mm"
        )
    people: dict[str, list[Pair]] = {}
    for split in splits or (None,):
        for pair in read_pairs(folder, split):
            people.setdefault(pair.subject, []).append(pair)
    if not people:
        raise PairsError(f"{folder}: no pairs in {', '.join(splits) or 'it'}")
    content = dataset["content_sha256"]
    return [Unit(digest([content, name]), pairs=tuple(rows)) for name, rows in sorted(people.items())]


def _units_of_scans(folder: Path, source: str, masks: Path | None) -> tuple[list[Unit], list[dict[str, str]]]:
    """A unit for each visit, and the files that are left out with the reason."""
    from atlas.sources import find_scans

    scans, notes = find_scans(source, folder, masks=masks, keep=["all"])
    visits: dict[tuple[str, str], list[Scan]] = {}
    for scan in scans:
        visits.setdefault((scan.subject, scan.session), []).append(scan)
    units = [Unit(digest([*key, made_from(rows)]), scans=tuple(rows)) for key, rows in visits.items()]
    gone = [note for note in notes if not note["kept"]]
    return units, [{"file": Path(note["path"]).name, "reason": note["reason"]} for note in gone]


def _made(jobs: Sequence[tuple[Any, ...]], workers: int, *, done: int) -> Iterator[tuple[int, Slices]]:
    """(index of the job, its slices) as they come, with progress on stderr."""
    from atlas.workers import each_result

    bar = tqdm(total=done, initial=done - len(jobs), desc="embed", unit="visit", file=sys.stderr)
    with bar:
        for result in each_result(slices_of_unit, jobs, workers=workers):
            yield result
            bar.update()


def slices_of_unit(unit: Unit, folder: Path, geometry: Geometry, every_mm: float, strip: str) -> Slices:
    """The slices of a unit, read or prepared; scans that cannot be used are listed with the reason."""
    if unit.pairs:
        return _slices_of_pairs(unit.pairs, folder, geometry.size)
    made, refused = visit_samples(unit.scans, geometry, every_mm=every_mm, strip=strip)
    session = unit.scans[0].session or ""
    hashes = {str(scan.path): _sha256(scan.path) for scan in unit.scans}
    rows = [
        row_of(
            one.facts,
            subject=one.subject,
            session=session,
            file=Path(one.source).relative_to(folder).as_posix(),
            sha256=hashes[one.source],
        )
        for one in made
    ]
    size = geometry.size
    pixels = np.array([np.round(one.pixels * 255) for one in made], dtype=np.uint8).reshape(-1, size, size)
    return pixels, rows, [{"file": scan.path.name, "reason": str(error)} for scan, error in refused]


def _slices_of_pairs(pairs: Sequence[Pair], folder: Path, size: int) -> Slices:
    """The slices of some pairs."""
    rows, pixels = [], []
    for pair in pairs:
        try:
            stored = read_picture(folder, pair)
            with Image.open(io.BytesIO(stored)) as image:
                grey = np.asarray(image.convert("L"))
        except (OSError, ValueError) as error:
            raise PairsError(
                f"{folder / pair.file_name}: cannot be read ({error}); run `brainclip pairs` again"
            ) from None
        if grey.shape != (size, size):
            raise PairsError(f"{folder / pair.file_name}: {grey.shape} pixels, the model takes {size}")
        pixels.append(grey)
        rows.append(
            row_of(
                pair.facts,
                subject=pair.subject,
                file=pair.file_name,
                sha256=hashlib.sha256(stored).hexdigest()[:16],
                split=pair.split,
                caption=pair.text,
            )
        )
    return np.stack(pixels), rows, []


def _sha256(path: Path) -> str:
    """First 16 hex digits of a file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_table(table: Any, path: Path) -> None:
    """Write a parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def join_parts(
    paths: Sequence[Path], out: Path, about: dict[str, Any], left_out: list[dict[str, str]]
) -> None:
    """All parts as one file, a row group each, so that only one is in memory."""
    import json

    import pyarrow.parquet as pq

    from brainclip.embedding.rows import ABOUT

    left_out = left_out + [row for path in paths for row in read_about(path)["left_out"]]
    schema = pq.read_schema(paths[0])
    schema = schema.with_metadata({ABOUT: json.dumps(about | {"left_out": left_out}).encode()})
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for path in paths:
                writer.write_table(pq.read_table(path).replace_schema_metadata(schema.metadata))
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _counted(out: Path) -> dict[str, Any]:
    """What a finished file holds."""
    import pyarrow.parquet as pq

    table = pq.read_table(out, columns=["subject"])
    people = len(set(table.column("subject").to_pylist()))
    return {"people": people, "slices": table.num_rows, "left_out": len(read_about(out)["left_out"])}
