from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nibabel import Nifti1Image
from nibabel.orientations import axcodes2ornt
from toy_pairs import write_toy_pairs
from toy_run import toy_run

from atlas.lesion_shapes import grid_points, slice_points
from atlas.register import Registration
from atlas.slices import AXIS, Geometry, cut, working_grid
from atlas.volume import save_volume
from brainclip.anomaly import study as study_module
from brainclip.anomaly.features import healthy_facts, healthy_text
from brainclip.anomaly.look import Found, look, on_grid_of, picture
from brainclip.anomaly.recipe import AnomalyRecipe
from brainclip.anomaly.reference import read_reference, write_reference
from brainclip.anomaly.report import write_report
from brainclip.anomaly.scan import Prepared, as_volume, prepare
from brainclip.anomaly.study import Study
from brainclip.cli import main
from brainclip.config import read_recipe
from brainclip.errors import RecipeError, VolumeError, WeightsError
from brainclip.model import load

GEOMETRY = Geometry(32, 6.0)
RECIPE = """
folder = "{folder}/study"
model = "{folder}/model"
modalities = {{ toy = ["T1", "T2"] }}
slices = 12
most = 40
choose_on = "toy"
methods = ["intensity", "cohort z", "conditional Gaussian", "patch latents, Gaussian",
    "healthy by the decoder"]
[pairs]
toy = "{folder}/pairs/toy"
[sweep.tumour]
sizes = [40, 60]
contrasts = [0.5]
[candidate.little]
strengths = [0.5]
samples = 1
steps = 2
[candidate.all]
strengths = [1.0]
samples = 1
steps = 2
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model with pairs of enough people for a calibration, and the recipe of a study."""
    folder = tmp_path_factory.mktemp("run")
    toy_run(folder)
    for path in sorted((folder / "pairs" / "toy").glob("*.json*")):
        path.unlink()
    write_toy_pairs(folder / "pairs" / "toy", subjects=(12, 14, 4))
    (folder / "anomaly.toml").write_text(RECIPE.format(folder=folder.as_posix()))
    return folder


@pytest.fixture(scope="module")
def reference(run: Path) -> Path:
    write_reference(read_recipe(AnomalyRecipe, run / "anomaly.toml"), run / "reference")
    return run / "reference"


def scan() -> Prepared:
    """A brain with a bright ball, ready to be compared, without a registration of its own."""
    affine, shape = working_grid(GEOMETRY)
    points = grid_points(affine, shape)
    values = np.where(np.linalg.norm((points - (0, -17, 5)) / (60, 75, 60), axis=-1) < 1, 0.4, 0)
    values[np.linalg.norm(points - (24, 0, 20), axis=-1) < 16] = 1.0
    shown = Nifti1Image(values.astype(np.float32), affine)
    where = Registration(np.eye(4), None, 1.0, 1.0)
    return Prepared(Path("scan.nii.gz"), "T1", shown, shown, where, GEOMETRY, {"age": 40.0})


