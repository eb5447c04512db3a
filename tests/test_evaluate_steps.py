"""Sampler steps: times and distances at toy size, going on, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image
from toy_pairs import SIZE
from toy_run import toy_run

from brainclip import cli
from brainclip.config import read_recipe
from brainclip.errors import RecipeError
from brainclip.evaluate.judge import Judge
from brainclip.evaluate.steps import ChainRecipe, StepsRecipe, _line, check_steps
from brainclip.pixel import PixelDiffusion

STUDY = """
folder = "{folder}/out"
pairs = ["{folder}/run/pairs/toy"]
pictures = 12
repeats = 2
size = 32
clip = "{folder}/run/clip"
judge = "{folder}/judge"
[chain.uvit]
pixel = "{folder}/pixel"
steps = [2, 4, 8]
judged = [2, 8]
[chain.unet]
untrained = "unet-tiny"
steps = [1, 3]
[chain.latent]
model = "{folder}/run/model"
steps = [2]
judged = [2]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    toy_run(folder / "run")
    torch.manual_seed(0)
    PixelDiffusion.new("uvit-tiny", SIZE).save(folder / "pixel")
    Judge(8, SIZE).save(folder / "judge")
    path = folder / "steps.toml"
    path.write_text(STUDY.format(folder=folder.as_posix()))
    assert cli.main(["steps", str(path)]) == 0
    return path


def test_every_chain_has_its_times_and_what_is_judged_its_distances(study: Path) -> None:
    out = study.parent / "out"
    report = json.loads((out / "report.json").read_text())
    assert list(report["chains"]) == ["uvit", "unet", "latent"]
    uvit, unet, latent = report["chains"].values()
    assert list(uvit["seconds"]) == ["2", "4", "8"] and list(uvit["judged"]) == ["2", "8"]
    assert uvit["per_step_ms"] > 0 and unet["weights"] == "random 32" and not unet["judged"]
    assert latent["r"] is None  # one number of steps
    for row in (report["floor"], *uvit["judged"].values(), *latent["judged"].values()):
        assert [name.split()[0] for name in row] == ["clip", "judge"]
        assert all(figures["fid"]["n"] == 12 for figures in row.values())
    by_judge = next(name for name in report["floor"] if name.startswith("judge"))
    # noise from random weights is farther from slices than other slices are
    assert uvit["judged"]["8"][by_judge]["kid"]["value"] > report["floor"][by_judge]["kid"]["value"]
    assert len(list((out / "pictures" / "uvit-8").glob("*.png"))) == 12
    with Image.open(out / "pictures" / "latent-2" / "0003.png") as image:
        assert image.info["synthetic"] == "true" and image.size == (SIZE, SIZE)
    text = (out / "report.md").read_text()
    assert "| uvit | 8 |" in text and "unet-small 12.39" in text and "## KID, 12 pictures each" in text


def test_a_second_call_draws_nothing_and_other_weights_are_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = study.parent / "out"
    made = {path: path.stat().st_mtime_ns for path in out.rglob("pictures/*/*.png")}
    times = (out / "uvit.json").read_text()
    assert cli.main(["steps", str(study)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("pictures/*/*.png")} == made
    assert (out / "uvit.json").read_text() == times
    capsys.readouterr()
    assert cli.main(["steps", str(study), "--set", "repeats=3"]) == 2
    assert "made by another recipe or other weights" in capsys.readouterr().err


def test_time_is_a_line_over_steps() -> None:
    seconds = {str(steps): {"processor": [0.2 + 0.005 * steps, 0, 0]} for steps in (10, 50, 1000)}
    assert _line(seconds) == {"per_step_ms": 5.0, "start_ms": 200.0, "r": 1.0}


@pytest.mark.parametrize(
    ("chain", "sentence"),
    [
        (ChainRecipe(), "give one of model, pixel and untrained"),
        (ChainRecipe(model="mini", pixel="x"), "give one of model, pixel and untrained"),
        (ChainRecipe(untrained="vit"), "chain.x.untrained = 'vit'; possible: unet-small"),
        (ChainRecipe(untrained="uvit-tiny", judged=(10,)), "random weights are not judged"),
        (ChainRecipe(model="mini", judged=(11,)), "judged are among them"),
        (ChainRecipe(model="mini", judged=(10,)), "judged against pairs by a clip and a judge"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(chain: ChainRecipe, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        check_steps(StepsRecipe(chain={"x": chain}))


def test_the_recipe_in_the_repository_is_whole() -> None:
    recipe = read_recipe(StepsRecipe, ROOT / "recipes" / "steps.toml")
    check_steps(recipe)
    assert all(chain.steps[0] == 10 and chain.steps[-1] == 1000 for chain in recipe.chain.values())
    with pytest.raises(RecipeError, match="FID and KID need 8"):
        check_steps(replace(recipe, pictures=7))
