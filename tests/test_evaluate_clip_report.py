from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_adapt import STAGE
from torch.nn.functional import normalize
from toy_clips import write_clip_model
from toy_pairs import write_toy_pairs
from toys import CLIP, toy_clip

from brainclip.cli import main
from brainclip.clip import Clip
from brainclip.config import Recipe
from brainclip.config_pairs import PairsRecipe
from brainclip.evaluate import space as module
from brainclip.evaluate.clip_report import report_clip
from brainclip.evaluate.space import EVERYDAY, collapse, forgetting, uniformity
from brainclip.train import clip as stage_clip
from brainclip.train.clip import train_clip

SUBJECTS = np.array(["a", "b", "c", "d"] * 10)


def test_uniformity_is_that_of_the_formula_and_lowest_where_points_are_spread() -> None:
    pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # at a squared distance of 2
    assert uniformity(pair, np.array(["a", "b"]))["value"] == pytest.approx(-4, abs=1e-4)
    together = normalize(torch.ones(40, 8) + 1e-4 * torch.randn(40, 8), dim=1)
    apart = normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    first, second = uniformity(together, SUBJECTS), uniformity(apart, SUBJECTS)
    assert first["value"] == pytest.approx(0, abs=1e-3) and second["value"] < -2
    assert second["low"] < second["value"] < second["high"] and (second["n"], second["subjects"]) == (40, 4)


def test_drawing_a_slice_twice_in_the_bootstrap_is_no_pair_of_near_ones() -> None:
    apart = torch.eye(40)  # each pair at the same distance: no draw can differ
    figure = uniformity(apart, SUBJECTS)
    assert figure["low"] == figure["value"] == figure["high"] == pytest.approx(-4, abs=1e-4)


def test_collapsed_embeddings_have_a_higher_rank_score_and_nearer_centres() -> None:
    classes = torch.arange(60) % 3
    generator = torch.Generator().manual_seed(1)
    spread = normalize(torch.eye(12)[classes] + 0.3 * torch.randn(60, 12, generator=generator), dim=1)
    flat = normalize(torch.ones(12) + torch.randn(60, 1, generator=generator) * torch.eye(12)[0] / 9, dim=1)
    good, bad = collapse(spread, classes), collapse(flat, classes)
    assert set(good) == {"effective_rank", "centroid_similarity", "separation"}
    for name, figure in good.items():
        assert figure["value"] < bad[name]["value"] and figure["n"] == 60


def test_everyday_captions_are_sixty_different_ones_and_none_is_medical() -> None:
    texts = EVERYDAY.read_text().splitlines()
    assert len(texts) == len(set(texts)) == 60
    assert all(text and len(text) < 60 and text == text.strip() for text in texts)
    assert not {"brain", "mri", "slice of brain", "axial", "patient"} & set(" ".join(texts).split())


def test_nothing_is_forgotten_by_the_same_clip_and_a_turned_space_keeps_its_shape() -> None:
    clip, turned, other = toy_clip(), toy_clip(), toy_clip(seed=4)
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(2)))[0]
    turned.towers.text_projection.data @= rotation
    same = forgetting(clip, clip)
    assert same["pairwise_correlation"]["value"] == same["cosine_with_itself"]["value"] == 1.0
    moved = forgetting(clip, turned)
    assert moved["pairwise_correlation"]["value"] == pytest.approx(1, abs=1e-4)
    assert moved["cosine_with_itself"]["value"] < 0.5
    assert forgetting(clip, other)["pairwise_correlation"]["value"] < 0.9
    assert moved["cosine_with_itself"]["n"] == 60


def recipe(folder: Path, **changes: object) -> Recipe:
    write_toy_pairs(folder / "pairs" / "toy", subjects=(4, 3, 1))
    stage = replace(STAGE, **changes)  # type: ignore[arg-type]
    return Recipe(folder=str(folder), pairs={"toy": PairsRecipe()}, clip=stage)


def test_report_of_an_adapted_base_says_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_clip, "CORPUS", 20)
    asked = recipe(tmp_path, base=write_clip_model(tmp_path / "base"), locked="text")
    train_clip(asked)
    line = report_clip(asked)
    report = json.loads((tmp_path / "clip" / "report.json").read_text())
    assert report["clip"] == Clip.load(tmp_path / "clip").hash and report["split"] == "validation"
    before, after = report["before"], report["after"]
    assert before["retrieval"].keys() == after["retrieval"].keys() == {"toy"}
    assert {"plane", "modality", "level", "sex", "age_order"} <= after["zero_shot"]["toy"].keys()
    alignment = after["space"]["alignment"]
    assert (alignment["n"], alignment["subjects"]) == (72, 3) and alignment["low"] < alignment["high"]
    assert before["space"]["alignment"] != alignment
    assert before["space"]["uniformity_of_captions"]["value"] == pytest.approx(
        after["space"]["uniformity_of_captions"]["value"], abs=5e-3
    )  # the text tower is locked
    assert report["forgetting"]["pairwise_correlation"]["value"] == pytest.approx(1, abs=2e-3)
    assert str(tmp_path / "clip" / "report.md") in line and "R@10" in line
    page = (tmp_path / "clip" / "report.md").read_text()
    assert "text tower locked" in page and "| alignment | " in page and page.count("| before | after |") == 3
    assert "everyday captions, before and after" in page


def test_before_of_a_mini_from_scratch_is_its_random_towers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage_clip, "CORPUS", 400)
    small = {name: getattr(CLIP, name) for name in ("embedding", "vision_width", "text_width", "head_width")}
    layers = {"vision_layers": 1, "text_layers": 1, "vocabulary": 1500}
    asked = recipe(tmp_path, **small, **layers, rate=0.0)
    train_clip(asked)
    report_clip(asked)
    report = json.loads((tmp_path / "clip" / "report.json").read_text())
    assert report["began_with"] == "random weights" and report["forgetting"] == {}
    for name, figure in report["before"]["space"].items():  # at a rate of 0 only half precision differs
        assert report["after"]["space"][name]["value"] == pytest.approx(figure["value"], abs=5e-3), name
    capsys.readouterr()


def test_alignment_is_the_mean_squared_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy_pairs(tmp_path, subjects=(1, 3, 1))
    data = module.PairDataset([tmp_path], "validation")
    monkeypatch.setattr(module, "embed_texts", lambda clip, texts: torch.eye(4)[torch.arange(len(texts)) % 2])
    monkeypatch.setattr(
        module, "embed_all", lambda clip, data, rows: torch.eye(4)[torch.zeros(len(rows)).long()]
    )
    figures = module.space(toy_clip(), data)
    assert figures["alignment"]["value"] == pytest.approx(1.0)  # half of them at 0, half at 2
    assert figures["collapse_of_slices_effective_rank"]["value"] == 1.0


def test_verb_reports_only_what_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from conftest import ROOT

    command = ["clip", str(ROOT / "recipes" / "tiny.toml"), "--report", "--set", f"folder={tmp_path}"]
    assert main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out == f"clip: would write {tmp_path / 'clip' / 'report.md'}\n"
    assert main(command) == 2
    assert "no such file" in capsys.readouterr().err