def test_study_writes_tables_chooses_on_validation_and_goes_on_where_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(AnomalyRecipe, run / "anomaly.toml")
    study = Study(recipe)
    study.run()
    assert write_report(study).startswith("toy: slices by ")
    report = json.loads((run / "study" / "report.json").read_text())
    found = report["sources"]["toy"]
    assert set(found) == set(recipe.methods)
    for name, row in found.items():
        assert 0 <= row["slices"]["auroc"]["value"] <= 1 and row["slices"]["auroc"]["subjects"] == 4
        assert (row["pixels"] is None) == (name == "conditional Gaussian")
        assert row["calibration"]["calibrated_on"] == 14
    assert found["cohort z"]["pixels"]["auprc"]["value"] > found["cohort z"]["pixels"]["prevalence"]
    choice = json.loads((run / "study" / "choice.json").read_text())["found"]
    best = max(choice, key=lambda name: choice[name]["auprc"]["value"])
    assert report["decoder"]["strengths"] == list(recipe.candidate[best].strengths)
    plain = report["plain"]["toy"]
    assert plain["pixels"] in ("intensity", "cohort z") and "pixels" not in found[plain["pixels"]]["better"]
    for name, row in found.items():
        assert set(row["contrasts"]) == {"T1", "T2"} and row["contrasts"]["T1"]["n"] > 4
        if name not in plain.values():
            less = row["slices"]["auroc"]["value"] - found[plain["slices"]]["slices"]["auroc"]["value"]
            assert row["better"]["slices"]["value"] == pytest.approx(less, abs=2e-4)
    text = (run / "study" / "report.md").read_text()
    assert f"slice AUROC less *{plain['slices']}*" in text and "| little | " in text
    assert "*cohort z*" in text and "toy_simulated.png" in text
    assert (run / "study" / "toy_simulated.png").is_file()

    monkeypatch.setattr(study_module, "score_group", lambda *_, **__: pytest.fail("computed again"))
    again = Study(recipe)
    again.run()
    assert np.array_equal(again.scored("toy", "cohort z").scores, study.scored("toy", "cohort z").scores)
    other = read_recipe(AnomalyRecipe, run / "anomaly.toml", ["slices=3"])
    with pytest.raises(RecipeError, match="another recipe"):
        Study(other).run()


def test_p_values_come_from_validation_people_alone(run: Path) -> None:
    study = Study(read_recipe(AnomalyRecipe, run / "anomaly.toml", ['methods=["cohort z"]']))
    study.run()
    found = study.scored("toy", "cohort z")
    own = np.array([study.is_healthy(study.cases.rows[i], "toy", "validation") for i in found.rows])
    ranks = np.sort(found.p[own])
    assert np.median(found.scores[own]) == pytest.approx(0, abs=0.2)
    assert ranks.max() <= 1 and ranks.min() == pytest.approx(2 / (own.sum() + 1), abs=1e-6)


def test_reference_round_trips_and_refuses_another_model(reference: Path, run: Path) -> None:
    model = load(run / "model")
    group = read_reference(reference, model, "T1", "axial")
    assert set(group.detectors) == {"cohort z", "conditional Gaussian"} and len(group.people) > 8
    detector = group.detectors["conditional Gaussian"]
    assert np.isfinite(detector.score_samples(np.zeros((2, detector.n_features_in_)))).all()
    table = json.loads((reference / "reference.json").read_text())
    try:
        (reference / "reference.json").write_text(json.dumps(table | {"model": "other-1"}))
        with pytest.raises(WeightsError, match="other-1"):
            read_reference(reference, model, "T1", "axial")
        (reference / "reference.json").write_text(json.dumps(table | {"format": 1}))
        with pytest.raises(WeightsError, match="another version"):
            read_reference(reference, model, "T1", "axial")
    finally:
        (reference / "reference.json").write_text(json.dumps(table))
    with pytest.raises(WeightsError, match="anomaly-reference"):
        read_reference(run / "nowhere", model, "T1", "axial")


def test_a_bright_ball_is_found_where_it_is(reference: Path, run: Path) -> None:
    made = scan()
    found = look(load(run / "model"), reference, made, every_mm=6.0)
    heat = np.asanyarray(found.heat.dataobj)
    points = grid_points(found.heat.affine, heat.shape)
    ball = np.asanyarray(made.shown.dataobj) > 0.9
    brain = np.asanyarray(made.shown.dataobj) > 0
    assert heat.shape == made.brain.shape and not heat[~brain].any()
    assert heat[ball].mean() > 1.5 * heat[brain & ~ball].mean()
    assert np.linalg.norm(points[np.unravel_index(heat.argmax(), heat.shape)] - (24, 0, 20)) < 40
    assert set(found.p) == {"cohort z", "conditional Gaussian"}
    assert all(0 < value <= 1 for value in found.p.values()) and found.people == 14
    few = replace(found, p={"cohort z": 1 / 15, "conditional Gaussian": 0.4})
    assert few.said("cohort z") == "cohort z p 0.067, the lowest that 14 people can give"
    assert few.said("conditional Gaussian") == "conditional Gaussian p 0.400"
    assert set(found.likeness) == set(load(run / "model").card["modalities"])
    like = replace(found, likeness={"T1": 0.4, "FLAIR": 0.6})
    assert "say --modality FLAIR" in like.warnings("T1")[0] and not like.warnings("FLAIR")
    flipped = made.brain.as_reoriented(axcodes2ornt("LSA"))  # as a scanner may write it
    save_volume(flipped, run / "scan.nii.gz")
    stored = on_grid_of(run / "scan.nii.gz", found)
    assert stored.shape == flipped.shape and np.allclose(stored.affine, flipped.affine)
    bright = np.asanyarray(flipped.dataobj) > 0.9
    assert np.asanyarray(stored.dataobj)[bright].mean() == pytest.approx(heat[ball].mean(), rel=1e-5)
    assert "not for diagnosis" in str(stored.header["descrip"])
    picture(found, "toy", run / "look.png")
    assert (run / "look.png").stat().st_size > 1000
    assert isinstance(found, Found) and len(found.rows()) <= 6


