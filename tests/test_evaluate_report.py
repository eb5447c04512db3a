"""A whole evaluation of a toy model: planted pairs, real classes with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_pairs import SIZE, drawn, some_facts
from toy_run import toy_run

from brainclip.data import PairDataset
from brainclip.errors import BrainclipError, WeightsError
from brainclip.evaluate import evaluate
from brainclip.evaluate.adherence import scores
from brainclip.evaluate.embeddings import embeddings
from brainclip.evaluate.judge import Judge, Verdicts
from brainclip.evaluate.pictures import generated, nearest
from brainclip.evaluate.prompts import Asked, prompts
from brainclip.evaluate.wanted import wanted_of
from brainclip.model import load


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def report(recipe: Path) -> dict[str, object]:
    line = evaluate(recipe, prompts=24, timed=False)
    assert line.startswith("evaluate: ") and "24 prompts" in line
    written: dict[str, object] = json.loads((recipe.parent / "evaluate" / "report.json").read_text())
    return written


def test_untrained_model_has_low_adherence_and_the_held_out_slices_high(report: dict) -> None:
    made, true = report["adherence"]["generated"], report["adherence"]["held_out"]
    assert (
        true["plane"]["value"] == 1.0
        and true["contrast"]["value"] >= 0.9
        and true["position"]["value"] >= 0.7
    )
    assert (
        made["plane"]["value"] < 0.8 and made["contrast"]["value"] < 0.8 and made["position"]["value"] < 0.4
    )
    assert made["plane"]["n"] == 24 and made["plane"]["low"] < made["plane"]["value"] < made["plane"]["high"]


def test_every_figure_carries_its_n_and_interval(report: dict) -> None:
    found = []

    def walk(node: object) -> None:
        if isinstance(node, dict) and "value" in node:
            found.append(node)
        elif isinstance(node, dict):
            for child in node.values():
                walk(child)

    walk({key: part for key, part in report.items() if key != "records"})
    assert len(found) > 40
    assert all({"low", "high", "n"} <= set(figure) for figure in found)
    valued = [f for f in found if f["value"] is not None and f["low"] is not None]
    assert [f for f in valued if not f["low"] <= f["value"] <= f["high"]] == []
    assert report["retrieval"]["toy"]["text_to_image_r1"]["chance"] > 0
    assert report["retrieval"]["toy"]["pool"] == 72


def test_sheets_and_table_are_written(recipe: Path, report: dict) -> None:
    folder = recipe.parent / "evaluate"
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 4 * 2 * 128 and sheet.height > 8 * 128
    assert (folder / "misses.png").is_file()
    table = (folder / "report.md").read_text()
    assert "| plane right |" in table and "chance" in table and "another_true_slice" in table
    assert "| texture: features that differ" in table and "by judge" in table and "Note: 24 pictures" in table
    assert "| ridge |" in table and "| prior_nearest_of_8 |" in table and "| samples_of_a_caption |" in table


def test_page_is_one_file_with_every_section_and_its_pictures(recipe: Path, report: dict) -> None:
    page = (recipe.parent / "evaluate" / "report.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    names = (
        "adherence confusion distribution similarity memorisation grey texture clip prior autoencoder times"
    )
    assert reader.sections == [*names.split(), "made_from"]
    assert len(reader.sources) >= 20 and all(source.startswith("data:image/") for source in reader.sources)
    assert "<script" not in page and "http:" not in page and "https:" not in page and "None" not in page
    assert report["judge"]["hash"] in page and report["clip"] in page and "floor" in page


class Reader(HTMLParser):
    """Section ids and sources of images of a page, and the elements that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "section":
            self.sections.append(str(known["id"]))
        if tag == "img":
            assert known["alt"]
            self.sources.append(str(known["src"]))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_untrained_pictures_are_farther_from_the_held_out_slices_than_training_slices_are(
    report: dict,
) -> None:
    for name, dimensions in (("clip", 32), ("judge", 64)):
        found = report["distribution"][name]["groups"]["all"]
        assert found["made"]["n"] == {"real": 60, "made": 24, "dimensions": dimensions}
        assert found["floor"]["n"] == found["made"]["n"]
        assert found["made"]["fid"]["low"] > found["floor"]["fid"]["high"]
        assert found["made"]["kid"]["value"] > 2 * found["floor"]["kid"]["value"]
        assert found["made"]["coverage"]["value"] < found["floor"]["coverage"]["value"] - 0.1
        assert len(found["made"]["warnings"]) == 1
    grey, texture = report["grey"]["all"], report["texture"]["all"]
    assert grey["made"]["wasserstein"]["low"] > grey["floor"]["wasserstein"]["value"]
    assert texture["made"]["different"] > 15 and texture["floor"]["different"] < 5


