"""Training the brain extraction at toy size: heads, random examples, exact resume, Dice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel import Nifti1Image

from atlas.sources import Scan
from atlas.strip import WEIGHTS as BUNDLED
from atlas.strip_network import load_network
from atlas.volume import save_volume
from brainclip import cli
from brainclip.config import read_recipe
from brainclip.errors import RecipeError
from brainclip.evaluate.strip import measure_strip
from brainclip.train.heads import Head, label_map_head, scan_head
from brainclip.train.heads_random import draw_example, eroded, paint, rotation, thick
from brainclip.train.strip import WEIGHTS, StripRecipe, dice, draw_batch, load_heads, train_strip
from brainclip.weights import read_weights

RECIPES = Path(__file__).parent.parent / "recipes"
SHAPE = (30, 34, 28)


def ellipsoid(radii_mm: tuple[float, float, float], affine: np.ndarray) -> np.ndarray:
    """Inside an ellipsoid about the world's origin."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    places = grid @ affine[:3, :3].T + affine[:3, 3]
    return ((places / np.array(radii_mm)) ** 2).sum(-1) < 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans at 4 mm with masks, BIDS; three label maps at 4 mm; their splits."""
    folder = tmp_path_factory.mktemp("heads")
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-2.0 * (n - 1) for n in SHAPE]
    splits = {"sub-1": "train", "sub-2": "train", "sub-3": "validation", "sub-4": "test"}
    for k, name in enumerate(splits):
        head, brain = ellipsoid((54, 62 - k, 50), affine), ellipsoid((40, 50 - k, 38), affine)
        noise = np.random.default_rng(k).random(SHAPE)
        values = (300 * head - 200 * brain + 20 * noise).astype(np.float32)
        save_volume(Nifti1Image(values, affine), folder / "scans" / name / "anat" / f"{name}_T1w.nii.gz")
        mask = Nifti1Image(brain.astype(np.int32), affine)
        save_volume(mask, folder / "masks" / f"{name}_T1w_mask.nii.gz")
    table = "participant_id\n" + "".join(f"{name}\n" for name in splits)
    (folder / "scans" / "participants.tsv").write_text(table)
    (folder / "splits.json").write_text(json.dumps(splits))
    for k in range(3):
        save_volume(label_map(affine, k), folder / "maps" / f"map_{k}.nii.gz")
    return folder


def label_map(affine: np.ndarray, k: int = 0) -> Nifti1Image:
    """Skin 507, skull 511, cortex 3 and 42, cerebellum 8 below, a sinus 515 in the midline, cord 24."""
    z = (np.arange(SHAPE[2]) * affine[2, 2] + affine[2, 3])[None, None, :]
    x = (np.arange(SHAPE[0]) * affine[0, 0] + affine[0, 3])[:, None, None]
    ids = np.where(ellipsoid((54, 62, 50), affine), 507, 0)
    ids[ellipsoid((46, 55, 43), affine)] = 511
    brain = ellipsoid((40, 50 - k, 38), affine)
    ids[brain] = np.where(x < 0, 3, 42)[brain.nonzero()[0], 0, 0]
    ids[brain & (z < -10)] = 8
    ids[brain & (abs(x) < 3) & (z > 20)] = 515
    cord = (abs(x) < 5) & (z < -38) & ellipsoid((10, 10, 60), affine)
    ids[cord] = 24
    return Nifti1Image(ids.astype(np.int32), affine)


@pytest.fixture
def recipe(folder: Path, tmp_path: Path) -> StripRecipe:
    return StripRecipe(
        folder=str(tmp_path / "run"),
        source="bids",
        input=str(folder / "scans"),
        masks=str(folder / "masks"),
        splits=str(folder / "splits.json"),
        anatomies=str(folder / "maps"),
        held_out_maps=1,
        shape=(64, 40, 36),
        widths=(8, 4, 4, 4, 4),
        steps=6,
        batch=2,
        rate=0.01,
        warmup=2,
        save_every=2,
        device="cpu",
    )


def test_stopped_and_resumed_equals_straight_bit_for_bit(recipe: StripRecipe, tmp_path: Path) -> None:
    straight, resumed = (
        replace(recipe, folder=str(tmp_path / "a")),
        replace(recipe, folder=str(tmp_path / "b")),
    )
    train_strip(straight)
    train_strip(replace(resumed, steps=3))
    train_strip(resumed)
    first, second = (read_weights(Path(run.folder) / WEIGHTS) for run in (straight, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert load_network(Path(straight.folder) / WEIGHTS).widths == (8, 4, 4, 4, 4)


def test_training_finds_the_bright_skull_and_is_measured_on_held_out_scans(
    recipe: StripRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(recipe, steps=40, sample_every=20, mix={"scans": 1.0}, rate=0.02)
    numbers = train_strip(recipe)
    run = Path(recipe.folder)
    log = [json.loads(line)["dice"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert np.mean(log[-5:]) > np.mean(log[:5]) + 0.1
    validation = json.loads((run / "validation_000040.json").read_text())
    assert validation["scans"]["n"] == 1
    assert numbers["loss"] < 1.5


def test_a_split_is_measured_on_its_own_grid(
    recipe: StripRecipe, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    train_strip(replace(recipe, steps=1))
    found = Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4))

    def brain_mask(volume: Nifti1Image, *, weights: Path) -> Nifti1Image:
        assert weights == Path(recipe.folder) / WEIGHTS
        inside = ellipsoid((40, 50 - 3, 38), volume.affine)
        inside[15:] = False  # half of it
        return Nifti1Image(inside.astype(np.uint8), volume.affine)

    monkeypatch.setattr("brainclip.evaluate.strip.brain_mask", brain_mask)
    numbers = measure_strip(recipe, "test")
    assert found.shape == SHAPE
    assert numbers["n"] == 1 and numbers["mean"] == pytest.approx(2 / 3, abs=1e-3) and numbers["sd"] == 0
    table = json.loads((Path(recipe.folder) / "test.json").read_text())
    assert [row["scan"] for row in table["scans"]] == ["sub-4_T1w.nii.gz"]
    assert table["scans"][0]["ml"] == pytest.approx(table["scans"][0]["true_ml"] / 2, abs=0.1)


def test_a_batch_depends_on_seed_and_step_alone(recipe: StripRecipe) -> None:
    heads = load_heads(recipe)
    assert {kind: {split: len(found) for split, found in of.items()} for kind, of in heads.items()} == {
        "scans": {"train": 2, "validation": 1},
        "maps": {"train": 2, "validation": 1},
    }
    once = draw_batch(recipe, heads, 5)
    draw_batch(recipe, heads, 6)
    torch.rand(3)
    again, other = draw_batch(recipe, heads, 5), draw_batch(recipe, heads, 6)
    assert torch.equal(once["images"], again["images"]) and torch.equal(once["brains"], again["brains"])
    assert not torch.equal(once["images"], other["images"])
    assert once["images"].shape == once["brains"].shape == (2, 1, 64, 40, 36)
    assert set(once["brains"].unique().tolist()) == {0.0, 1.0}
    assert once["images"].min() >= 0 and once["images"].max() <= 1.2


def test_head_whose_file_does_not_say_left_is_learned_in_its_documented_orientation(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.int16)
    values[4:26, 5:30, 3:25] = 300
    values[6:12, 8:20, 5:15] = 900  # the brain, off the middle on every axis
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("ASL")
    )
    turned = np.ascontiguousarray(nib.orientations.apply_orientation(values, turn))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])  # of which Analyze keeps the sizes alone
    nib.save(nib.AnalyzeImage(turned, affine), tmp_path / "head.img")
    nib.save(nib.AnalyzeImage((turned == 900).astype(np.int16), affine), tmp_path / "bare.img")
    placed = Nifti1Image((values == 900).astype(np.int32), affine)
    save_volume(placed, tmp_path / "placed.nii.gz")
    for mask in ("bare.img", "placed.nii.gz"):
        scan = Scan("oasis1", "a", "", "T1", tmp_path / "head.img", mask=tmp_path / mask, orientation="ASL")
        head = scan_head(scan)
        assert np.array_equal(head.brain.numpy() == 1, values == 900)
        assert np.array_equal(head.values.numpy() > 0.9, values == 900)


def test_label_map_gains_the_sinus_and_loses_the_cord(folder: Path, tmp_path: Path) -> None:
    head = label_map_head(folder / "maps" / "map_0.nii.gz")
    brain = head.brain.bool()
    middle = [n // 2 for n in brain.shape]
    assert head.labels == 7  # 0, 3 for both sides, 8, 24, 507, 511, 515
    assert brain[middle[0], middle[1], -14]  # the sinus
    top = torch.nonzero(brain.any(0).any(0))[:, 0]
    lowest_mm = 2.0 * int(top.min()) - 2.0 * (SHAPE[2] - 1)
    assert -43 <= lowest_mm <= -36  # 4 mm below the cerebellum, not down to the end of the cord at -50
    assert head.centre.tolist() == pytest.approx([n / 2 for n in brain.shape], abs=3)
    empty = Nifti1Image(np.full(SHAPE, 507, np.int32) * (np.arange(SHAPE[2]) > 4), np.diag([4.0, 4, 4, 1]))
    save_volume(empty, tmp_path / "empty.nii.gz")
    with pytest.raises(RecipeError, match="no FreeSurfer ids of a cerebellum"):
        label_map_head(tmp_path / "empty.nii.gz")


def test_image_and_brain_of_an_example_lie_upon_each_other() -> None:
    brain = torch.zeros(60, 66, 58, dtype=torch.uint8)
    brain[18:42, 16:50, 20:40] = 1
    head = Head("box", brain.half(), brain, torch.tensor([29.5, 32.5, 29.5]), 0)
    agreed = 0
    for k in range(12):
        image, inside = draw_example(head, (64, 60, 56), torch.Generator().manual_seed(k))
        seen = inside > 0
        assert seen.any()
        inner = eroded(inside, 2) > 0
        outer = -torch.nn.functional.max_pool3d(inside[None], 5, stride=1, padding=2)[0] == 0
        if inner.any():  # bright within, or dark where the random curve says so; never both alike
            agreed += bool((image[inner].mean() - image[outer].mean()).abs() > 0.1)
    assert agreed >= 9


def test_parts_of_the_corruption() -> None:
    generator = torch.Generator().manual_seed(0)
    turn = rotation(torch.tensor([0.1, -0.2, 0.3]))
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6) and torch.det(turn) > 0
    assert torch.allclose(
        rotation(torch.tensor([0.0, 0.0, torch.pi / 2])) @ torch.tensor([1.0, 0, 0]),
        torch.tensor([0.0, 1, 0]),
        atol=1e-6,
    )
    ramp = torch.arange(24.0)[:, None, None].expand(24, 10, 12)
    slices = thick(ramp, 0, 4.0)
    assert slices.shape == ramp.shape and torch.allclose(slices[2:-2], ramp[2:-2], atol=0.5)
    labels = torch.zeros(20, 22, 18, dtype=torch.uint8)
    labels[10:] = 1
    image = paint(labels, 2, generator)
    assert image[12:].mean() != pytest.approx(float(image[:8].mean()), abs=0.02)
    cube = torch.zeros(9, 10, 11)
    cube[2:7, 2:8, 2:9] = 1
    assert eroded(cube, 0).sum() == 5 * 6 * 7 and eroded(cube, 1).sum() == 3 * 4 * 5
    assert dice(cube > 0, eroded(cube, 1) > 0) == pytest.approx(2 * 60 / (60 + 210))
    assert dice(cube > 2, cube > 2) == 1.0


def test_what_a_recipe_cannot_do_is_one_sentence(recipe: StripRecipe, folder: Path, tmp_path: Path) -> None:
    for change, words in (
        ({"mix": {"scan": 1.0}}, "shares of scans and maps"),
        ({"shape": (64, 41, 36)}, "multiples of 2"),
        ({"splits": str(tmp_path / "none.json")}, "not readable"),
        ({"held_out_maps": 3}, "3 label maps"),
    ):
        with pytest.raises(RecipeError, match=words):
            train_strip(replace(recipe, **change))  # type: ignore[arg-type]
    (tmp_path / "few.json").write_text('{"sub-1": "train"}')
    with pytest.raises(RecipeError, match=r"subject 'sub-2' of .* has no split"):
        load_heads(replace(recipe, splits=str(tmp_path / "few.json")))


def test_bundled_recipe_is_that_of_the_bundled_weights(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read_recipe(StripRecipe, RECIPES / "strip.toml", ["steps=7"])
    assert (recipe.steps, recipe.batch, recipe.source, recipe.shape) == (7, 2, "ixi", (96, 112, 112))
    if BUNDLED.is_file():
        assert load_network(BUNDLED).widths == recipe.widths
    assert cli.main(["strip", str(RECIPES / "strip.toml"), "--dry-run"]) == 0
    assert "would train 4000 steps into runs/strip" in capsys.readouterr().out
