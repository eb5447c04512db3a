"""Sizes read from embeddings: a planted size is found at every place where the structure is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from test_embedding_facts import Model, in_memory

from atlas.facts import Facts
from brainclip.embedding.readings import Readings, fit, seen_between
from brainclip.embedding.rows import Cohort, columns_of, row_of, table_of

WIDTH = 10


def cohort(seed: int, n: int = 900) -> tuple[Cohort, np.ndarray]:
    """Axial and coronal T1 slices whose embeddings hold place and size, and the sizes (percentiles)."""
    generator = np.random.default_rng(seed)
    rows, made, sizes = [], [], generator.uniform(1, 99, n)
    for k in range(n):
        place = float(generator.integers(-30, 30))
        facts = Facts(
            ("axial", "coronal")[k % 2], place, "T1", percentiles={"lateral ventricles": float(sizes[k])}
        )
        rows.append(row_of(facts, subject=f"p{k}", split="train"))
        embedding = 0.02 * generator.normal(size=WIDTH)
        embedding[0] += 1
        embedding[1] += (place / 30) ** 2
        embedding[2 + k % 2] += (sizes[k] - 50) / 300
        made.append(embedding / np.linalg.norm(embedding))
    about = {"model": "planted-0", "clip": "planted", "geometry": {}, "folder": "x"}
    table = table_of(rows, np.stack(made), {})
    return Cohort(np.stack(made).astype(np.float32), columns_of(table), about), sizes


SEEN = {"axial/lateral ventricles": (-20.0, 24.0), "coronal/lateral ventricles": (-30.0, 30.0)}


def test_planted_size_is_read_where_the_structure_is_seen(tmp_path: Path) -> None:
    made = fit(cohort(0)[0], SEEN, ["lateral ventricles", "hippocampi"])
    assert sorted(made.known) == ["axial/T1/lateral ventricles", "coronal/T1/lateral ventricles"]
    tested, sizes = cohort(1)
    rows = np.arange(len(tested))
    for name, sign in (("enlarged", 1), ("small", -1)):
        scores = made.scores({"lateral ventricles": name}, tested.columns, rows, tested.embeddings)
        known = np.isfinite(scores)
        outside = (tested.columns["plane"] == "axial") & (np.abs(tested.columns["position_mm"] - 2) > 22)
        assert np.array_equal(~known, outside)
        assert sign * np.corrcoef(scores[known], sizes[known])[0, 1] > 0.9
    normal = made.scores({"lateral ventricles": "normal"}, tested.columns, rows, tested.embeddings)
    first = np.argsort(-np.where(np.isnan(normal), -np.inf, normal))[:50]
    assert np.abs(sizes[first] - 50).mean() < 15
    assert np.isnan(made.scores({"hippocampi": "small"}, tested.columns, rows, tested.embeddings)).all()
    made.save(tmp_path / "readings.safetensors")
    model = Model()
    model.folder = tmp_path
    again = Readings.load(model)  # type: ignore[arg-type]
    assert np.allclose(
        again.scores({"lateral ventricles": "small"}, tested.columns, rows[:9], tested.embeddings[:9]),
        made.scores({"lateral ventricles": "small"}, tested.columns, rows[:9], tested.embeddings[:9]),
        atol=1e-4,
        equal_nan=True,
    )


def test_search_puts_the_sizes_that_are_asked_for_first(tmp_path: Path) -> None:
    readings = fit(cohort(0)[0], SEEN, ["lateral ventricles"])
    index = in_memory(cohort(2)[0], tmp_path)
    query = index.embeddings.mean(0)
    for size, low, high in (("enlarged", 80, 100), ("small", 0, 20)):
        hits = index.search(query, 8, sizes={"lateral ventricles": size}, readings=readings)
        found = [json.loads(hit.columns["percentiles"])["lateral ventricles"] for hit in hits]
        assert low <= np.mean(found) <= high


def test_a_structure_is_seen_where_half_of_the_slices_show_it() -> None:
    facts = [
        Facts("axial", float(place), regions={"left lateral ventricle": 200.0 if 0 <= place <= 12 else 50.0})
        for place in range(-30, 42, 6)
        for _ in range(3)
    ]
    assert seen_between(facts, ["lateral ventricles"]) == {"axial/lateral ventricles": (0.0, 12.0)}
    assert seen_between(facts, ["hippocampi"]) == {}
