"""Memory that a cohort takes: `embed_folder` on a few volumes and on more, and a file of a thousand."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from brainclip.embedding.cohort import embed_folder, join_parts, write_table
from brainclip.embedding.rows import read_cohort, row_of, table_of
from brainclip.model import load

VISITS = 1000
SLICES = 70  # of a volume cut every 6 mm in three planes


def cohort_memory(
    model: str, folder: Path, source: str, masks: Path | None, counts: Sequence[int]
) -> dict[str, Any]:
    """For each count: the peak memory in MB of a process that embeds so many visits of `folder`, its seconds
    and slices; then the peak of joining VISITS parts of SLICES slices of made-up numbers, of reading the
    file, and its size. Every measure is in a process of its own."""
    found: dict[str, Any] = {"visits": {}}
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "x.parquet"
            (slices, seconds), peak = _apart(_embed, model, folder, out, source, masks, count)
        found["visits"][str(count)] = {"peak_mb": peak, "seconds": round(seconds, 1), "slices": slices}
    with tempfile.TemporaryDirectory() as place:
        width, _ = _apart(_parts, model, Path(place))
        file_mb, joining = _apart(_join, Path(place))
        rows, reading = _apart(_read, Path(place))
    found["thousand"] = {
        "slices": rows,
        "width": width,
        "file_mb": file_mb,
        "join_peak_mb": joining,
        "read_peak_mb": reading,
    }
    return found


def _apart(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What a function returns in a fresh process, and the process's peak memory in MB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(), pool.submit(_peak_mb).result()


def _peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _embed(
    model: str, folder: Path, out: Path, source: str, masks: Path | None, count: int
) -> tuple[int, float]:
    begun = time.perf_counter()
    counts = embed_folder(folder, out, model=load(model), source=source, masks=masks, limit=count)
    return counts["slices"], time.perf_counter() - begun


def _parts(model: str, folder: Path) -> int:
    """Write VISITS parts; the embeddings' width."""
    width = load(model).clip.embedding_width
    from atlas.facts import Facts

    facts = Facts("axial", 4.0, "T1", "thalamus", known={"age": 50.0, "sex": "female"})
    generator = np.random.default_rng(0)
    for visit in range(VISITS):
        rows = [row_of(facts, subject=f"made-up{visit}", file=f"{visit}.nii.gz") for _ in range(SLICES)]
        made = generator.normal(size=(SLICES, width)).astype(np.float32)
        write_table(table_of(rows, made, {"left_out": []}), folder / f"{visit:04d}.parquet")
    return int(width)


def _join(folder: Path) -> int:
    """Join the parts; the file's size in MB."""
    paths = sorted(folder.glob("*.parquet"))
    join_parts(paths, folder / "whole.parquet", {"left_out": []}, [])
    return round((folder / "whole.parquet").stat().st_size / 2**20)


def _read(folder: Path) -> int:
    return len(read_cohort(folder / "whole.parquet"))