def test_maps_of_slices_come_back_as_the_volume_they_were_cut_from() -> None:
    affine, shape = working_grid(GEOMETRY)
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    volume = Nifti1Image(values, affine)
    empty = Nifti1Image(np.zeros(shape, np.int32), affine)
    for plane, axis in AXIS.items():
        places = affine[axis, 3] + 6.0 * np.arange(4, 20)
        cuts = [cut(volume, empty, plane, float(place), GEOMETRY) for place in places]
        facts = [healthy_facts(plane, "T1", np.array([one.position_mm, 40, 0])) for one in cuts]
        back = as_volume(np.stack([one.pixels for one in cuts]), facts, GEOMETRY)
        inside = [slice(None)] * 3
        inside[axis] = slice(4, 20)
        assert np.allclose(back[tuple(inside)], values[tuple(inside)], atol=1e-6)
        assert not np.delete(back, np.arange(4, 20), axis).any()
        assert slice_points(plane, float(places[0]), GEOMETRY).shape == (32, 32, 3)


def test_healthy_prompts_are_understood(run: Path) -> None:
    for plane, position in (("axial", 12.0), ("coronal", -20.0), ("sagittal", -30.0)):
        facts = healthy_facts(plane, "T2", np.array([position, 71, 1]))
        read, _ = load(run / "model").read(healthy_text(facts))
        assert (read.facts.plane, read.facts.modality) == (plane, "T2")
        assert read.facts.known["age"] == 71 and read.facts.known["sex"] == "male"
        assert read.facts.position_mm == position and not read.unknown


def test_wrong_studies_and_scans_are_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["anomaly-study", str(run / "anomaly.toml"), "--set", 'methods=["magic"]']) == 2
    assert "possible are intensity" in capsys.readouterr().err
    assert main(["anomaly-study", str(run / "anomaly.toml"), "--set", "choose_on=other"]) == 2
    assert "choose_on" in capsys.readouterr().err
    assert main(["anomaly-reference", str(run / "anomaly.toml"), "--dry-run"]) == 0
    assert "would fit detectors to toy" in capsys.readouterr().out
    volume = Nifti1Image(np.random.default_rng(0).random((20, 20, 20)).astype(np.float32), np.eye(4))
    save_volume(volume, tmp_path / "x.nii.gz")
    call = ["anomaly", str(tmp_path / "x.nii.gz"), "--reference", str(tmp_path / "none")]
    assert main([*call, "--model", str(run / "model")]) == 2
    assert "anomaly-reference" in capsys.readouterr().err
    assert main(["anomaly", str(tmp_path / "y.nii.gz"), "--reference", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main([*call, "--out", str(tmp_path / "x.nii.gz")]) == 2
    assert "is what the map is made of" in capsys.readouterr().err
    volume.set_sform(None, code=0)
    volume.set_qform(None, code=0)
    save_volume(volume, tmp_path / "x.nii.gz")
    with pytest.raises(VolumeError, match="which side is left"):
        prepare(tmp_path / "x.nii.gz", "T1", Geometry(32, 6.0))
