"""An ablation at toy size: runs beside each other, figures, and going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from toy_run import toy_run

from brainclip import cli
from brainclip.config import load_recipe, read_recipe
from brainclip.data import PairDataset
from brainclip.errors import RecipeError
from brainclip.evaluate.ablation import (
    ADHERED,
    APART,
    REAL,
    AblationRecipe,
    Variant,
    check_ablation,
    figures,
    nearest_places,
    run_ablation,
)
from brainclip.evaluate.judge import Judge, train_judge
from brainclip.evaluate.prompts import prompts
from brainclip.weights import hash_file

STUDY = """
folder = "{out}"
recipe = "{recipe}"
parent = "{parent}"
real = "toy"
split = "validation"
seeds = [0, 1]
prompts = 16
modalities = ["T1", "T2"]
common = ["decoder.steps=2", "decoder.batch=4", "decoder.warmup=1", "decoder.device=cpu"]
[variant.flow]
[variant.epsilon]
set = ["decoder.objective=epsilon"]
[variant.ridge]
embedding = "ridge"
[variant.mean]
embedding = "mean_embedding"
"""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = toy_run(tmp_path_factory.mktemp("toy"))
    train_judge(load_recipe(recipe, ["judge.steps=60", "judge.decay=20"]))
    return recipe


@pytest.fixture(scope="module")
def study(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    path = folder / "ablation.toml"
    path.write_text(STUDY.format(out=folder / "out", recipe=parent, parent=parent.parent))
    assert cli.main(["ablation", str(path)]) == 0
    return path


def test_every_variant_has_a_figure_for_each_seed_and_runs_differ(study: Path, parent: Path) -> None:
    out = study.parent / "out"
    report = json.loads((out / "report.json").read_text())
    assert list(report) == ["flow", "epsilon", "ridge", "mean", REAL]
    for name, found in report.items():
        assert set(found) == {*ADHERED, *APART}
        assert {len(values) for values in found.values()} == {1 if name == REAL else 2}
    weights = {
        hash_file(out / run / "decoder" / "unet" / "diffusion_pytorch_model.safetensors")
        for run in ("flow-0", "flow-1", "epsilon-0", "epsilon-1")
    }
    assert len(weights) == 4
    assert not (out / "ridge-0" / "decoder").exists()  # the parent's model draws it
    assert (out / "flow-0" / "pairs").is_symlink()
    assert not np.array_equal(np.load(out / "ridge-0/pictures.npy"), np.load(out / "mean-0/pictures.npy"))
    assert not np.array_equal(np.load(out / "mean-0/pictures.npy"), np.load(out / "mean-1/pictures.npy"))
    text = (out / "report.md").read_text()
    assert text.count("| ridge |") == text.count(f"| {REAL} |") == 1
    assert "16 prompts (T1, T2)" in text


def test_a_second_call_makes_nothing_anew_and_another_recipe_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = study.parent / "out"
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    report = (out / "report.json").read_text()
    assert cli.main(["ablation", str(study)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")} == made
    assert (out / "report.json").read_text() == report
    assert cli.main(["ablation", str(study), "--set", "prompts=12"]) == 2
    assert "made with another recipe" in capsys.readouterr().err


def test_an_unknown_embedding_is_refused_before_any_training(tmp_path: Path) -> None:
    wrong = AblationRecipe(folder=str(tmp_path / "out"), variant={"x": Variant(embedding="truth")})
    with pytest.raises(RecipeError, match="variant 'x': embedding = 'truth' stands alone and is one of"):
        run_ablation(wrong)
    with pytest.raises(RecipeError, match=r"an ablation needs a \[variant.<name>\], seeds"):
        check_ablation(AblationRecipe())
    tiny = AblationRecipe(
        recipe=str(ROOT / "recipes/tiny.toml"), variant={"x": Variant(set=("decoder.objective=eps",))}
    )
    with pytest.raises(RecipeError, match=r"decoder\.objective = 'eps': possible are flow"):
        check_ablation(tiny)
    assert not (tmp_path / "out").exists()


def test_slices_themselves_are_nearer_than_noise(parent: Path) -> None:
    data = PairDataset([parent.parent / "pairs" / "toy"], "validation")
    asked = prompts(12, modalities=["T1", "T2"])
    judge = Judge.load(parent.parent / "judge")
    rows = nearest_places(data, asked, each=1)
    assert len(rows) > 3
    for row in asked:
        places = nearest_places(data, [row], each=2)
        assert {data.pairs[k].facts.plane for k in places} <= {row.plane}
        assert len({data.pairs[k].subject for k in places}) == len(places)
    images = data.images([nearest_places(data, [row], each=1)[0] for row in asked])
    near = figures(judge, images, asked, data)
    far = figures(judge, torch.rand_like(images), asked, data)
    assert near["plane"] > far["plane"]
    assert near["fid"] < far["fid"]
    assert near["kid"] < far["kid"]


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("sizes", ("slices-005-epochs-020", "slices-010-epochs-100")),
        ("optimizers", ("adamw", "adamw-pyramid", "adafactor", "prodigy", "dadaptation")),
    ],
)
def test_the_studies_of_sizes_and_optimizers_run_at_toy_size(
    name: str, variants: tuple[str, ...], parent: Path, tmp_path: Path
) -> None:
    for package in {"prodigy", "dadaptation"} & set(variants):
        pytest.importorskip({"prodigy": "prodigyopt"}.get(package, package))
    written = read_recipe(AblationRecipe, ROOT / "recipes" / f"{name}.toml")
    assert set(variants) < set(written.variant)
    chosen = {
        key: replace(written.variant[key], set=tuple(x for x in written.variant[key].set if "steps" not in x))
        for key in variants
    }
    toy = ["adapter.ixi.mix={toy=1.0}", "adapter.ixi.device=cpu", "adapter.ixi.steps=3", "adapter.ixi.rank=2"]
    where = {"folder": str(tmp_path / "out"), "recipe": str(parent), "parent": str(parent.parent)}
    recipe = replace(
        written, **where, real="toy", prompts=8, seeds=(0,), common=(*written.common, *toy), variant=chosen
    )
    report = run_ablation(recipe)
    assert list(report) == [*variants, REAL]
    for variant in variants:
        run = json.loads((tmp_path / f"out/{variant}-0/decoder/adapters/ixi/run.json").read_text())
        number = {"slices-005-epochs-020": 5, "slices-010-epochs-100": 10}.get(variant, 30)
        assert run["recipe"]["slices"] == number and run["inputs"]["pairs"] == f"toy0@{number}"


def test_the_longest_run_of_each_size_has_a_hundred_epochs() -> None:
    written = read_recipe(AblationRecipe, ROOT / "recipes" / "sizes.toml")
    for name, variant in written.variant.items():
        _, slices, _, epochs = name.split("-")
        numbers = dict(change.removeprefix("adapter.ixi.").split("=") for change in variant.set)
        assert int(numbers["slices"]) == int(slices)
        assert int(numbers["steps"]) * 2 == int(slices) * int(epochs)
