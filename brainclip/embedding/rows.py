"""The rows of a cohort's file: what is written of each slice beside its embedding, and the file read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.facts import Facts
from atlas.structures import sizes_of
from brainclip.errors import BrainclipError

if TYPE_CHECKING:
    import pyarrow

TEXTS = ("subject", "session", "file", "sha256", "plane", "contrast", "level", "sex", "split", "source")
NUMBERS = ("position_mm", "age")
FURTHER = ("caption", "percentiles")  # of a folder of pairs; percentiles as JSON
COLUMNS = (*TEXTS, *NUMBERS, *FURTHER, "model")
ABOUT = b"brainclip"  # the key of the provenance in the file's own metadata


@dataclass(frozen=True)
class Cohort:
    """Slices of many people. embeddings: (N, D) float32, unit length. columns: name -> (N,) values, those of
    COLUMNS: object arrays of texts, "" where not known, and float arrays, nan where not known. about: model,
    settings and what was left out."""

    embeddings: np.ndarray
    columns: dict[str, np.ndarray]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.embeddings)

    def take(self, rows: np.ndarray) -> Cohort:
        """Some of the slices, by index or mask."""
        return Cohort(
            self.embeddings[rows], {name: values[rows] for name, values in self.columns.items()}, self.about
        )

    def facts(self, row: int) -> Facts:
        """What is known of one slice."""
        return facts_of_row({name: values[row] for name, values in self.columns.items()})


def facts_of_row(row: dict[str, Any]) -> Facts:
    """The Facts of a row."""
    known = {"age": float(row["age"])} if np.isfinite(row["age"]) else {}
    known |= {"sex": row["sex"]} if row["sex"] else {}
    percentiles = json.loads(row["percentiles"]) if row["percentiles"] else {}
    return Facts(
        plane=row["plane"] or None,
        position_mm=float(row["position_mm"]) if np.isfinite(row["position_mm"]) else None,
        modality=row["contrast"] or None,
        level=row["level"] or None,
        percentiles=percentiles,
        sizes=sizes_of(percentiles),
        known=known,
        source=row["source"],
    )


def row_of(facts: Facts, **texts: str) -> dict[str, Any]:
    """A row without its embedding. texts: of TEXTS and FURTHER, and model, those that are known."""
    age = facts.known.get("age")
    return dict.fromkeys(COLUMNS, "") | {
        "plane": facts.plane or "",
        "contrast": facts.modality or "",
        "level": facts.level or "",
        "sex": str(facts.known.get("sex") or ""),
        "source": facts.source,
        "position_mm": np.nan if facts.position_mm is None else float(facts.position_mm),
        "age": float(age) if isinstance(age, int | float) else np.nan,
        "percentiles": json.dumps(facts.percentiles) if facts.percentiles else "",
        **texts,
    }


def table_of(rows: Sequence[dict[str, Any]], embeddings: np.ndarray, about: dict[str, Any]) -> pyarrow.Table:
    """Rows and embeddings (N, D) as an arrow table, about in its metadata."""
    import pyarrow as pa

    arrays: dict[str, Any] = {}
    for name in COLUMNS:
        kind = pa.float64() if name in NUMBERS else pa.string()
        arrays[name] = pa.array([row[name] for row in rows], kind)
    flat = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).ravel())
    arrays["embedding"] = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
    made = pa.table(arrays)
    return made.replace_schema_metadata({ABOUT: json.dumps(about).encode()})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever pyarrow says of a file as a BrainclipError of one sentence."""
    import pyarrow as pa

    if not path.is_file():
        raise BrainclipError(f"{path}: no such file; `brainclip embed FOLDER --out {path}` makes one")
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowException, OSError, KeyError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise BrainclipError(f"{path}: not a file of `brainclip embed FOLDER` ({said})") from None


def read_about(path: Path) -> dict[str, Any]:
    """What a cohort's file says of itself, its rows not read."""
    import pyarrow.parquet as pq

    with _readable(path):
        return dict(json.loads(pq.read_schema(path).metadata[ABOUT]))


def read_cohort(path: str | Path) -> Cohort:
    """The cohort in a file of `brainclip embed FOLDER`; BrainclipError where it is not one."""
    import pyarrow.parquet as pq

    path = Path(path)
    about = read_about(path)
    with _readable(path):
        table = pq.read_table(path)
        columns = columns_of(table)
        width = table.schema.field("embedding").type.list_size
        flat = table.column("embedding").combine_chunks().values.to_numpy(zero_copy_only=False)
    # a copy: arrow's memory cannot be written to, which torch warns of
    return Cohort(np.array(flat, dtype=np.float32).reshape(-1, width), columns, about)


def together(cohorts: Sequence[Cohort]) -> Cohort:
    """Several cohorts as one, about of the first."""
    columns = {name: np.concatenate([one.columns[name] for one in cohorts]) for name in COLUMNS}
    return Cohort(np.concatenate([one.embeddings for one in cohorts]), columns, cohorts[0].about)


def columns_of(table: pyarrow.Table) -> dict[str, np.ndarray]:
    """The columns of COLUMNS as numpy arrays."""
    found = {}
    for name in COLUMNS:
        values = table.column(name).to_pylist()
        found[name] = np.array(values, dtype=float if name in NUMBERS else object)
    return found
