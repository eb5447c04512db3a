"""Steps of an adaptation: its gradients, a run stopped within one, two processes against one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from test_train_adapt import STAGE, trained
from test_train_processes import SETTINGS, launched
from toy_clips import WRITERS, write_open_clip
from toy_pairs import write_toy_pairs
from toys import TEXTS, smooth_images

from brainclip.clip import Clip
from brainclip.config import Recipe, load_recipe
from brainclip.config_pairs import PairsRecipe
from brainclip.towers.bases import open_base
from brainclip.towers.open_clip import OpenClip
from brainclip.train import adapt
from brainclip.train import clip as stage_clip
from brainclip.train.age import AgeReading
from brainclip.train.checks import CLIP_WAYS
from brainclip.train.clip import ClipObjective, train_clip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("bases")
    return {name: write(root / name) for name, write in WRITERS.items()}


def gradients(base: str, way: str, piece: int) -> dict[str, torch.Tensor | None]:
    """Of what is trained, by a batch of three; without dropout, which pieces draw in another order."""
    torch.manual_seed(0)
    clip = Clip(*open_base(base))
    adapt.choose(clip, replace(STAGE, base=base, train=way))
    objective = ClipObjective(clip, AgeReading(clip), piece=piece).eval()
    unknown = torch.full((3,), float("nan"))
    objective(smooth_images(3), clip.tokenize(TEXTS), torch.eye(3) > 0, unknown, unknown)[0].backward()
    return {name: p.grad for name, p in objective.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("way", CLIP_WAYS)
@pytest.mark.parametrize("layout", WRITERS)
def test_all_that_is_trained_has_a_gradient_and_in_pieces_the_same(
    layout: str, way: str, bases: dict[str, str]
) -> None:
    whole, pieces = (gradients(bases[layout], way, piece) for piece in (0, 2))
    assert whole.keys() == pieces.keys() and len(whole) > 1
    for name, gradient in whole.items():
        assert gradient is not None and pieces[name] is not None, name  # two processes would wait for it
        near = 1e-4 * float(gradient.abs().max()) + 1e-7  # float32, summed in another order
        assert torch.allclose(gradient, pieces[name], rtol=0, atol=near), name


def write_resnet(folder: Path) -> str:
    """A CLIP with an image tower of batch norms."""
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16, "patch_size": None}
    return write_open_clip(folder, vision_cfg=vision)


def test_batch_norms_of_a_resnet_keep_their_statistics_and_take_pieces_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 steps, so that trial passes come first; pieces of one row, which a batch's own norm refuses."""
    monkeypatch.setattr(stage_clip, "CORPUS", 20)
    base = write_resnet(tmp_path / "resnet")
    stage = replace(STAGE, base=base, steps=60, rate=1e-4, batch=3)
    runs = {}
    for piece in (0, 1):
        recipe = Recipe(folder=str(tmp_path / str(piece)), pairs={"toy": PairsRecipe()}, clip=stage)
        write_toy_pairs(recipe.pairs_folder("toy"), subjects=(3, 2, 1))
        runs[piece] = trained(replace(recipe, clip=replace(stage, piece=piece))).towers
        assert (tmp_path / str(piece) / "clip" / "estimate.json").is_file()
    whole, pieces = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "clip/log.jsonl").read_text().splitlines()]
        for name in "01"
    )
    assert whole == pytest.approx(pieces, rel=2e-3)  # float32, summed in another order, over 60 steps
    before = open_base(base)[1].state_dict()
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert len(statistics) == 3 * 19
    for name in statistics:
        for towers in runs.values():
            assert torch.equal(towers.state_dict()[name], before[name]), name
    assert not torch.equal(runs[0].visual.bn1.weight, before["visual.bn1.weight"])  # its own weights learn


def test_lora_run_stopped_within_the_pieces_of_a_batch_resumes_to_the_same_weights(
    bases: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_clip, "CORPUS", 20)
    stage = replace(STAGE, base=bases["biomed"], train="lora", steps=3, piece=2, save_every=1)
    straight, stopped = (
        Recipe(folder=str(tmp_path / name), pairs={"toy": PairsRecipe()}, clip=stage) for name in "ab"
    )
    for recipe in (straight, stopped):
        write_toy_pairs(recipe.pairs_folder("toy"), subjects=(3, 2, 1))
    with monkeypatch.context() as patch:
        # of the third step three pieces are embedded, and the second is on its way back
        patch.setattr(OpenClip, "encode_image", interrupted(OpenClip.encode_image, at=2 * 6 + 5))
        with pytest.raises(KeyboardInterrupt):
            train_clip(stopped)
    run = tmp_path / "b" / "clip"
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 2 and not (run / "adapter").exists()
    assert trained(straight).hash == trained(stopped).hash


def interrupted(encode: Any, *, at: int) -> Any:
    """`encode`, stopped as by Ctrl-C when it is called for this time."""
    calls = []

    def encode_or_stop(*given: Any) -> Any:
        calls.append(0)
        if len(calls) == at:
            raise KeyboardInterrupt
        return encode(*given)

    return encode_or_stop


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "clip" / "log.jsonl").read_text().splitlines()]


def test_two_processes_adapt_as_one_and_one_goes_on(
    bases: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (f"clip.base={bases['clip_model']}", "clip.train=lora", "clip.rank=3", "clip.rate=1e-2")
    one, two = tmp_path / "one", tmp_path / "two"
    done = launched(two, 2, "clip", *given, "clip.steps=6")
    assert done.returncode == 0, done.stderr
    write_toy_pairs(one / "pairs" / "simulated")
    monkeypatch.setattr(stage_clip, "CORPUS", 20)
    for folder in (one, two):
        settings = [f"folder={folder}", *SETTINGS, *given]
        train_clip(load_recipe(ROOT / "recipes" / "tiny.toml", settings))
    straight, shared = logged(one), logged(two)
    assert len(straight) == len(shared) == 12
    for ours, theirs in zip(shared, straight, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-4)
        # a factor of the gradient, which AdamW hides
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=2e-3)
    first, second = (Clip.load(folder / "clip").towers.state_dict() for folder in (one, two))
    for name, weight in first.items():
        assert torch.allclose(weight.float(), second[name].float(), atol=2e-3), name  # of half precision
