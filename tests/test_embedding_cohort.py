"""A folder into one parquet file, an index of it, and what is found there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_embedding_inputs import GEOMETRY, model
from toy_pairs import write_toy_pairs

from atlas.facts import Facts
from atlas.prompt import read_prompt
from brainclip import cli
from brainclip.embedding import cohort as module
from brainclip.embedding.cohort import embed_folder
from brainclip.embedding.index import Index, nearest_of, query_of
from brainclip.embedding.rows import read_cohort
from brainclip.embedding.sheet import search_sheet
from brainclip.errors import BrainclipError
from brainclip.model import BrainCLIP

__all__ = ["model"]  # the fixture


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_toy_pairs(tmp_path / "pairs", subjects=(3, 1, 2))
    return tmp_path / "pairs"


def test_rows_say_whose_and_where_and_have_the_embedding_of_the_slice(
    model: BrainCLIP, pairs: Path, tmp_path: Path
) -> None:
    counts = embed_folder(pairs, tmp_path / "x.parquet", model=model)
    assert counts == {"people": 6, "slices": 144, "left_out": 0}
    cohort = read_cohort(tmp_path / "x.parquet")
    row = 100
    assert np.allclose(
        cohort.embeddings[row], model.embed_image(pairs / cohort.columns["file"][row])[0].numpy(), atol=1e-5
    )
    facts = cohort.facts(row)
    assert facts.plane in ("axial", "coronal", "sagittal") and facts.modality in ("T1", "T2", "PD", "FLAIR")
    assert facts.known["sex"] in ("female", "male") and 20 <= facts.known["age"] <= 86
    assert set(cohort.columns["model"]) == {model.name}
    assert all(len(sha256) == 16 for sha256 in cohort.columns["sha256"])
    assert set(cohort.columns["split"]) == {"train", "validation", "test"}
    assert embed_folder(pairs, tmp_path / "x.parquet", model=model)["already"]


def test_stopped_and_begun_again_makes_only_what_is_missing_and_the_same_file(
    model: BrainCLIP, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_folder(pairs, tmp_path / "whole.parquet", model=model)
    made: list[str] = []
    real = module.slices_of_unit

    def breaking(unit: object, *rest: object) -> object:
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(unit.pairs[0].subject)  # type: ignore[attr-defined]
        return real(unit, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "slices_of_unit", breaking)
    with pytest.raises(KeyboardInterrupt):
        embed_folder(pairs, tmp_path / "x.parquet", model=model)
    assert not (tmp_path / "x.parquet").exists()
    first, made[:] = list(made), []
    embed_folder(pairs, tmp_path / "x.parquet", model=model)
    assert len(first) == 4 and len(made) == 2 and not set(first) & set(made)
    whole, again = read_cohort(tmp_path / "whole.parquet"), read_cohort(tmp_path / "x.parquet")
    assert np.array_equal(whole.embeddings, again.embeddings)
    assert list(whole.columns["file"]) == list(again.columns["file"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pairs",
        "whole.parquet",
        "x.parquet",
    ]


def test_index_finds_a_slice_by_itself_and_keeps_what_it_was_made_from(
    model: BrainCLIP, pairs: Path, tmp_path: Path
) -> None:
    embed_folder(pairs, tmp_path / "x.parquet", model=model)
    index = Index.build(tmp_path / "x.parquet", tmp_path / "index", pictures=pairs, model=model)
    row = 17
    hits = index.search(np.asarray(index.embeddings[row]), 5)
    assert hits[0].row == row and hits[0].score == pytest.approx(1, abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    once = index.search(np.asarray(index.embeddings[row]), 5, each_person_once=True)
    assert len({hit.columns["subject"] for hit in once}) == 5
    strict = index.search(np.asarray(index.embeddings[row]), 20, facts=Facts("coronal", modality="PD"))
    assert {(hit.columns["plane"], hit.columns["contrast"]) for hit in strict} == {("coronal", "PD")}
    ages = index.columns["age"].astype(float)
    old = index.agreeing(read_prompt("axial T1 slice of an elderly woman").facts)
    assert (ages[old] >= 65).all() and set(index.columns["sex"][old]) <= {"female"}
    index.columns["percentiles"][:40] = json.dumps({"lateral ventricles": 93.0})
    index.columns["percentiles"][40:50] = json.dumps({"lateral ventricles": 12.0})
    large = index.agreeing(Facts(sizes={"lateral ventricles": "enlarged"}))
    assert np.flatnonzero(large).tolist() == list(range(40))
    about = json.loads((tmp_path / "index" / "index.json").read_text())
    assert (about["model"], about["slices"], about["people"]) == (model.name, 144, 6)
    assert about["made_from"]["file"] == "x.parquet" and len(about["made_from"]["sha256"]) == 16
    texts = index.captions(model.embed_text(index.columns["caption"][3])[0].numpy(), 3)
    assert texts[0][1] == index.columns["caption"][3] and texts[0][0] == pytest.approx(1, abs=1e-5)
    sheet = search_sheet(index, "axial T1", hits, index_picture(pairs, index, row))
    assert sheet.size[0] == 5 * 192 and sheet.getextrema() == (0, 255)


def index_picture(pairs: Path, index: Index, row: int) -> np.ndarray:
    from brainclip.picture import read_slice

    return read_slice(pairs / index.columns["file"][row], GEOMETRY.size, GEOMETRY.spacing_mm)


def test_exact_search_is_that_of_all_products_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from brainclip.embedding import index

    monkeypatch.setattr(index, "BLOCK", 7)
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(50, 6)).astype(np.float32)
    queries = generator.normal(size=(3, 6)).astype(np.float32)
    allowed = generator.random(50) < 0.4
    for mask in (None, allowed):
        scores, found = nearest_of(rows, queries, 5, mask)
        products = queries @ rows.T
        if mask is not None:
            products[:, ~mask] = -np.inf
        assert np.array_equal(found, np.argsort(-products, axis=1)[:, :5])
        assert np.allclose(scores, -np.sort(-products, axis=1)[:, :5], atol=1e-5)
    assert nearest_of(rows, queries, 99, allowed)[0].shape == (3, allowed.sum())


def test_faiss_finds_nearly_the_same(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    import faiss

    from brainclip.embedding.index import write_faiss

    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    write_faiss(rows, tmp_path / "faiss.index")
    found = faiss.read_index(str(tmp_path / "faiss.index")).search(rows[:50], 1)[1][:, 0]
    assert (found == np.arange(50)).mean() > 0.95


def test_damaged_foreign_and_absent_files_are_refused(model: BrainCLIP, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(BrainclipError, match="no such file"):
        read_cohort(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BrainclipError, match="not a file of `brainclip embed FOLDER`"):
        read_cohort(tmp_path / "bad.parquet")
    embed_folder(pairs, tmp_path / "x.parquet", model=model, splits=["test"])
    index = Index.build(tmp_path / "x.parquet", tmp_path / "index")
    with pytest.raises(BrainclipError, match="made without captions"):
        index.captions(np.asarray(index.embeddings[0]))
    about = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(about | {"clip": "another"}))
    with pytest.raises(BrainclipError, match="embeddings of two models cannot be compared"):
        Index(tmp_path / "index").check(model)
    (tmp_path / "index" / "index.json").write_text(json.dumps(about | {"slices": 3}))
    with pytest.raises(BrainclipError, match=r"index\.json tells of 3 x"):
        Index(tmp_path / "index")
    (pairs / "test" / "test00" / "000.png").write_bytes(b"no picture")
    with pytest.raises(BrainclipError, match=r"000\.png"):
        embed_folder(pairs, tmp_path / "y.parquet", model=model)


def test_an_index_that_cannot_be_made_again_stays(
    model: BrainCLIP, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_folder(pairs, tmp_path / "x.parquet", model=model, splits=["test"])
    first = Index.build(tmp_path / "x.parquet", tmp_path / "index")
    kept = sorted(path.name for path in (tmp_path / "index").iterdir())

    def full(*_: object) -> None:
        raise OSError("215808 requested and 76768 written")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="requested"):
        Index.build(tmp_path / "x.parquet", tmp_path / "index", model=model)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == kept
    assert np.array_equal(Index(tmp_path / "index").embeddings, first.embeddings)


def test_a_query_is_read_as_a_prompt(model: BrainCLIP) -> None:
    query, facts = query_of(model, "coronal T2, enlarged ventricles")
    assert (facts.plane, facts.modality, facts.sizes) == ("coronal", "T2", {"lateral ventricles": "enlarged"})
    assert query.shape == (model.clip.embedding_width,)
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)


def test_the_command_line_embeds_indexes_searches_and_captions(
    model: BrainCLIP, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--model", str(model.folder)]
    index, picture = str(tmp_path / "index"), str(pairs / "test" / "test00" / "005.png")
    assert cli.main(["index", str(pairs), "--out", index, "--captions", *named]) == 0
    out = str(tmp_path / "hits")
    sized = ["search", "coronal T2, enlarged ventricles", "--index", index, "--out", f"{out}.csv", *named]
    assert cli.main(sized) == 0
    rows = list(csv.DictReader(Path(f"{out}.csv").read_text().splitlines()))
    assert {(row["plane"], row["contrast"]) for row in rows} == {("coronal", "T2")}
    table = pq.read_table(f"{index}/rows.parquet")
    place = table.schema.names.index("contrast")
    renamed = table.set_column(place, "contrast", pa.array(["T2"] * len(table)))
    pq.write_table(renamed, f"{index}/rows.parquet")
    assert cli.main(["search", "coronal FLAIR slice", "--index", index, *named]) == 0
    assert "has no coronal FLAIR slice; these are the nearest of others" in capsys.readouterr().err
    assert cli.main(["index", str(pairs), "--out", index, "--captions", *named]) == 0
    assert cli.main(["search", "coronal T2 slice", "--index", index, "--k", "4", "--strict", *named]) == 0
    for more in (["--out", f"{out}.csv"], ["--out", f"{out}.png"], ["--captions"]):
        assert cli.main(["search", picture, "--index", index, "--k", "4", *more, *named]) == 0
    assert len(Path(f"{out}.csv").read_text().splitlines()) == 5
    assert cli.main(["caption", picture, "--index", index, "--out", f"{out}.json", *named]) == 0
    answers = json.loads(Path(f"{out}.json").read_text())["answers"]
    assert answers[0]["question"] == "plane" and 0 < answers[0]["confidence"] <= 1
    assert cli.main(["caption", picture, *named]) == 0
    inputs = ["axial T1 slice", picture, f"{picture[:-7]}./004.png", "coronal T2 slice", picture]
    assert cli.main(["embed", *inputs, "--out", f"{out}.npz", *named]) == 0
    with np.load(f"{out}.npz") as file:
        assert list(file["inputs"]) == inputs
        assert list(file["kinds"]) == ["text", "image", "image", "text", "image"]
        alone = [model.embed_text(inputs[0]), *(model.embed_image(inputs[k]) for k in (1, 2))]
        assert file["embeddings"][:3] == pytest.approx(np.concatenate(alone), abs=1e-6)
        assert file["embeddings"][4] == pytest.approx(file["embeddings"][1], abs=1e-6)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [
        "index",
        *["search"] * 4,
        *["caption"] * 2,
        "embed",
    ]
    assert "coronal T2" in printed[1]


def test_the_command_line_takes_no_file_or_folder_for_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    Path("slice.jpg").write_bytes(b"a picture")
    for inputs, said in (
        (["slice.jpg"], "unknown kind of file"),
        (["axial T1 slice", "scans"], "a folder; embed it alone"),
        ([""], "empty text"),
    ):
        assert cli.main(["embed", *inputs, "--out", "x.npz"]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["search", "slice.jpg", "--index", "scans"]) == 2
    assert "unknown kind of file" in capsys.readouterr().err
    assert cli.main(["search", "axial T1 slice", "--index", "scans", "--captions", "--out", "x.png"]) == 2
    assert "captions are saved as .csv" in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))
