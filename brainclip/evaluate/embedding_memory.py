"""Memory of a cohort: of a process that embeds one, visit after visit, and of a file of a thousand visits."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from brainclip.embedding.cohort import embed_folder, join_parts, write_table
from brainclip.embedding.rows import read_about, read_cohort, row_of, table_of
from brainclip.model import load

VISITS = 1000
SEEN = (1, 2, 5, 10, 20, 50, 100, 200, 500)
EVERY_SECONDS = 0.05
SLICES = 70  # of a volume cut every 6 mm in three planes


def cohort_memory(model: str, folder: Path, source: str, masks: Path | None, visits: int) -> dict[str, Any]:
    """Memory in MB of a process that embeds so many visits of `folder`, and of a file of VISITS visits.

    peak: most so far (resident set) after each number of visits of SEEN; slope: MB a visit by least squares
    over the second half of the visits; extrapolated: the peak of VISITS by this slope, not a measure. Then
    the peak of joining VISITS parts of SLICES slices of made-up numbers, of reading the file, and its size.
    Every measure is in a process of its own.
    """
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "x.parquet"
        (slices, seconds, peaks), _ = _apart(_embed, model, folder, out, source, masks, visits)
    found: dict[str, Any] = grown(peaks) | {"slices": slices, "seconds": round(seconds, 1)}
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


def grown(peaks: Sequence[int]) -> dict[str, Any]:
    """What cohort_memory() says of the peaks after 1, 2, 3 ... visits."""
    half = np.arange(len(peaks) // 2, len(peaks))
    slope = float(np.polyfit(half + 1, np.asarray(peaks)[half], 1)[0]) if len(half) > 1 else 0.0
    shown = [visits for visits in (*SEEN, len(peaks)) if visits <= len(peaks)]
    return {
        "visits": len(peaks),
        "peak": {str(visits): peaks[visits - 1] for visits in dict.fromkeys(shown)},
        "slope": round(slope, 3),
        "extrapolated": round(peaks[-1] + slope * (VISITS - len(peaks))),
    }


def _apart(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What a function returns in a fresh process, and the process's peak memory in MB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(), pool.submit(_peak_mb).result()


def _peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _embed(
    model: str, folder: Path, out: Path, source: str, masks: Path | None, visits: int
) -> tuple[int, float, list[int]]:
    """Slices, seconds, and the peak in MB after each visit, seen by a thread that counts the parts."""
    opened, peaks, ended = load(model), list[int](), threading.Event()
    parts = out.with_name(f"{out.name}.parts")

    def watch() -> None:
        while not ended.wait(EVERY_SECONDS):
            done = len(list(parts.glob("[!.]*.parquet")))
            peaks.extend([_peak_mb()] * (done - len(peaks)))

    watching = threading.Thread(target=watch)
    begun = time.perf_counter()
    watching.start()
    try:
        counts = embed_folder(folder, out, model=opened, source=source, masks=masks, limit=visits)
    finally:
        ended.set()
        watching.join()
    seconds = time.perf_counter() - begun
    units = len(read_about(out)["units"])
    return counts["slices"], seconds, [*peaks, *[_peak_mb()] * (units - len(peaks))]


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
