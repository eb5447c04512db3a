"""The graded degradation test: what each grade does to a slice, and what is found of planted features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pairs import SIZE, write_toy_pairs
from toys import smooth_images, toy_clip

from brainclip import cli
from brainclip.data import PairDataset
from brainclip.errors import RecipeError
from brainclip.evaluate.degradation import GRADES, degraded, partner_rows, tried
from brainclip.evaluate.judge import Judge


def test_every_grade_is_farther_from_the_slice_than_the_one_before() -> None:
    images, partners = smooth_images(12), smooth_images(13)[:12]
    for kind, grades in GRADES.items():
        off = [
            float((degraded(kind, grade, images, partners, seed=0) - images).square().mean())
            for grade in grades
        ]
        assert off == sorted(off) and off[0] > 0, kind


def test_what_each_degradation_does() -> None:
    images, partners = smooth_images(12), smooth_images(13)[:12]
    images[:, :, :4] = 0
    noisy = degraded("noise", 0.04, images, partners, seed=0)
    assert bool((noisy[:, :, :4] == 0).all())  # none outside the brain
    middle = (images > 0.2) & (images < 0.8)
    assert float((noisy - images)[middle].std()) == pytest.approx(0.04, rel=0.1)
    mixed = degraded("mixing", 0.3, images, partners, seed=0)
    assert torch.allclose(mixed, 0.7 * images + 0.3 * partners, atol=0.51 / 255)
    halved = degraded("halves", 0.25, images, partners, seed=0)
    changed = [k for k in range(12) if not torch.allclose(halved[k], images[k], atol=0.51 / 255)]
    assert len(changed) == 3
    assert torch.allclose(halved[changed][..., SIZE // 2 :], partners[changed][..., SIZE // 2 :], atol=0.01)
    assert torch.allclose(halved[..., : SIZE // 2], images[..., : SIZE // 2], atol=0.51 / 255)
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    spread = degraded("blur", 1.4, point, point, seed=0)[0, 0]
    assert float(spread[16, 16]) == pytest.approx(1 / (2 * np.pi * 1.4**2), abs=0.003)


def test_partner_is_another_persons_slice_of_the_same_plane_and_contrast_nearby(tmp_path: Path) -> None:
    write_toy_pairs(tmp_path / "pairs")
    data = PairDataset([tmp_path / "pairs"], "test")
    rows = np.arange(0, len(data), 5)
    for i, j in zip(rows, partner_rows(data, rows, np.random.default_rng(0)), strict=True):
        own, other = data.pairs[i], data.pairs[j]
        assert (own.facts.plane, own.facts.modality) == (other.facts.plane, other.facts.modality)
        near = [
            abs(p.facts.position_mm - own.facts.position_mm)
            for p in data.pairs
            if p.subject != own.subject
            and (p.facts.plane, p.facts.modality) == (own.facts.plane, own.facts.modality)
        ]
        assert other.subject != own.subject
        assert abs(other.facts.position_mm - own.facts.position_mm) == min(near)
    write_toy_pairs(tmp_path / "one", subjects=(2, 1, 1))
    alone = PairDataset([tmp_path / "one"], "test")
    with pytest.raises(RecipeError, match="test00 alone has axial T1 slices"):
        partner_rows(alone, np.array([0]), np.random.default_rng(0))


def test_an_extractor_that_sees_quality_is_told_from_one_that_sees_none() -> None:
    generator = np.random.default_rng(0)
    people, others = np.arange(120) // 6, np.arange(90) // 6
    base, clean = generator.normal(size=(120, 4)), generator.normal(size=(90, 4))
    seeing, blind = {"": clean}, {"": clean}
    for kind, grades in GRADES.items():
        for k in range(1, len(grades) + 1):
            seeing[f"{kind} {k}"] = clean + 0.5 * k
            blind[f"{kind} {k}"] = generator.normal(size=(90, 4))
    good, bad = (tried(base, seen, people, others) for seen in (seeing, blind))
    assert good["spearman"] == 1.0 and good["score"] > 0.75
    assert good["paired"] >= good["score"] and bad["paired"] < 0.3
    assert bad["score"] < 0.1 and abs(bad["spearman"]) < 0.6
    row = good["kid"]["noise"]
    assert row["above_floor"] == [value > good["kid"]["floor"]["high"] for value in row["values"]]
    assert row["above_floor"][1:] == [True] * 4 and row["rise"] > 5


def test_the_study_writes_its_tables_and_keeps_its_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy_pairs(tmp_path / "pairs")
    toy_clip().save(tmp_path / "clip")
    torch.manual_seed(0)
    Judge(8, SIZE).save(tmp_path / "judge")
    recipe = tmp_path / "d.toml"
    recipe.write_text(
        f'folder = "{tmp_path}/out"\npairs = ["{tmp_path}/pairs"]\nslices = 40\n'
        f'clip = "{tmp_path}/clip"\njudge = "{tmp_path}/judge"\n'
    )
    assert cli.main(["degradation", str(recipe), "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert cli.main(["degradation", str(recipe)]) == 0
    table = json.loads((tmp_path / "out" / "degradation.json").read_text())
    found = table["extractors"]
    assert sorted(found) == ["clip", "judge"] and (table["slices"], table["people"]) == (40, 3)
    names = sorted(found, key=lambda name: [found[name][key] for key in ("score", "paired", "spearman")])
    assert list(found) == names[::-1]
    # blur of two pixels takes the drawn lines of a toy slice away, which any network sees
    assert found["judge"]["fid"]["blur"]["values"][-1] > found["judge"]["fid"]["floor"]["value"]
    text = (tmp_path / "out" / "degradation.md").read_text()
    assert text.count("| halves |") == 4 and "**" in text and table["extractors"]["clip"]["hash"] in text
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").iterdir()}
    assert len(kept) == 2 * 22
    assert cli.main(["degradation", str(recipe)]) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").iterdir()}
    assert "grades beyond the floor" in capsys.readouterr().out
    assert cli.main(["degradation", str(recipe), "--set", "slices=4"]) == 2
    assert "needs 8 at least" in capsys.readouterr().err
