"""Moves of the embedding and drawings that begin with a picture, on a model with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from toy_run import toy_run

from atlas.facts import Facts
from brainclip.cli import main
from brainclip.errors import BrainclipError, PairsError, PromptError, WeightsError
from brainclip.model import load
from brainclip.moving import points
from brainclip.moving.changes import edit, interpolate, trajectory, vary
from brainclip.moving.directions import fit, normal_scores
from brainclip.moving.markers import mark
from brainclip.moving.redraw import blended, feathered, inpaint, redraw
from brainclip.moving.sphere import spherical
from brainclip.moving.stacks import slow_noise, stack, through_plane
from brainclip.picture import Picture
from brainclip.sizes import direction

PROMPT = "axial T1 slice, z = 12 mm, healthy 30-year-old woman"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_run(folder)
    return folder / "model"


@pytest.fixture(scope="module")
def picture(model: Path) -> Picture:
    return load(model).generate(PROMPT, seed=5)[0]


def alike(first: Picture, second: Picture) -> bool:
    return np.allclose(first.pixels, second.pixels, atol=1e-4)


def test_the_way_along_the_sphere_has_constant_speed_row_by_row() -> None:
    first, second = torch.eye(3)[:2], torch.eye(3)[[1, 1]]
    half = spherical(first, second, 0.5)
    assert torch.allclose(half[0], torch.tensor([0.5**0.5, 0.5**0.5, 0.0]))
    assert torch.allclose(half[1], second[1])  # equal rows stay, without a division by their angle
    third = spherical(first[:1].expand(2, -1), second[:1].expand(2, -1), torch.tensor([1 / 3, 1.0]))
    assert torch.allclose(third[0], torch.tensor([3**0.5 / 2, 0.5, 0.0]), atol=1e-6)
    assert torch.allclose(third[1], second[0], atol=1e-6)
    noise = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    middle = spherical(noise[:1], noise[1:], 0.5)
    assert float(middle.std()) == pytest.approx(1, abs=0.05)  # the mean of two noises would have 0.71


def test_a_trajectory_is_one_person_at_the_asked_ages(model: Path) -> None:
    made = trajectory(PROMPT, age=(30, 80), steps=3, seed=2, model=model)
    assert [picture.settings["move"]["age"] for picture in made] == [30, 55, 80]
    assert [picture.facts.known["age"] for picture in made] == [30, 55, 80]
    assert {picture.facts.known["sex"] for picture in made} == {"female"}
    assert {picture.seed for picture in made} == {2} and not made[0].warnings
    middle = points.of_prompt(load(model), "55-year-old, " + PROMPT, seed=2)
    assert np.allclose(made[1].embedding, middle.embedding, atol=1e-5)  # it has not moved
    assert not np.allclose(made[0].embedding, made[2].embedding, atol=1e-4)
    by_text = trajectory(PROMPT, steps=2, seed=2, by="text", model=model)
    assert not alike(by_text[0], made[0])


def test_faulty_trajectories_are_refused(model: Path) -> None:
    for faulty, message in (
        ({"steps": 1}, "at least two"),
        ({"age": (80, 30)}, "younger age first"),
        ({"age": (30, 32)}, "at least a year a step"),
        ({"by": "magic"}, "'prior' or 'text'"),
    ):
        with pytest.raises(BrainclipError, match=message):
            trajectory(PROMPT, model=model, **faulty)
    with pytest.raises(PromptError, match="no plane"):
        trajectory("T1 slice", model=model)


def test_a_variation_keeps_the_embedding_and_changes_the_noise(model: Path, picture: Picture) -> None:
    made = vary(picture, n=2, model=model)
    assert [one.seed for one in made] == [6, 7]
    assert np.allclose(made[0].embedding, picture.embedding, atol=1e-6) and not alike(made[0], made[1])
    again = vary(picture, n=1, seed=5, model=model)[0]
    assert alike(again, picture)  # the picture's own seed draws it again
    further = vary(picture, n=1, amount=1.0, model=model)[0]
    assert not np.allclose(further.embedding, picture.embedding, atol=1e-3)
    with pytest.raises(BrainclipError, match="amount = 2"):
        vary(picture, amount=2, model=model)


def test_an_interpolation_ends_at_both_pictures(model: Path, picture: Picture) -> None:
    other = load(model).generate("coronal T2 slice, y = 4 mm", seed=9)[0]
    made = interpolate(picture, other, steps=3, model=model)
    assert alike(made[0], picture) and alike(made[2], other)
    assert not alike(made[1], picture) and not alike(made[1], other)
    assert [one.settings["move"]["share"] for one in made] == [0, 0.5, 1]
    assert made[2].plane == "coronal"


def test_an_edit_moves_the_embedding_and_says_what_from(model: Path, picture: Picture) -> None:
    made = edit(picture, "with larger ventricles", model=model)
    assert made.facts.sizes == {"lateral ventricles": "enlarged"} and made.seed == picture.seed
    assert made.prompt == PROMPT + "; with larger ventricles" and not made.warnings
    assert made.settings["move"]["from"]["prompt"] == PROMPT
    assert alike(edit(picture, "with larger ventricles", amount=0.0, model=model), picture)
    older = edit(picture, "an 80-year-old man", model=model)
    assert older.facts.known["age"] == 80 and older.facts.known["sex"] == "male"
    twice = edit(made, "an 80-year-old", model=model)
    assert twice.facts.known["age"] == 80 and twice.facts.sizes == made.facts.sizes
    kept = edit(picture, "with larger ventricles", strength=0.5, model=model)
    assert kept.settings["strength"] == 0.5
    for words, message in (("fancier", "nothing that can be"), ("a 30-year-old", "with this already")):
        with pytest.raises(PromptError, match=message):
            edit(picture, words, model=model)


def test_a_size_moves_along_its_direction_where_one_is_known(
    model: Path, picture: Picture, tmp_path: Path
) -> None:
    along = torch.zeros(12, 32)  # knots of the axial plane: -60, -48 ... 72 mm
    along[6, 5], along[7, 5] = 0.3, 0.6  # 12 and 24 mm
    file = tmp_path / "directions.safetensors"
    save_file({"axial/T1/lateral ventricles": along}, file)
    words = "with larger ventricles and small hippocampi"
    made = edit(picture, words, directions=file, model=model)
    assert made.settings["move"]["directions"] == ["lateral ventricles"]
    brain = load(model)
    own = points.of_picture(brain, picture)
    plain = dict(own.prompt.mentioned)
    rest = points.difference(brain, plain, plain | {"sizes": {"hippocampi": "small"}}, seed=picture.seed)
    step = 1.4 * along[6] + rest
    assert np.allclose(made.embedding, points.moved(own, step).embedding, atol=1e-3)
    back = edit(made, "with normal ventricles", directions=file, model=model)
    assert back.embedding[5] < made.embedding[5]
    assert edit(picture, words, model=model).settings["move"]["directions"] == []


def test_directions_are_found_in_embeddings_that_hold_them(model: Path) -> None:
    brain = load(model)
    generator = np.random.default_rng(0)
    planted = torch.nn.functional.normalize(
        torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0
    )
    percentiles, rows, places = generator.uniform(2, 98, 300), [], generator.uniform(-40, 60, 300)
    for k in range(300):
        facts = Facts(
            ("axial", "coronal", "sagittal")[k % 3],
            float(places[k]),
            "T1",
            percentiles={"cortex": float(percentiles[k])},
            known={"age": float(generator.uniform(20, 80)), "sex": ("male", "female")[k % 2]},
        )
        rows.append(SimpleNamespace(facts=facts))
    shown = torch.from_numpy(normal_scores(percentiles)).float()[:, None] * 0.1 * planted

    def images(chosen: list[int]) -> torch.Tensor:
        return shown[chosen]

    clip = SimpleNamespace(encode_image=lambda batch: batch)
    found = fit(SimpleNamespace(clip=clip), {"T1": SimpleNamespace(pairs=rows, images=images)}, ["cortex"])
    assert set(found) == {f"{plane}/T1/cortex" for plane in ("axial", "coronal", "sagittal")}
    inside = found["axial/T1/cortex"][2:10]  # knots from -36 to 60 mm
    assert torch.allclose(inside.mean(0), 0.1 * planted, atol=5e-3)
    assert float((inside - inside.mean(0)).abs().max()) < 0.02
    assert direction(brain, "axial", "T1", "spleen", 0.0) is None
    with pytest.raises(PairsError, match="0 axial T2 slices"):
        fit(brain, {"T2": SimpleNamespace(pairs=rows, images=images)}, ["cortex"])


def test_a_direction_is_linear_between_its_knots_and_constant_beyond_them(
    model: Path, tmp_path: Path
) -> None:
    along = torch.arange(12.0)[:, None] * torch.ones(32)
    file, brain = tmp_path / "directions.safetensors", load(model)
    save_file({"axial/T1/cortex": along, "axial/T1/thalami": along[:3].clone()}, file)
    for place, value in ((-60, 0), (15, 6.25), (72, 11), (90, 11), (-99, 0)):
        found = direction(brain, "axial", "T1", "cortex", place, file=file)
        assert found is not None and found.tolist() == pytest.approx([value] * 32)
    with pytest.raises(WeightsError, match="fit again"):
        direction(brain, "axial", "T1", "thalami", 0.0, file=file)


def test_a_saved_picture_is_moved_as_the_picture_and_a_foreign_one_needs_a_prompt(
    model: Path, picture: Picture, tmp_path: Path
) -> None:
    for name in ("x.png", "x.nii.gz"):
        again = Picture.load(picture.save(tmp_path / name))
        assert np.allclose(again.pixels, picture.pixels, atol=0.5 / 255 + 1e-6)
        kept = ("prompt", "seed", "plane", "position_mm", "position_asked", "spacing_mm", "model", "facts")
        assert all(getattr(again, key) == getattr(picture, key) for key in kept)
        assert again.settings == picture.settings and again.embedding is None
        made = vary(tmp_path / name, n=1, model=model)[0]
        shown = load(model).embed_image(again)[0].numpy()
        assert np.allclose(made.embedding, shown, atol=1e-5)
    Image.fromarray(np.full((32, 32), 90, np.uint8)).save(tmp_path / "foreign.png")
    with pytest.raises(BrainclipError, match="does not say that brainclip made it"):
        vary(tmp_path / "foreign.png", model=model)
    made = vary(tmp_path / "foreign.png", n=1, prompt="axial T1 slice", model=model)[0]
    assert made.settings["move"]["from"]["file"] == "foreign.png"
    with pytest.raises(PromptError, match="an array does not say"):
        vary(np.zeros((32, 32)), model=model)
    with pytest.raises(PromptError, match="names no plane"):
        vary(np.zeros((32, 32)), prompt="T1", model=model)


def test_redrawing_keeps_the_more_the_weaker_it_is(model: Path, picture: Picture) -> None:
    other = "coronal T2 slice, y = 4 mm"
    target = load(model).generate(other, seed=5)[0]
    away = [
        np.abs(redraw(target, PROMPT, strength=strength, model=model).pixels - target.pixels).mean()
        for strength in (0.1, 1.0)
    ]
    assert away[0] < away[1]
    made = redraw(np.full((32, 32), 0.4, np.float32), PROMPT, strength=0.5, model=model)
    assert made.settings["move"]["from"]["file"] == "an array" and made.plane == "axial"
    with pytest.raises(BrainclipError, match="above 0, up to 1"):
        redraw(picture, PROMPT, strength=0, model=model)


def test_inpainting_leaves_the_outside_as_it_was(model: Path, picture: Picture, tmp_path: Path) -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[10:20, 12:22] = True
    made = inpaint(picture, mask, prompt="coronal T2 slice", seed=8, model=model)
    outside = feathered(mask, 4.5 / 6) == 0
    assert np.array_equal(made.pixels[outside], picture.pixels[outside])
    assert np.abs(made.pixels - picture.pixels)[mask].mean() > 1e-3
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    own = inpaint(picture, tmp_path / "mask.png", model=model)
    assert own.settings["move"]["mm2"] == 100 * 36 and own.prompt == PROMPT
    with pytest.raises(BrainclipError, match="mask is empty"):
        inpaint(picture, np.zeros((32, 32)), model=model)
    with pytest.raises(BrainclipError, match="this model takes 32 x 32"):
        inpaint(picture, np.zeros((16, 16)), model=model)


def test_blending_goes_over_evenly_and_keeps_what_has_no_weight() -> None:
    mask = np.zeros((1, 9), dtype=bool)
    mask[0, 0] = True
    weight = feathered(mask, 4.0)
    assert weight.tolist() == [[1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]]
    mixed = blended(np.full((1, 9), 0.3, np.float32), np.ones((1, 9), np.float32), weight)
    assert mixed[0, 0] == 1 and mixed[0, 4] == np.float32(0.3)


def healthy() -> Picture:
    """A ball of white matter, in the picture's own size."""
    rows, columns = np.mgrid[:32, :32] - 15.5
    pixels = np.where(np.hypot(rows, columns) < 12, 0.65, 0).astype(np.float32)
    prompt = "axial FLAIR slice, z = 20 mm"
    from atlas.prompt import read_prompt

    return Picture(pixels, prompt, 1, "axial", 20.0, True, 6.0, "other", read_prompt(prompt).facts)


