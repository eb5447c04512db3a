"""An index of embedded slices on this machine: the nearest to a sentence, to a slice, or a caption to it.

A folder: embeddings.npy (N, D) float32, rows.parquet, captions.npy and captions.json where captions were
asked for, and index.json, written last, which says what it was made from.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from atlas.facts import Facts, age_band
from atlas.prompt import read_prompt
from atlas.structures import sizes_of
from atlas.truth import AGE_TOLERANCE_YEARS
from brainclip.embedding.classes import meanings
from brainclip.embedding.readings import Readings
from brainclip.embedding.rows import COLUMNS, facts_of_row, read_cohort
from brainclip.errors import BrainclipError
from brainclip.model import BrainCLIP
from brainclip.weights import hash_file, read_json, write_json

FORMAT = 1
BLOCK = 65_536  # rows compared at a time: 50 MB at D = 192
FAISS = "faiss.index"
SHORTLIST = 30  # times as many slices as are asked for, among which sizes are looked at
LISTS = 1024  # of faiss's inverted file, of which PROBES are looked at
PROBES = 64


@dataclass(frozen=True)
class Hit:
    """One result. score: cosine, -1 to 1. row: its number in the index. columns: those of a cohort's file."""

    score: float
    row: int
    columns: dict[str, Any]

    @property
    def facts(self) -> Facts:
        """What is known of the slice."""
        return facts_of_row(self.columns)

    def __str__(self) -> str:
        place = self.columns["position_mm"]
        words = [self.columns["subject"], self.columns["plane"], self.columns["contrast"]]
        words += [f"{place:+.0f} mm"] if np.isfinite(place) else []
        return f"{' '.join(word for word in words if word)} ({self.score:.3f})"


