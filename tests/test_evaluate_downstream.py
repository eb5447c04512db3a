"""Downstream study: which slices an arm has, figures against known answers, and the whole at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from scipy import stats
from toy_run import toy_run

from atlas.facts import Facts
from atlas.prompt import read_prompt
from atlas.records import Pair
from atlas.slices import Geometry
from brainclip import cli
from brainclip.config import read_recipe
from brainclip.errors import RecipeError
from brainclip.evaluate.downstream.arms import training_set
from brainclip.evaluate.downstream.compare import compared, difference, gap_closed, macro
from brainclip.evaluate.downstream.networks import Classifier
from brainclip.evaluate.downstream.recipe import ArmRecipe, DownstreamRecipe, TaskRecipe, check
from brainclip.evaluate.downstream.tasks import (
    Labelled,
    Task,
    band_names,
    load_task,
    prompt_of,
    with_lesions,
)
from brainclip.model import load

STUDY = """
folder = "{out}"
model = "{model}"
seeds = [3, 4]
size = 32
width = 8
epochs = 12
batch = 8
rate = 3e-3
device = "cpu"
[task.plane]
labels = "plane"
pairs = ["{pairs}"]
test = ["validation", "test"]
planes = ["axial", "coronal", "sagittal"]
modalities = ["T1", "T2"]
people = 8
per_person = 1
minority = "coronal"
[arm.real]
real = 1.0
[arm.synthetic]
synthetic = 1.0
against = ["real"]
[arm.mixed]
real = 0.5
synthetic = 0.5
against = ["half"]
gap = ["half", "real"]
[arm.half]
real = 0.5
[arm.pretrained]
real = 0.5
synthetic = 1.0
pretrain = true
against = ["half"]
[arm.few]
real = 1.0
kept = 0.25
fill = "synthetic"
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    toy_run(folder / "run")
    path = folder / "downstream.toml"
    names = {"out": folder / "out", "model": folder / "run/model", "pairs": folder / "run/pairs/toy"}
    path.write_text(STUDY.format(**{key: value.as_posix() for key, value in names.items()}))
    assert cli.main(["downstream", str(path)]) == 0
    return path


def test_the_study_at_toy_size_learns_planes_from_real_slices_alone(study: Path) -> None:
    report = json.loads((study.parent / "out" / "report.json").read_text())
    part = report["tasks"]["plane"]
    assert part["training"]["people"] == 8 and part["training"]["slices"] == 8 * 6
    assert part["test"]["people"] == 5 and list(part["training"]["labels"]) == [
        "axial",
        "coronal",
        "sagittal",
    ]
    arms = part["arms"]
    assert (arms["real"]["real"], arms["real"]["twins"], arms["real"]["steps"]) == (48, 0, 72)
    assert (arms["mixed"]["real"], arms["mixed"]["twins"], arms["half"]["steps"]) == (24, 24, 36)
    assert (arms["few"]["real"], arms["few"]["twins"]) == (48 - 12, 12)  # 2 of 8 people keep coronal slices
    assert arms["pretrained"]["steps"] == 72 + 36
    assert arms["real"]["accuracy"]["value"] > 0.95
    # the toy model's decoder is not trained, so its pictures teach nothing and are no slices to the others
    assert arms["synthetic"]["accuracy"]["value"] < 0.7
    assert arms["real"]["on_twins"] < 0.7
    assert arms["synthetic"]["on_twins"] is None
    text = (study.parent / "out" / "report.md").read_text()
    assert "| mixed | 24 | 24 |" in text and "| synthetic - real |" in text
    with Image.open(study.parent / "out" / "slices_plane.png") as image:
        assert image.height > 6 * 96


def test_a_second_call_trains_nothing_and_another_recipe_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = study.parent / "out"
    made = {path: path.stat().st_mtime_ns for path in (*out.rglob("result.json"), *out.rglob("pictures/*"))}
    before = (out / "report.json").read_text()
    assert len(made) == 2 * 6 + 48 and not list(out.rglob("state.pt"))
    assert cli.main(["downstream", str(study)]) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    assert (out / "report.json").read_text() == before
    capsys.readouterr()
    assert cli.main(["downstream", str(study), "--set", "epochs=3"]) == 2
    assert "holds a run on other slices or of another recipe" in capsys.readouterr().err