def test_markers_grow_in_time_and_leave_the_rest_of_the_slice(model: Path, tmp_path: Path) -> None:
    made = mark(healthy(), "tumour", size_mm=(25, 50), at_mm=(0.0, -17.0, 20.0), model=model)
    small, large = (marked.mask for marked in made)
    assert 0 < small.sum() < large.sum() and (large >= small).mean() > 0.98
    far = feathered(np.abs(made[1].picture.pixels - healthy().pixels) > 0, 0.1) == 0
    assert far.any() and np.array_equal(made[1].picture.pixels[far], healthy().pixels[far])
    assert made[0].picture.pixels[small].mean() > 0.7  # bright in FLAIR
    bare = mark(healthy(), "tumour", size_mm=25, at_mm=(0.0, -17.0, 20.0), strength=0, model=model)[0]
    assert not np.array_equal(bare.picture.pixels, made[0].picture.pixels)
    path = made[0].save(tmp_path / "x.png")
    said = Picture.load(path).settings["move"]
    assert (said["lesion"], said["simulated"], said["size_mm"]) == ("tumour", True, 25)
    with Image.open(tmp_path / "x_mask.png") as image:
        assert np.array_equal(np.array(image) > 0, small) and "mask" in image.info["shows"]
    with pytest.raises(BrainclipError, match="does not show in this slice"):
        mark(healthy(), "tumour", size_mm=5, at_mm=(0.0, 60.0, -60.0), model=model)
    with pytest.raises(PromptError, match="names no contrast"):
        mark(
            replace(healthy(), prompt="axial slice", facts=replace(healthy().facts, modality=None)),
            "infarct",
            model=model,
        )