def test_second_evaluation_reads_what_the_first_made(recipe: Path, report: dict) -> None:
    folder = recipe.parent / "evaluate"
    before = {
        path: path.stat().st_mtime_ns
        for part in ("parts", "pictures", "features")
        for path in (folder / part).iterdir()
    }
    evaluate(recipe, prompts=24, timed=False)
    after = {
        path: path.stat().st_mtime_ns
        for part in ("parts", "pictures", "features")
        for path in (folder / part).iterdir()
    }
    assert before == after and len(before) > 50
    again = json.loads((folder / "report.json").read_text())
    assert all(part["reused"] for part in again["parts"].values())
    assert not any(part["reused"] for part in report["parts"].values())
    assert {n: part["seconds"] for n, part in again["parts"].items()} == {
        n: part["seconds"] for n, part in report["parts"].items()
    }
    told = ("parts", "features")  # what was read and what computed
    assert {k: v for k, v in again.items() if k not in told} == {
        k: v for k, v in report.items() if k not in told
    }


def test_damaged_part_is_named(recipe: Path, report: dict) -> None:
    path = recipe.parent / "evaluate" / "parts" / "retrieval.json"
    kept = path.read_bytes()
    path.write_bytes(kept[:40])
    with pytest.raises(WeightsError, match=r"retrieval\.json: damaged"):
        evaluate(recipe, prompts=24, timed=False)
    path.write_bytes(kept)


def test_picture_does_not_depend_on_what_else_is_generated(recipe: Path, tmp_path: Path) -> None:
    model, texts = load(recipe.parent / "model"), [asked.text for asked in prompts(5)]
    together = generated(model, texts, [0, 1, 0, 1, 0], tmp_path / "a")
    alone = generated(model, texts[2:3], [0], tmp_path / "b")
    # 8-bit pictures: one grey step for sums in another order
    assert torch.allclose(together.images[2], alone.images[0], atol=1.01 / 255)
    assert together.adapters == (None,) * 5


def test_each_prompt_can_have_a_seed_of_its_own(recipe: Path) -> None:
    model, text = load(recipe.parent / "model"), "axial T1 slice, z = 12 mm"
    own = model.generate([text, text], n=2, seed=[4, 9])
    assert [picture.seed for picture in own] == [4, 5, 9, 10]
    alone = model.generate(text, seed=9)[0]
    assert np.allclose(own[2].pixels, alone.pixels, atol=1e-5)
    with pytest.raises(BrainclipError, match="3 seeds for 2 prompts"):
        model.generate([text, text], seed=[1, 2, 3])


