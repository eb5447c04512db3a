"""The study of moves: measures against what is known, and the whole at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_run import toy_run

from atlas.begin import only_run
from atlas.facts import Facts
from atlas.slices import Geometry
from brainclip.anomaly.cases import Case, Cases
from brainclip.anomaly.figures import pixel_figures
from brainclip.cli import main
from brainclip.errors import PairsError, RecipeError
from brainclip.model import load
from brainclip.moving_study import ageing, detector, marked, markers, sizes, stacks
from brainclip.moving_study.recipe import AgeingRecipe, MarkersRecipe, MovingRecipe, SizesRecipe, StacksRecipe
from brainclip.moving_study.study import run_moving


def test_fluid_in_the_middle_is_counted_by_grey_in_percent_of_the_brain() -> None:
    geometry = Geometry(64, 3.0)
    _, measure = ageing.measure_of(MovingRecipe(ageing=AgeingRecipe(position_mm=20.0)), geometry)
    grey = np.zeros((2, 64, 64), np.uint8)
    grey[:, 8:56, 12:52] = 200  # white matter, 48 x 40 pixels
    grey[:, 28:36, 28:36] = 40  # fluid about x = 0, y = -17
    grey[1, 10:14, 14:18] = 40  # fluid at the rim is not the ventricles'
    share = 100 * 64 / (48 * 40)
    assert measure(grey, "T1") == pytest.approx([share, share])
    assert measure(255 - grey, "T2")[0] != pytest.approx(share)  # bright is fluid there
    with pytest.raises(RecipeError, match="cannot be told by grey"):
        measure(grey, "PD")


def test_the_curve_has_the_slope_and_ends_of_its_points() -> None:
    ages = np.linspace(20, 85, 40)
    found = ageing.curve(ages, 2 + 0.01 * (ages - 30) ** 2, np.arange(40))
    assert found["at_30"]["value"] == pytest.approx(2, abs=1e-3)
    assert found["at_80"]["value"] == pytest.approx(27, abs=1e-3)
    assert found["rank"]["value"] > 0.9 and found["slope"]["low"] > 0


def test_identity_is_found_where_people_keep_their_pattern_and_not_by_chance() -> None:
    generator = np.random.default_rng(0)
    own = generator.integers(0, 200, (8, 1, 32, 32))
    kept = ageing.identity_kept((own + generator.integers(0, 50, (8, 4, 32, 32))).astype(np.uint8))
    assert kept["found"]["value"] == 1 and kept["same"]["value"] > 0.8 > 0.1 > kept["other"]["value"]
    assert kept["chance"]["value"] < 0.5
    lost = ageing.identity_kept(generator.integers(0, 200, (8, 4, 32, 32)).astype(np.uint8))
    assert lost["found"]["value"] < 0.5 and abs(lost["same"]["value"]) < 0.1


def test_mixed_stacks_hold_every_slice_once_and_no_person_twice_in_a_row() -> None:
    grey = np.arange(3)[:, None, None, None] * 10 + np.arange(5)[None, :, None, None] + np.zeros((3, 5, 2, 2))
    found = stacks.mixed(grey)
    assert sorted(found[..., 0, 0].ravel().tolist()) == sorted(grey[..., 0, 0].ravel().tolist())
    assert (np.diff(found[..., 0, 0] // 10, axis=1) != 0).all()
    assert (found[0, :, 0, 0] % 10).tolist() == [0, 1, 2, 3, 4]


def test_the_curve_of_a_stack_is_the_correlation_by_distance() -> None:
    rows, generator = [np.zeros((1, 32, 32))], np.random.default_rng(0)
    for _ in range(80):  # each slice is half the one below, half new
        rows.append(rows[-1] * 0.5**0.5 + generator.standard_normal((1, 32, 32)) * 0.5**0.5)
    grey = (np.concatenate(rows[20:]) * 20 + 128).clip(1, 255).astype(np.uint8)
    grey[:, :4], grey[:, -4:] = 0, 0  # outside, and a bright rim, which are the same in all, do not count
    grey[:, 4:7], grey[:, -7:-4] = 255, 255
    found = stacks.curve(grey[None], 3.0)[0]
    assert stacks.distances(3.0) == [3, 6, 9, 12, 18, 24]
    assert found == pytest.approx(0.5 ** (np.array([1, 2, 3, 4, 6, 8]) / 2), abs=0.03)
    assert stacks.distances(6.0) == [6, 12, 18, 24]
    with pytest.raises(PairsError, match="take 3 or 6"):
        stacks.distances(7.0)


def test_the_length_of_a_direction_is_the_shortest_with_the_wanted_effect() -> None:
    made = {1.0: 0.2, 2.0: 0.6, 4.0: 0.4, 8.0: 1.0}
    assert sizes.length_for(0.1, made) == pytest.approx(0.5)
    assert sizes.length_for(0.5, made) == pytest.approx(1.75)
    assert sizes.length_for(0.7, made) == pytest.approx(6.0)
    assert sizes.length_for(3.0, made) == 8.0
    assert sizes.length_for(3.0, {1.0: 0.2, 2.0: 0.6, 4.0: 0.4}) == 2.0


def test_small_lesions_have_bins_of_their_own() -> None:
    images = np.full((4, 128, 128), 0.5, np.float32)
    masks = np.zeros(images.shape, dtype=bool)
    masks[:2, 3:8, 3:8] = True  # 50 of 65,536 pixels, less than one of 400 bins holds
    rows = tuple(Case("", "", str(k), Facts("axial", 0.0, "T1"), "x" if k < 2 else "") for k in range(4))
    maps = masks + np.random.default_rng(0).uniform(0, 0.5, images.shape).astype(np.float32)
    cases = Cases(rows, images, masks)
    assert pixel_figures(maps, cases, bins=markers.BINS)["dice"]["value"] > 0.85
    assert pixel_figures(maps, cases)["dice"]["value"] < 0.5


def test_changes_move_the_mask_with_the_lesion() -> None:
    images = torch.zeros(6, 1, 32, 32) + 0.3
    images[:, :, 10:18, 12:20] = 0.9
    shown, known = detector.changed(images, images > 0.5, np.random.default_rng(3))
    inside = known > 0.5
    assert known.sum() == 6 * 64 and (shown[inside].mean() - shown[~inside].mean()) > 0.4
    assert not torch.equal(known[0], (images[0] > 0.5).float())


def test_scores_are_of_the_highest_pixels_and_grey_is_dark_in_t1() -> None:
    maps = np.zeros((2, 50, 50), np.float32)
    maps[0, :1, :5] = 1.0  # 5 of 2,500 pixels
    assert markers.slice_scores(maps).tolist() == [1, 0]
    rows = tuple(Case("real case", "", "a", Facts("axial", 0.0, kind)) for kind in ("T1", "FLAIR"))
    images = np.stack([np.array([[0, 0.2], [0.8, 0.8]], np.float32)] * 2)
    found = markers.grey_maps(Cases(rows, images, images > 1))
    assert np.allclose(found, [[[0, 0.8], [0.2, 0.2]], [[0, 0.2], [0.8, 0.8]]])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> MovingRecipe:
    folder = tmp_path_factory.mktemp("toy")
    toy_run(folder)
    return MovingRecipe(
        folder=str(folder / "moving"),
        model=str(folder / "model"),
        pairs={"toy": str(folder / "pairs" / "toy")},
        ageing=AgeingRecipe(people=2, steps=2, modalities={"T1": "toy"}, position_mm=12.0),
        sizes=SizesRecipe(fit={"T1": "toy"}),
        stacks=StacksRecipe(people=2, pairs="toy", from_mm=0.0, to_mm=12.0, every_mm=6.0),
        markers=MarkersRecipe(
            modalities=("FLAIR",),
            pictures=6,
            marks=1,
            drawn=1,
            held_out={"FLAIR": "toy"},
            people=2,
            steps=4,
            batch=4,
            warmup=1,
            channels=(8, 16, 16),
            device="cpu",
        ),
    )


def test_the_study_of_ageing_writes_its_page_and_goes_on_from_what_is_there(
    recipe: MovingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ageing, "NEAR_MM", 60.0)  # toy people have few slices
    report = run_moving(recipe, ("ageing",))
    out = Path(recipe.folder) / "report"
    ways = report["ageing"]["contrasts"]["T1"]["ways"]
    assert set(ways) == {"prior", "text"} and np.shape(ways["prior"]["shares"]) == (2, 2)
    assert "fluid by its grey level" in (out / "README.md").read_text()
    assert {"ageing.png", "curve.png", "moving.json"} <= {path.name for path in out.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(ageing, "trajectory", fail)
    again = run_moving(recipe, ("ageing",))
    assert json.dumps(again["ageing"]) == json.dumps(report["ageing"])


def test_marked_slices_train_a_detector_that_can_be_loaded(recipe: MovingRecipe) -> None:
    model = load(recipe.model)
    seen = marked.marked(model, recipe)
    assert (seen.column("kind") == "").sum() == 6 and len(seen.rows) >= 6
    assert all(bool(mask.any()) == bool(row.kind) for row, mask in zip(seen.rows, seen.masks, strict=True))
    trained = detector.trained(recipe, seen)
    assert trained.maps(seen.images).shape == seen.images.shape
    assert trained.hash == detector.Detector.load(Path(recipe.folder) / "detector").hash


def test_a_second_run_in_one_folder_is_refused_in_one_sentence(
    recipe: MovingRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parent.parent / "recipes" / "moving.toml"
    with only_run(tmp_path):
        assert main(["moving", str(path), "--set", f"folder={tmp_path}", "--part", "stacks"]) == 2
    said = capsys.readouterr().err
    assert "another run is writing this folder" in said and said.strip().count("\n") == 0
    assert not (tmp_path / "report").exists()


def test_what_cannot_be_run_is_refused(
    recipe: MovingRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecipeError, match=r"\[pairs\] does not name 'ixi'"):
        run_moving(MovingRecipe())
    with pytest.raises(RecipeError, match="names no"):
        markers.run_markers(load(recipe.model), recipe)
    with pytest.raises(RecipeError, match="part 'x'"):
        run_moving(recipe, ("x",))
    path = Path(__file__).parent.parent / "recipes" / "moving.toml"
    assert main(["moving", str(path), "--set", f"folder={tmp_path}", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("moving: would measure ageing, sizes, stacks, markers of mini")
    assert main(["moving", str(path), "--part", "walks"]) == 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(RecipeError, match="2 at least"):
        replace(recipe, ageing=AgeingRecipe(people=1, modalities={"T1": "toy"})).check()