def test_a_stack_is_a_volume_at_its_place(model: Path, tmp_path: Path) -> None:
    made = stack("axial T1 slice, 40-year-old man", from_mm=-6, to_mm=18, every_mm=6, seed=3, model=model)
    assert [picture.position_mm for picture in made.pictures] == [-6, 0, 6, 12, 18]
    assert made.pixels.shape == (5, 32, 32) and {picture.seed for picture in made.pictures} == {3}
    made.save(tmp_path / "x.nii.gz")
    from atlas.slices import Geometry, nifti_to_slice
    from atlas.volume import load_volume

    volume = load_volume(tmp_path / "x.nii.gz", fewest=1)
    assert volume.shape == (32, 32, 5) and np.allclose(volume.header.get_zooms(), 6)
    one = volume.slicer[:, :, 3:4]
    pixels, plane, position = nifti_to_slice(one, Geometry(32, 6.0))
    assert plane == "axial" and position == pytest.approx(12)
    assert np.allclose(pixels, made.pixels[3], atol=1e-5)
    said = json.loads((tmp_path / "x.json").read_text())
    assert said["synthetic"] is True and said["positions_mm"] == [-6, 0, 6, 12, 18]
    with pytest.raises(PromptError, match="no plane"):
        stack("T1 slice", model=model)
    with pytest.raises(BrainclipError, match="fewer than two slices"):
        stack("axial T1 slice", from_mm=0, to_mm=1, every_mm=6, model=model)


