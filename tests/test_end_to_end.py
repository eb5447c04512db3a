"""The tiny recipe, from a simulated cohort to a picture, with the real command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import brainclip
from atlas.prompt import read_prompt
from brainclip.cli import main
from brainclip.errors import BrainclipError, PromptError, RecipeError, WeightsError
from brainclip.model import load
from brainclip.train import run_stage
from brainclip.weights import read_weights

TINY = Path(__file__).parent.parent / "recipes" / "tiny.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for stage in ("pairs", "clip", "vae", "prior", "decoder"):
        run_stage(stage, TINY, overrides=[f"folder={folder}"])
    run_stage("decoder", TINY, overrides=[f"folder={folder}"], adapter="small")
    return folder


def test_every_stage_wrote_its_folder(folder: Path) -> None:
    for stage in ("clip", "vae", "prior", "decoder", "decoder/adapters/small"):
        run = json.loads((folder / stage / "run.json").read_text())
        lines = (folder / stage / "log.jsonl").read_text().splitlines()
        assert run["recipe"]["steps"] == len(lines)
        assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)
    assert list((folder / "decoder" / "samples").glob("*.png"))


def test_prompt_becomes_a_picture_with_the_models_own_size(folder: Path) -> None:
    model = load(folder / "model")
    pictures = model.generate(["axial T1 slice, z = 12 mm", "coronal T2 slice"], n=2, seed=5)
    assert [picture.seed for picture in pictures] == [5, 6, 5, 6]
    assert all(picture.pixels.shape == (32, 32) for picture in pictures)
    assert (pictures[0].plane, pictures[0].position_mm, pictures[0].position_asked) == ("axial", 12.0, True)
    assert pictures[2].plane == "coronal" and not pictures[2].position_asked


def test_same_seed_gives_the_same_picture_whatever_the_batch(folder: Path) -> None:
    model = load(folder / "model")
    many = model.generate("axial T1 slice", n=3, seed=1)
    one = model.generate("axial T1 slice", n=1, seed=2)
    assert np.allclose(many[1].pixels, one[0].pixels, atol=1e-5)
    assert not np.allclose(many[0].pixels, many[1].pixels, atol=1e-5)


def test_more_candidates_bring_the_embedding_nearer_to_the_caption(folder: Path) -> None:
    model, asked = load(folder / "model"), {"n": 4, "seed": 1}
    default, one, five = (
        model.generate("axial T1 slice", candidates=candidates, **asked) for candidates in (None, 1, 5)
    )
    for first, second in zip(default, one, strict=True):
        assert np.array_equal(first.pixels, second.pixels)
    cosines = [
        [float(model.embed_text(p.settings["caption"])[0] @ torch.from_numpy(p.embedding)) for p in pictures]
        for pictures in (one, five)
    ]
    assert np.all(np.array(cosines[1]) >= np.array(cosines[0]) - 1e-5) and cosines[1] != cosines[0]
    assert five[0].settings["candidates"] == 5
    with pytest.raises(BrainclipError, match="candidates = 0"):
        model.generate("axial T1 slice", candidates=0)


def test_free_words_are_said_again_as_a_training_caption(folder: Path) -> None:
    picture = load(folder / "model").generate(
        "how does the brain look near z = 12 mm on transverse T1w?", seed=3
    )[0]
    asked = read_prompt(picture.settings["caption"])
    assert (asked.facts.plane, asked.facts.modality, asked.facts.position_mm) == ("axial", "T1", 12.0)
    without_plane = load(folder / "model").generate("T1 of a healthy woman")[0]
    assert without_plane.settings["caption"] == "T1 of a healthy woman"


def test_word_outside_the_training_captions_is_named(folder: Path) -> None:
    warnings = load(folder / "model").generate("axial T1 slice with glioblastoma")[0].warnings
    assert "'glioblastoma' is not in this model's training captions" in warnings


def test_contrast_that_was_not_trained_is_named(folder: Path) -> None:
    warnings = load(folder / "model").generate("axial FLAIR slice")[0].warnings
    assert "this model was not trained on FLAIR slices" in warnings


def test_embeddings_are_of_unit_length_and_a_picture_file_embeds_as_its_pixels(
    folder: Path, tmp_path: Path
) -> None:
    model = load(folder / "model")
    text = model.embed_text(["axial T1 slice", "coronal T2 slice"])
    assert torch.allclose(text.norm(dim=1), torch.ones(2), atol=1e-6)
    picture = model.generate("axial T1 slice, z = 12 mm")[0]
    files = [
        picture.save(tmp_path / "x.png"),
        picture.save(tmp_path / "x.nii.gz"),
        np.asarray(picture.pixels),
    ]
    image = model.embed_image(files)
    assert torch.allclose(image.norm(dim=1), torch.ones(3), atol=1e-6)
    assert torch.allclose(image[1], image[2], atol=1e-5)
    assert torch.allclose(image[0], image[2], atol=1e-2)  # a PNG has 8 bits


def test_adapter_by_name_changes_the_picture(folder: Path) -> None:
    model = load(folder / "model")
    assert model.adapters == ("small",)
    base = model.generate("axial T1 slice", adapter=None)[0]
    adapted = model.generate("axial T1 slice", adapter="small")[0]
    assert not np.array_equal(base.pixels, adapted.pixels)
    with pytest.raises(WeightsError, match="no adapter 'oasis'"):
        model.generate("axial T1 slice", adapter="oasis")


def test_finished_stage_run_again_changes_nothing(folder: Path) -> None:
    path = folder / "clip" / "open_clip_model.safetensors"
    before = path.read_bytes()
    run_stage("clip", TINY, overrides=[f"folder={folder}"])
    assert path.read_bytes() == before


def test_stopped_decoder_resumes_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("decoder", "model"))
    overrides = [f"folder={tmp_path / 'copy'}"]
    run_stage("decoder", TINY, overrides=[*overrides, "decoder.steps=7"])
    run_stage("decoder", TINY, overrides=overrides)
    for part in ("unet", "expected"):
        name = f"decoder/{part}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("prompt", ["", "   "])
def test_empty_prompt_is_refused(folder: Path, prompt: str) -> None:
    with pytest.raises(PromptError):
        load(folder / "model").generate(prompt)
    with pytest.raises(PromptError):
        load(folder / "model").embed_text([prompt])


def test_image_of_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(BrainclipError, match=r"this model takes 32 x 32 at 6\.0 mm"):
        load(folder / "model").embed_image(np.zeros((40, 32), dtype=np.float32))


def test_command_line_writes_png_and_nifti(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(folder / "model")
    assert main(["generate", "axial T1 slice", "--model", model, "--out", str(tmp_path / "a.png")]) == 0
    assert (
        main(
            ["generate", "axial T1 slice", "--model", model, "--out", str(tmp_path / "a.nii.gz"), "--n", "2"]
        )
        == 0
    )
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (32, 32)
    assert len(list(tmp_path.glob("a-*.nii.gz"))) == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    "part", ["clip/open_clip_model.safetensors", "prior/config.json", "decoder/unet/config.json"]
)
def test_model_with_a_missing_file_is_refused_with_its_name(folder: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    (tmp_path / "model" / part).unlink()
    with pytest.raises(WeightsError, match=Path(part).name):
        load(tmp_path / "model").generate("axial T1 slice")


def test_public_names_are_these() -> None:
    assert "generate" in dir(brainclip) and "load" in dir(brainclip)


def test_stages_go_on_from_finished_ones_and_say_so(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(
        folder, tmp_path / "next", ignore=shutil.ignore_patterns("clip", "prior", "decoder", "model")
    )
    overrides = [f"folder={tmp_path / 'next'}", "clip.alike=1.0", "clip.batch=16", "clip.age=1.0"]
    overrides += [f"{stage}.start={folder / stage}" for stage in ("clip", "prior", "decoder")]
    overrides += [f"{stage}.rate=0.0" for stage in ("clip", "prior", "decoder")]
    for stage in ("clip", "prior", "decoder"):
        run_stage(stage, TINY, overrides=overrides)
        assert len(json.loads((tmp_path / "next" / stage / "run.json").read_text())["inputs"]["start"]) == 16
    log = (tmp_path / "next" / "clip" / "log.jsonl").read_text().splitlines()
    assert np.isfinite(json.loads(log[0])["age_of_image"])
    before = load(folder / "model").generate("axial T1 slice", seed=1, adapter=None)[0]
    after = load(tmp_path / "next" / "model").generate("axial T1 slice", seed=1, adapter=None)[0]
    assert np.allclose(before.pixels, after.pixels, atol=0.02)  # at a rate of 0 only half precision differs


def test_start_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "next", ignore=shutil.ignore_patterns("decoder", "model"))
    overrides = [f"folder={tmp_path / 'next'}", f"decoder.start={folder / 'decoder'}"]
    with pytest.raises(WeightsError, match="its unet is of another shape"):
        run_stage("decoder", TINY, overrides=[*overrides, "decoder.channels=[16, 48]"])


@pytest.mark.parametrize("locked", ["image", "text"])
def test_locked_tower_keeps_its_weights_and_the_other_learns(
    folder: Path, tmp_path: Path, locked: str
) -> None:
    shutil.copytree(folder / "pairs", tmp_path / "next" / "pairs")
    overrides = [f"folder={tmp_path / 'next'}", f"clip.locked={locked}", "clip.steps=3"]
    with pytest.raises(RecipeError, match="a tower of the folder"):
        run_stage("clip", TINY, overrides=overrides)
    run_stage("clip", TINY, overrides=[*overrides, f"clip.start={folder / 'clip'}"])
    name = "open_clip_model.safetensors"
    before, after = read_weights(folder / "clip" / name), read_weights(tmp_path / "next" / "clip" / name)
    same = {key for key in before if torch.equal(before[key], after[key])}
    visual = {key for key in before if key.startswith("visual.")}
    kept, learnt = (visual, set(before) - visual) if locked == "image" else (set(before) - visual, visual)
    assert kept - {"logit_scale"} <= same
    assert len(learnt - same) > len(learnt) / 2
    whitening = [
        read_weights(root / "clip" / "whitening.safetensors")["std"] for root in (folder, tmp_path / "next")
    ]
    assert torch.equal(*whitening) == (locked == "image")
