"""The study of the embedding space, from pairs and a model to its report, at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_embedding_inputs import model

from brainclip.embedding import fingerprint
from brainclip.embedding.calibration import Calibration
from brainclip.embedding.fingerprint import Fingerprint
from brainclip.errors import RecipeError
from brainclip.evaluate import embedding_memory
from brainclip.evaluate.embedding_speed import speed
from brainclip.evaluate.embedding_study import EmbeddingRecipe, run_embedding_study
from brainclip.model import BrainCLIP

__all__ = ["model"]  # the fixture


def recipe(model: BrainCLIP, folder: Path, **more: object) -> EmbeddingRecipe:
    pairs = {"toy": str(model.folder.parent / "pairs" / "toy")}
    names = {"age": "toy", "searches": {"coronal T2 slice": "toy"}, "like": "toy"} | more
    return EmbeddingRecipe(folder=str(folder), model=str(model.folder), pairs=pairs, files=8, **names)  # type: ignore[arg-type]


def test_study_measures_every_part_once_and_writes_the_report(
    model: BrainCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "FEWEST", 1)
    monkeypatch.setattr("brainclip.evaluate.embedding_speed.ROUNDS", 1)
    asked = recipe(model, tmp_path)
    line = run_embedding_study(asked)
    assert "times a plain loop" in line
    text = (tmp_path / "embedding" / "README.md").read_text()
    for part in ("Zero-shot classes", "Search", "Captions", "Fingerprint", "Brain age", "Slices a second"):
        assert f"## {part}" in text
    assert "None" not in text and "nan" not in text.replace("nano", "")
    for number in (1, 2):
        assert (tmp_path / "search" / f"{number}.png").is_file()
    calibration = json.loads((tmp_path / "known" / f"{model.clip.hash}.json").read_text())
    assert calibration["fitted_on"] == "validation people: 2 of toy"
    assert Calibration(**calibration).of("zero_shot", "plane") > 0
    assert Fingerprint.load(tmp_path / "known" / "fingerprint.npz").limits.keys() == fingerprint.CHECKS.keys()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"] == {"toy": {"train": [12, 288], "validation": [2, 48], "test": [3, 72]}}
    before = (tmp_path / "classes.json").stat().st_mtime_ns
    assert run_embedding_study(asked) == line
    assert (tmp_path / "classes.json").stat().st_mtime_ns == before


def test_pairs_that_are_not_named_are_refused(model: BrainCLIP, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'mars' is none of the pairs: toy"):
        run_embedding_study(recipe(model, tmp_path, searches={"axial T1 slice": "mars"}))


def test_all_programs_of_the_speed_test_give_the_same_embeddings(model: BrainCLIP) -> None:
    files = sorted((model.folder.parent / "pairs" / "toy" / "test").rglob("*.png"))[:6]
    found = speed(model, files, rounds=2)
    for name in ("one", "batches", "brainclip", "checked"):
        assert found[name]["difference"] < 1e-5 and found[name]["per_second"] > 0
    assert found["slices"] == 6 and found["one"]["times"] == [1, 1, 1]


def test_memory_is_seen_after_each_visit_and_its_growth_told(model: BrainCLIP, tmp_path: Path) -> None:
    pairs = model.folder.parent / "pairs" / "toy"
    slices, seconds, peaks = embedding_memory._embed(
        str(model.folder), pairs, tmp_path / "x.parquet", "folder", None, 5
    )
    assert slices == 120 and seconds > 0 and len(peaks) == 5 and peaks == sorted(peaks)
    made = embedding_memory.grown([100, 200, 300, *range(301, 311)])  # 1 MB a visit in the end
    assert made["visits"] == 13 and made["slope"] == pytest.approx(1)
    assert made["peak"] == {"1": 100, "2": 200, "5": 302, "10": 307, "13": 310}
    assert made["extrapolated"] == 310 + 987


def test_parts_of_a_thousand_visits_are_joined_in_order(
    model: BrainCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_memory, "VISITS", 5)
    assert embedding_memory._parts(str(model.folder), tmp_path) == model.clip.embedding_width
    assert embedding_memory._join(tmp_path) == 0  # MB
    from brainclip.embedding.rows import read_cohort

    whole = read_cohort(tmp_path / "whole.parquet")
    assert embedding_memory._read(tmp_path) == len(whole) == 5 * embedding_memory.SLICES
    assert list(np.unique(whole.columns["subject"])) == [f"made-up{k}" for k in range(5)]