def test_slow_noise_is_standard_normal_and_changes_over_its_length() -> None:
    places, shape = np.arange(0.0, 40, 2), (4, 16, 16)
    noise = slow_noise(places, shape, seed=1, noise_mm=8.0).flatten(1)
    assert float(noise.std()) == pytest.approx(1, abs=0.05) and abs(float(noise.mean())) < 0.05
    for apart, wanted in ((1, 0.97), (4, 0.61), (16, 0.0)):
        found = [float(np.corrcoef(noise[k], noise[k + apart])[0, 1]) for k in range(20 - apart)]
        assert np.mean(found) == pytest.approx(wanted, abs=0.08)
    assert torch.allclose(
        slow_noise(places[3:5], shape, seed=1, noise_mm=8.0).flatten(1), noise[3:5], atol=1e-3
    )
    same = slow_noise(places, shape, seed=1, noise_mm=float("inf"))
    assert torch.equal(same[0], same[-1])
    apart = slow_noise(places, shape, seed=1, noise_mm=0.0).flatten(1)
    assert abs(float(np.corrcoef(apart[0], apart[1])[0, 1])) < 0.1


def test_consistency_tells_a_volume_from_shuffled_slices() -> None:
    z, y, x = np.mgrid[:12, :32, :32] / 6
    volume = 0.5 + 0.2 * (np.sin(x) + np.sin(y + 1) + np.sin(z + 2))  # as smooth across as along
    own = through_plane(volume, 6.0, 6.0)
    shuffled = through_plane(volume[np.random.default_rng(0).permutation(12)], 6.0, 6.0)
    assert own["step"] == pytest.approx(1, abs=0.15) and shuffled["step"] > 2 * own["step"]
    same = through_plane(np.repeat(volume[:1], 4, 0), 6.0, 6.0)
    assert same["correlation"] == pytest.approx(1) and same["step"] == 0
    with pytest.raises(BrainclipError, match="fewer than two"):
        through_plane(np.zeros((3, 8, 8)), 6.0, 6.0)