def test_perfect_verdicts_score_one_and_a_wrong_plane_misses_the_position() -> None:
    asked = [Asked("", "axial", "T1", 12.0 + k, None, 20 + 9 * k, "female") for k in range(6)]
    verdicts = Verdicts(
        plane=np.array(["axial"] * 6),
        modality=np.array(["T1"] * 6),
        position_mm=np.array([12.0, 13, 14, 15, 16, 40]),
        age=np.array([30.0, 31, 32, 33, 34, 35]),
        female=np.full(6, 0.9),
    )
    figures = scores(verdicts, wanted_of(asked))
    assert figures["plane"]["value"] == figures["contrast"]["value"] == figures["age_order"]["value"] == 1.0
    assert figures["position"]["value"] == pytest.approx(5 / 6, abs=1e-4)
    turned = replace(verdicts, plane=np.array(["coronal"] * 6))
    assert scores(turned, wanted_of(asked))["position"]["value"] == 0.0


def test_sagittal_picture_on_the_other_side_counts_as_near() -> None:
    asked = [Asked("", "sagittal", "T1", -30.0, None, None, None)]
    verdicts = Verdicts(*(np.array([v]) for v in ("sagittal", "T1", 27.0, 40.0, 0.5)))
    assert scores(verdicts, wanted_of(asked))["position"]["value"] == 1.0


def test_nearest_slice_has_plane_and_contrast_and_the_smallest_distance(recipe: Path) -> None:
    data = PairDataset([recipe.parent / "pairs" / "toy"], "test")
    asked = Asked("", "coronal", "PD", 10.0, None, None, None)
    facts = data.pairs[nearest(data, asked, data.folders)].facts
    others = [p.facts for p in data.pairs if (p.facts.plane, p.facts.modality) == ("coronal", "PD")]
    assert (facts.plane, facts.modality) == ("coronal", "PD")
    assert abs(facts.position_mm - 10) == min(abs(other.position_mm - 10) for other in others)


def test_prior_without_training_is_no_better_than_its_baselines(recipe: Path) -> None:
    data, training = (PairDataset([recipe.parent / "pairs" / "toy"], split) for split in ("test", "train"))
    found = embeddings(load(recipe.parent / "model"), data, training, recipe.parent / "embeddings", pairs=40)
    assert (found["pairs"], found["candidates"], found["training_slices"]) == (40, 72, 288)
    cosine = {name: figure["value"] for name, figure in found["cosine"].items()}
    names = ["prior_sample", "prior_nearest_of_8", "prior_mean_of_8", "ridge", "nearest_neighbour"]
    assert list(cosine) == [*names, "text_embedding", "mean_embedding", "another_true_slice"]
    assert cosine["ridge"] > max(cosine["prior_mean_of_8"], cosine["text_embedding"], cosine["prior_sample"])
    assert abs(found["whitened"]["prior_sample"]["value"]) < 0.4 and "mean_embedding" not in found["whitened"]
    assert cosine["another_true_slice"] == found["spread"]["cosine"]["true_slices_of_a_caption"]["value"]
    assert all(figure["n"] == 40 and figure["chance"] > 0 for figure in found["r10"].values())


def test_noise_is_not_judged_as_any_one_thing_by_the_facts_it_lacks(recipe: Path, report: dict) -> None:
    judge = Judge.load(recipe.parent / "judge")
    facts = [f for seed in range(4) for f in some_facts(seed, 50.0, "male")]
    true = judge.verdicts(drawn(facts))
    noise = judge.verdicts(torch.rand(len(facts), 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    wanted = wanted_of(facts, ["one"] * len(facts))
    assert scores(true, wanted)["plane"]["value"] > 0.95 and scores(noise, wanted)["plane"]["value"] < 0.6


def test_dry_run_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    line = evaluate(recipe, out=tmp_path / "none", dry_run=True)
    assert line.startswith("evaluate: would write") and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "message"), [({"split": "train"}, "validation, test"), ({"prompts": 0}, "one is needed")]
)
def test_wrong_options_are_refused(recipe: Path, options: dict, message: str) -> None:
    with pytest.raises(BrainclipError, match=message):
        evaluate(recipe, **options)


def test_untrained_recipe_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such model folder"):
        evaluate(recipe, overrides=[f"folder={tmp_path.as_posix()}"])