class Index:
    """A saved index. embeddings: (N, D), read from disk as needed. about: index.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "index.json").is_file():
            raise BrainclipError(
                f"{folder}: no index.json, so this is no complete index; run `brainclip index`"
            )
        self.about = read_json(self.folder / "index.json")
        if self.about.get("format") != FORMAT:
            raise BrainclipError(
                f"{folder}: format {self.about.get('format')!r}, this version reads {FORMAT}"
            )
        try:
            self.embeddings = np.load(self.folder / "embeddings.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise BrainclipError(
                f"{folder}: damaged ({error}); make it again with `brainclip index`"
            ) from None
        if self.embeddings.shape != (self.about["slices"], self.about["width"]):
            raise BrainclipError(
                f"{folder}: index.json tells of {self.about['slices']} x {self.about['width']} numbers, "
                f"embeddings.npy holds {self.embeddings.shape}; make it again with `brainclip index`"
            )
        self._columns: dict[str, np.ndarray] | None = None

    @classmethod
    def build(
        cls,
        cohort: Path,
        folder: Path,
        *,
        pictures: Path | None = None,
        model: BrainCLIP | None = None,
        faiss: bool = False,
    ) -> Index:
        """The index of a cohort's file, written into `folder`.

        pictures: where the files of its rows lie, to show what is found. model: to embed the captions of the
        rows as well, for slice -> caption. faiss: an inverted file as well, for more than a million rows;
        what it finds is not exact.
        """
        rows = read_cohort(cohort)
        if not len(rows):
            raise BrainclipError(f"{cohort}: holds no slices")
        if model is not None:
            _check_model(rows.about, model)
        captions = sorted({text for text in rows.columns["caption"] if text}) if model is not None else []
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder, prefix=".new-"
        ) as new:  # an older one stays till the end
            np.save(f"{new}/embeddings.npy", rows.embeddings)
            shutil.copyfile(cohort, f"{new}/rows.parquet")
            if faiss:
                write_faiss(rows.embeddings, Path(new, FAISS))
            if model is not None and captions:
                parts = [model.embed_text(captions[i : i + 256]) for i in range(0, len(captions), 256)]
                np.save(f"{new}/captions.npy", np.concatenate([part.numpy() for part in parts]))
                Path(new, "captions.json").write_text(json.dumps(captions, ensure_ascii=False), "utf-8")
            (folder / "index.json").unlink(missing_ok=True)
            (folder / FAISS).unlink(missing_ok=True)
            for path in Path(new).iterdir():
                path.replace(folder / path.name)
        about = {
            "format": FORMAT,
            "slices": len(rows),
            "width": rows.embeddings.shape[1],
            "people": len(set(rows.columns["subject"])),
            "captions": len(captions),
            "exact": not faiss,
            "model": rows.about["model"],
            "clip": rows.about["clip"],
            "geometry": rows.about["geometry"],
            "made_from": {"file": cohort.name, "sha256": hash_file(cohort), "folder": rows.about["folder"]},
            "pictures": str(pictures.resolve()) if pictures else None,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(folder / "index.json", about)
        return cls(folder)

    def __len__(self) -> int:
        return len(self.embeddings)

    def of_split(self, split: str) -> Index:
        """The same index with the slices of one split alone, in memory."""
        part = Index(self.folder)
        kept = np.flatnonzero(self.columns["split"] == split)
        part._columns = {name: values[kept] for name, values in self.columns.items()}
        part.embeddings = np.asarray(self.embeddings[kept])
        return part

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of the rows, read once."""
        if self._columns is None:
            self._columns = read_cohort(self.folder / "rows.parquet").columns
        return self._columns

    def facts(self, row: int) -> Facts:
        """What is known of a row."""
        return facts_of_row({name: values[row] for name, values in self.columns.items()})

    def check(self, model: BrainCLIP) -> None:
        """BrainclipError where the index was made with another model."""
        _check_model(self.about, model)

    def nearest(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows), both (Q, k), best first; fewer than k where there are not so many.

        queries: (Q, D) unit length. allowed: (N,) bool, the rows that come into question. Exact, unless the
        index has an inverted file of faiss and all rows come into question.
        """
        path = self.folder / FAISS
        if allowed is None and path.is_file():
            queries = np.ascontiguousarray(queries, dtype=np.float32)
            scores, rows = faiss_module().read_index(str(path)).search(queries, min(k, len(self)))
            return scores, rows
        return nearest_of(self.embeddings, queries, k, allowed)

    def search(
        self,
        query: np.ndarray,
        k: int = 10,
        *,
        facts: Facts | None = None,
        sizes: Mapping[str, str] | None = None,
        readings: Readings | None = None,
        each_person_once: bool = False,
    ) -> list[Hit]:
        """The k slices nearest to an embedding (D,), best first.

        facts: only slices that agree with them, see agreeing(). sizes, readings: of the SHORTLIST * k
        nearest, those first whose embeddings show these sizes of structures most; those at places where a
        structure is not seen, last. each_person_once: only the best slice of each person.
        """
        allowed = None if facts is None else self.agreeing(facts)
        many = len(self) if each_person_once else SHORTLIST * k if sizes else k
        scores, rows = self.nearest(np.asarray(query, dtype=np.float32)[None], many, allowed=allowed)
        near, order = scores[0], rows[0]
        if sizes and readings is not None:
            near, order = near[: SHORTLIST * k], order[: SHORTLIST * k]
            shown = readings.scores(sizes, self.columns, order, np.asarray(self.embeddings[order]))
            again = np.argsort(-np.where(np.isnan(shown), -np.inf, shown), kind="stable")
            near, order = near[again], order[again]
        found: list[Hit] = []
        people: set[str] = set()
        for score, row in zip(near, order, strict=True):
            columns = {name: self.columns[name][row] for name in COLUMNS}
            if each_person_once and columns["subject"] in people:
                continue
            people.add(columns["subject"])
            found.append(Hit(float(score), int(row), columns))
            if len(found) == k:
                break
        return found

    def agreeing(self, facts: Facts) -> np.ndarray:
        """(N,) bool: rows of which nothing is known that contradicts the plane, contrast, level and sex, and
        of which the age and the sizes of structures are known to be those, where these facts state any."""
        allowed = np.ones(len(self), dtype=bool)
        wanted = {"plane": facts.plane, "contrast": facts.modality, "level": facts.level}
        for name, value in (wanted | {"sex": facts.known.get("sex")}).items():
            if value:
                allowed &= (self.columns[name] == value) | (self.columns[name] == "")
        low, high = _ages(facts)
        if np.isfinite(low):
            age = self.columns["age"].astype(float)
            allowed &= (age >= low) & (age < high)
        if facts.sizes:
            sizes_of_text: dict[str, bool] = {}
            for text in set(self.columns["percentiles"][allowed]):
                known = sizes_of(json.loads(text)) if text else {}
                sizes_of_text[text] = all(known.get(name) == size for name, size in facts.sizes.items())
            allowed &= np.array([sizes_of_text.get(text, False) for text in self.columns["percentiles"]])
        return allowed

    def captions(self, query: np.ndarray, k: int = 5) -> list[tuple[float, str]]:
        """The k captions of the index nearest to an embedding (D,), with their cosines.

        BrainclipError where the index was made without captions.
        """
        if not self.about["captions"]:
            raise BrainclipError(
                f"{self.folder}: made without captions; make it of a folder of pairs with --captions"
            )
        texts = json.loads((self.folder / "captions.json").read_text(encoding="utf-8"))
        scores, rows = nearest_of(np.load(self.folder / "captions.npy", mmap_mode="r"), query[None], k)
        return [(float(score), texts[row]) for score, row in zip(scores[0], rows[0], strict=True)]


def _ages(facts: Facts) -> tuple[float, float]:
    """The ages in years that facts state, from and below; infinite where they state none."""
    age, band = facts.known.get("age"), facts.known.get("age_band")
    if age is not None:
        return age - AGE_TOLERANCE_YEARS, age + AGE_TOLERANCE_YEARS
    return age_band(band) if band else (-np.inf, np.inf)


def query_of(model: BrainCLIP, text: str) -> tuple[np.ndarray, Facts]:
    """The embedding (D,) of a query in words, and what was understood of it.

    A prompt with a plane is said in several wordings of the training captions, whose embeddings are averaged;
    one without is embedded as it is. PromptError for an empty one.
    """
    prompt = read_prompt(text)
    if prompt.facts.plane is None:
        return model.embed_text(text)[0].numpy(), prompt.facts
    return meanings(model.clip, [prompt.mentioned])[0].numpy(), prompt.facts


def nearest_of(
    embeddings: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, rows), both (Q, k), of the rows of (N, D) with the largest product with each query, exactly.

    BLOCK rows are compared at a time. allowed: (N,) bool.
    """
    queries = np.asarray(queries, dtype=np.float32)
    k = min(k, len(embeddings) if allowed is None else int(allowed.sum()))
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    rows = np.zeros((len(queries), 0), dtype=np.int64)
    for start in range(0, len(embeddings), BLOCK):
        scores = queries @ np.asarray(embeddings[start : start + BLOCK]).T  # (Q, BLOCK)
        if allowed is not None:
            scores[:, ~allowed[start : start + BLOCK]] = -np.inf
        best = np.concatenate([best, scores], axis=1)
        here = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        rows = np.concatenate([rows, here], axis=1)
        if best.shape[1] > k > 0:  # what is not among the k best need not be sorted
            part = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, rows = np.take_along_axis(best, part, axis=1), np.take_along_axis(rows, part, axis=1)
        kept = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(best, kept, axis=1), np.take_along_axis(rows, kept, axis=1)
    return best, rows


def write_faiss(embeddings: np.ndarray, path: Path) -> None:
    """Write faiss's inverted file of (N, D) rows. BrainclipError where faiss is not installed."""
    faiss = faiss_module()
    lists = max(1, min(LISTS, len(embeddings) // 40))  # faiss wants 39 rows a list to train on
    quantizer = faiss.IndexFlatIP(embeddings.shape[1])
    index = faiss.IndexIVFFlat(quantizer, embeddings.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(embeddings[:: max(1, len(embeddings) // (lists * 40))]))
    for start in range(0, len(embeddings), BLOCK):
        index.add(np.ascontiguousarray(embeddings[start : start + BLOCK]))
    index.nprobe = min(PROBES, lists)
    faiss.write_index(index, str(path))


def faiss_module() -> Any:
    """The module faiss. BrainclipError where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise BrainclipError("faiss is not installed; pip install 'brainclip[faiss]'") from None
    return faiss


def _check_model(about: dict[str, Any], model: BrainCLIP) -> None:
    if about["clip"] != model.clip.hash:
        raise BrainclipError(
            f"made with the CLIP {about['clip']} of {about['model']}, this model has {model.clip.hash}; "
            "embeddings of two models cannot be compared: make it again, or give the other --model"
        )