def test_every_verb_writes_what_it_says(
    model: Path, picture: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, mask = str(picture.save(tmp_path / "own.png")), np.zeros((32, 32), np.uint8)
    mask[8:16, 8:16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out"
    calls = [
        (["trajectory", PROMPT, "--steps", "2", "--slices", f"{out}/age.png", "--out", f"{out}/t.gif"], 3),
        (["vary", own, "--n", "2", "--out", f"{out}/v.nii.gz"], 4),
        (["interpolate", own, own, "--steps", "2", "--out", f"{out}/i.png"], 1),
        (["edit", own, "with larger ventricles", "--out", f"{out}/e.png"], 1),
        (["redraw", own, "coronal T2 slice", "--out", f"{out}/r.png"], 1),
        (["inpaint", own, str(tmp_path / "mask.png"), "--out", f"{out}/p.png"], 1),
        (["mark", own, "atrophy", "--size", "8", "--out", f"{out}/m.png"], 2),
        (["stack", PROMPT, "--from", "0", "--to", "12", "--every", "6", "--out", f"{out}/s.nii"], 2),
    ]
    for argv, files in calls:
        assert main([*argv, "--model", str(model), "--dry-run"]) == 0
        assert capsys.readouterr().out.startswith(f"{argv[0]}: would write {out}")
        before = len(list(out.glob("*")))
        assert main([*argv, "--model", str(model)]) == 0, capsys.readouterr().err
        line = capsys.readouterr().out
        assert line.startswith(f"{argv[0]}: {out}") and line.count("\n") == 1
        assert ("simulated" if argv[0] == "mark" else "synthetic") in line
        assert len(list(out.glob("*"))) == before + files, argv
    with Image.open(out / "i.png") as image:
        assert json.loads(image.info["pictures"])[0]["synthetic"] is True
    with Image.open(out / "t.gif") as image:
        assert image.n_frames == 2 and image.info["comment"].startswith(b"synthetic")
    assert main(["trajectory", PROMPT, "--out", "x.jpg"]) == 2
    assert "saved as .png or .gif" in capsys.readouterr().err