def toy_task(people: int = 10, each: int = 3) -> Task:
    """`each` slices of every person, whose label is whether the person's number is below 3."""
    n = people * each
    subjects = np.repeat([f"p{k:02d}" for k in range(people)], each)
    pairs = tuple(Pair(f"{k}.png", name, "train", Facts(), "", ()) for k, name in enumerate(subjects))
    labels = (np.arange(n) // each < 3).astype(int)
    grey = torch.zeros(n, 8, 8, dtype=torch.uint8)
    part = Labelled(grey, labels, subjects, pairs)
    return Task(("many", "rare"), part, part, grey, ("",) * n, "toy")


def test_shares_are_of_people_and_arms_of_one_seed_share_them() -> None:
    task = toy_task()
    people = task.training.subjects
    mixed = training_set(task, ArmRecipe(real=0.5, synthetic=0.5), 7)
    half = training_set(task, ArmRecipe(real=0.5), 7)
    assert np.array_equal(mixed.real, half.real)
    assert len(half) == 15 and len(set(people[half.real])) == 5
    # the pictures stand for the people that are left out
    assert sorted([*mixed.real, *mixed.twins]) == list(range(30))
    more = training_set(task, ArmRecipe(real=0.7, synthetic=0.3), 7)
    assert set(half.real) < set(more.real) and set(more.twins) < set(mixed.twins)
    assert not np.array_equal(half.real, training_set(task, ArmRecipe(real=0.5), 8).real)
    odd = training_set(toy_task(people=7), ArmRecipe(real=0.5, synthetic=0.5), 0)
    assert len(odd) == 21 and not set(odd.real) & set(odd.twins)


def test_a_minority_loses_people_and_is_made_up() -> None:
    task = toy_task()
    arms = {fill: ArmRecipe(real=1.0, kept=0.34, fill=fill) for fill in ("", "repeat", "synthetic")}
    few, repeated, made = (training_set(task, arm, 1, "rare") for arm in arms.values())
    labels = task.training.labels
    assert [int(labels[found.real].sum()) for found in (few, repeated, made)] == [3, 9, 3]
    assert all((labels[found.real] == 0).sum() == 21 for found in (few, repeated, made))
    assert len(np.unique(repeated.real)) == 24
    assert len(made.twins) == 6 and labels[made.twins].all() and not set(made.twins) & set(made.real)


def test_differences_are_paired_over_people_and_seeds() -> None:
    labels = np.zeros(40, dtype=int)
    subjects = np.repeat([f"p{k}" for k in range(10)], 4)
    worse = np.ones((3, 40), dtype=int)
    worse[:, ::4] = 0  # a quarter right
    better = worse.copy()
    better[:, 1:32:4] = 0  # one more of each of the first eight people
    better[0, 0] = 1
    found = difference(better, worse, labels, subjects)
    assert found["difference"]["value"] == pytest.approx((8 / 40) - 1 / 120, abs=1e-4)
    assert (found["better"], found["worse"]) == (8, 0)
    by_person = np.array([0.25 - 1 / 12, *[0.25] * 7, 0.0, 0.0])
    assert found["p_people"] == pytest.approx(stats.wilcoxon(by_person).pvalue)
    assert found["p_seeds"] == pytest.approx(stats.ttest_rel([7 / 40, 8 / 40, 8 / 40], [0, 0, 0]).pvalue)
    same = difference(worse, worse, labels, subjects)
    assert same["p_people"] == 1.0 and same["p_seeds"] is None and same["difference"]["value"] == 0.0


def test_gap_closed_is_a_share_of_the_gap_and_none_of_no_gap() -> None:
    labels, subjects = np.zeros(100, dtype=int), np.repeat([f"p{k:02d}" for k in range(20)], 5)

    def right(of_five: int) -> np.ndarray:
        return np.tile(np.arange(5) >= of_five, 20)[None].astype(int)

    found = gap_closed(right(3), right(2), right(4), labels, subjects)
    assert found["gap"]["value"] == pytest.approx(0.4)
    assert found["closed"]["value"] == pytest.approx(0.5)
    assert gap_closed(right(3), right(2), right(2), labels, subjects)["closed"]["value"] is None


def test_macro_recall_weighs_labels_alike() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    assert macro(np.array([1.0] * 8 + [0.5, 0.0]), labels) == pytest.approx((1 + 0.25) / 2)


def test_comparisons_are_corrected_over_the_task() -> None:
    generator = np.random.default_rng(0)
    labels, subjects = np.zeros(60, dtype=int), np.repeat([f"p{k:02d}" for k in range(20)], 3)
    predicted = {name: generator.integers(0, 2, (3, 60)) for name in "abc"}
    arms = {"a": ArmRecipe(), "b": ArmRecipe(against=("a",)), "c": ArmRecipe(against=("a", "b", "elsewhere"))}
    found = compared(predicted, arms, labels, subjects)["comparisons"]
    assert list(found) == ["b - a", "c - a", "c - b"]
    expected = stats.false_discovery_control([row["p_people"] for row in found.values()])
    assert [row["q_people"] for row in found.values()] == pytest.approx(list(expected))


def test_prompts_of_facts_are_read_back_as_these_facts() -> None:
    for facts in (
        Facts("axial", -12.4, "T1", known={"age": 34.4, "sex": "female"}),
        Facts("coronal", 7.0, "FLAIR", known={"age": 81.0, "sex": "male"}),
        Facts("sagittal", 0.0, "PD", known={"age": 8.0 * 10}),
    ):
        read = read_prompt(prompt_of(facts)).facts
        assert (read.plane, read.modality) == (facts.plane, facts.modality)
        assert read.position_mm == round(float(facts.position_mm or 0))
        assert read.known["age"] == round(facts.known["age"])
        assert read.known.get("sex") == facts.known.get("sex")


def test_age_bands_have_names() -> None:
    assert band_names([40.0, 60.0]) == ["below 40", "40 to 60", "60 and above"]
    assert band_names([50.0]) == ["below 50", "50 and above"]


def test_lesions_are_in_their_slices_alone_and_the_same_again() -> None:
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    disc = torch.from_numpy(np.where(x**2 + y**2 < 0.5, 200, 0).astype(np.uint8))
    pairs = tuple(Pair(f"{k}.png", "p", "train", Facts("axial", 15.0 + k, "T1"), "", ()) for k in range(4))
    grey = disc.repeat(4, 1, 1)
    part = Labelled(grey, np.array([0, 1, 1, 0]), np.array(["p"] * 4), pairs)
    task, geometry = TaskRecipe("lesion", ("x",)), Geometry(128, 1.5)
    real, again, twins = (with_lesions(grey, part, task, geometry, name) for name in ("real", "real", "twin"))
    assert torch.equal(real, again) and not torch.equal(real[1], twins[1])
    changed = (real != grey).flatten(1).sum(1).tolist()
    assert changed[0] == changed[3] == 0 and changed[1] > 10 and changed[2] > 10
    assert torch.equal(real[:, disc == 0], grey[:, disc == 0])
    assert real[1].min() >= 0 and int(real[1][disc > 0].min()) < 180  # plaques are darker in T1


def test_twins_can_be_the_real_slices_with_other_lesions(study: Path) -> None:
    task = TaskRecipe("lesion", (str(study.parent / "run/pairs/toy"),), from_mm=-10, to_mm=40, twins="same")
    recipe = DownstreamRecipe(str(study.parent / "again"), task={"t": task}, arm={"a": ArmRecipe(1.0)})
    found = load_task(recipe, "t", load(study.parent / "run/model"))
    changed = (found.twins != found.training.grey).flatten(1).any(1).numpy()
    lesions = found.training.labels == found.names.index("lesion")
    assert changed[lesions].any() and not changed[~lesions].any()
    assert not (study.parent / "again").exists()  # no picture was made


@pytest.mark.parametrize(("name", "millions"), [("small", 0.1265), ("resnet34", 21.29)])
def test_networks_have_their_size_and_an_answer_for_each_label(name: str, millions: float) -> None:
    classifier = Classifier(name, 3, width=16, size=64)
    weights = sum(p.numel() for p in classifier.parameters()) / 1e6
    assert weights == pytest.approx(millions, rel=0.001)
    grey = torch.randint(0, 255, (5, 128, 128), dtype=torch.uint8)
    assert set(classifier.predicted(grey)) <= {0, 1, 2}
    loss, _ = classifier(grey[:, None].float() / 255, torch.tensor([0, 1, 2, 0, 1]))
    assert loss.item() > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": (1,)}, "over two seeds at least"),
        ({"network": "vgg"}, "network = 'vgg'; possible are small, resnet34"),
        ({"task": {"t": TaskRecipe("iq", ("x",))}}, "task.t.labels = 'iq'; possible are plane"),
        ({"task": {"t": TaskRecipe("sex", ("x",), ("train",))}}, "has 'train'"),
        ({"task": {"t": TaskRecipe("sex", ("x",), twins="same")}}, "task.t.twins = 'same'"),
        ({"arm": {"a": ArmRecipe()}}, r"\[arm.a\]: real and synthetic are shares"),
        ({"arm": {"a": ArmRecipe(1.0, against=("b",))}}, "is to be compared with 'b'"),
        ({"arm": {"a": ArmRecipe(1.0, kept=0.5)}}, r"\[task.t\] names no minority"),
        ({"arm": {"a": ArmRecipe(1.0, pretrain=True)}}, "pretrain needs real and synthetic"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused_before_any_work(
    changes: dict[str, object], sentence: str
) -> None:
    recipe = DownstreamRecipe(task={"t": TaskRecipe("sex", ("x",))}, arm={"a": ArmRecipe(1.0)})
    check(recipe)
    with pytest.raises(RecipeError, match=sentence):
        check(replace(recipe, **changes))  # type: ignore[arg-type]


def test_the_recipe_in_the_repository_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "recipes" / "downstream.toml"
    check(read_recipe(DownstreamRecipe, path))
    assert cli.main(["downstream", str(path), "--dry-run"]) == 0
    assert (
        "would train 156 classifiers for age, sex, lesion, tumour, tumour-again, plane, plane-contrast"
        in capsys.readouterr().out
    )
