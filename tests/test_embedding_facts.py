"""Classes, calibrated confidence, captions by neighbours, people pooled, brain age: the planted is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from atlas.facts import Facts, level_at
from atlas.prompt import read_prompt
from atlas.slices import MODALITIES, PLANES
from brainclip.embedding.calibration import Calibration, calibration_error, fit_sharpness, sharpened
from brainclip.embedding.captioning import Neighbours, answers_to, describe, in_answers, value_of
from brainclip.embedding.classes import probabilities, words
from brainclip.embedding.index import Index
from brainclip.embedding.people import PeoplePooling, fit_age
from brainclip.embedding.rows import Cohort, row_of, table_of
from brainclip.errors import BrainclipError
from brainclip.evaluate.brain_age import brain_age

WIDTH = 12


class Towers:
    logit_scale = torch.tensor(np.log(50.0))


class Planted:
    """A CLIP whose text embeddings show plane and contrast, each in dimensions of their own."""

    hash = "planted"
    towers = Towers()

    def tokenize(self, texts: list[str]) -> list[str]:
        return list(texts)

    def encode_text(self, tokens: list[str]) -> tuple[torch.Tensor, None]:
        return torch.stack([direction(read_prompt(text).facts) for text in tokens]), None


class Model:
    clip = Planted()
    name = "planted-0"
    folder = Path("none")


def direction(facts: Facts) -> torch.Tensor:
    made = torch.zeros(WIDTH)
    made[0] = 0.1
    for start, choices, value in ((1, PLANES, facts.plane), (4, MODALITIES, facts.modality)):
        if value is not None:
            made[start + choices.index(value)] = 1.0
    return torch.nn.functional.normalize(made, dim=0)


def cohort(people: dict[str, tuple[str, float]], *, seed: int = 0, noise: float = 0.02) -> Cohort:
    """Slices of people (split, age), whose embeddings show plane, contrast T1 or T2, and age in dimension 9,
    and the level in dimension 10."""
    generator = np.random.default_rng(seed)
    rows, made = [], []
    for person, (split, age) in people.items():
        for plane in PLANES:
            for place in generator.choice(np.arange(-40, 60, 5), size=14, replace=False):
                level = level_at(plane, float(place))
                facts = Facts(
                    plane, float(place), "T1", level, known={"age": age, "sex": "female"}, source="x"
                )
                embedding = direction(facts).numpy() + noise * generator.normal(size=WIDTH)
                embedding[9] = (age - 50) / 100
                embedding[10] = float(place) / 20
                made.append(embedding / np.linalg.norm(embedding))
                rows.append(row_of(facts, subject=person, split=split, model="planted-0"))
    table = table_of(rows, np.stack(made), {})
    from brainclip.embedding.rows import columns_of

    about = {"model": "planted-0", "clip": "planted", "geometry": {}, "folder": "x"}
    return Cohort(np.stack(made).astype(np.float32), columns_of(table), about)


def people(n: dict[str, int]) -> dict[str, tuple[str, float]]:
    generator = np.random.default_rng(1)
    return {
        f"{split}{k}": (split, float(generator.uniform(20, 80)))
        for split, count in n.items()
        for k in range(count)
    }


def test_probabilities_sum_to_one_and_name_what_is_planted() -> None:
    facts = [Facts("axial", modality="T2"), Facts("sagittal", modality="PD")]
    image = torch.stack([direction(fact) for fact in facts])
    for question, true in (("plane", ("axial", "sagittal")), ("modality", ("T2", "PD"))):
        probs = probabilities(Planted(), image, facts, question)  # type: ignore[arg-type]
        assert all(row.sum() == pytest.approx(1) for row in probs)
        assert [words(question, f)[int(p.argmax())] for f, p in zip(facts, probs, strict=True)] == list(true)
    own = probabilities(  # type: ignore[arg-type]
        Planted(), image[:1], facts[:1], "modality", answers=[{"plane": "axial"}, {"plane": "coronal"}]
    )
    assert own[0][0] > own[0][1]
    with pytest.raises(BrainclipError, match="no question 'colour'"):
        words("colour", facts[0])


def test_sharpness_of_answers_that_are_too_sure_is_found() -> None:
    generator = np.random.default_rng(0)
    true_probs = generator.dirichlet(np.ones(4), size=6000)
    right = np.array([generator.choice(4, p=row) for row in true_probs])
    too_sure = [sharpened(row, 3.0) for row in true_probs]
    exponent = fit_sharpness(too_sure, right)
    assert exponent == pytest.approx(1 / 3, rel=0.1)  # of 6,000 answers
    for probs, most in ((too_sure, 1.0), ([sharpened(row, exponent) for row in too_sure], 0.03)):
        confidence = np.array([row.max() for row in probs])
        hits = np.array([row.argmax() for row in probs]) == right
        error = calibration_error(confidence, hits)
        assert error < most and (most == 0.03 or error > 0.1)


def test_calibration_comes_back_from_its_file_and_belongs_to_one_clip(tmp_path: Path) -> None:
    made = Calibration("planted", {"zero_shot": {"plane": 0.4}}, "10 people")
    made.save(tmp_path / "calibration.json")
    model = Model()
    model.folder = tmp_path
    found = Calibration.load(model)  # type: ignore[arg-type]
    assert found == made and found.of("zero_shot", "plane") == 0.4 and found.of("neighbours", "sex") == 1.0
    Calibration("another", {}, "10 people").save(tmp_path / "calibration.json")
    assert Calibration.load(model).fitted_on == ""  # type: ignore[arg-type]


def test_neighbours_tell_place_age_and_facts(tmp_path: Path) -> None:
    whole = cohort(people({"train": 8, "test": 2}))
    index = in_memory(whole.take(whole.columns["split"] == "train"), tmp_path)
    tested = whole.take(whole.columns["split"] == "test")
    for row in range(0, len(tested), 7):
        fact = tested.facts(row)
        made = describe(
            Model(),  # type: ignore[arg-type]
            torch.from_numpy(tested.embeddings[row]),
            index=index,
            calibration=Calibration("planted"),
        )
        said = {one.question: one.value for one in made.answers}
        assert said["plane"] == fact.plane and said["modality"] == "T1" and said["sex"] == "female"
        assert str(fact.plane) in made.text.lower() or fact.plane == "axial"
        place = float(fact.position_mm or 0)
        place = abs(place) if fact.plane == "sagittal" else place
        assert made.position_mm is not None and abs(made.position_mm[0] - place) < 10
        assert not made.calibrated
    near = Neighbours([Facts("axial"), Facts("coronal")], np.array([0.5, 0.5]))
    assert near.votes("plane", PLANES, Facts()).sum() == pytest.approx(1)
    assert near.position(Facts("axial")) is None and near.age() is None
    assert value_of("age_band", Facts(known={"age": 40.0})) == "middle-aged"
    assert value_of("age_band", Facts(known={"age": 3.0})) is None


def test_side_of_a_sagittal_slice_is_not_said() -> None:
    left, right = (Facts("sagittal", x, level=level_at("sagittal", x)) for x in (-28.0, 26.0))
    assert left.level == "left hippocampus" and right.level == "right hippocampus"
    assert value_of("level", left) == value_of("level", right) == "hippocampus"
    near = Neighbours([left, right], np.array([0.6, 0.4]))
    place, spread = near.position(Facts("sagittal")) or (0, 0)
    assert place == pytest.approx(27.2) and spread == pytest.approx(0.98, abs=0.01)  # from the midline
    given = Facts("sagittal")
    answers = answers_to("level", given)
    assert answers.count("hippocampus") == 1 and "midline" in answers and len(answers) == 9
    assert near.votes("level", answers, given).argmax() == answers.index("hippocampus")
    probs = np.zeros(len(words("level", given)))
    probs[[words("level", given).index(str(fact.level)) for fact in (left, right)]] = 0.5
    assert in_answers(probs, "level", given)[answers.index("hippocampus")] == 1
    assert "left hippocampus" not in answers_to("level", Facts("coronal"))


def in_memory(part: Cohort, folder: Path) -> Index:
    import pyarrow.parquet as pq

    rows = [{name: values[k] for name, values in part.columns.items()} for k in range(len(part))]
    about = part.about | {"left_out": []}
    pq.write_table(table_of(rows, part.embeddings, about), folder / "x.parquet")
    return Index.build(folder / "x.parquet", folder / "index")


def test_pooling_by_levels_does_not_depend_on_which_levels_were_cut() -> None:
    whole = cohort(people({"train": 30, "test": 4}), noise=0.0)
    train = whole.take(whole.columns["split"] == "train")
    tested = whole.take(whole.columns["split"] == "test")
    high = tested.take(tested.columns["position_mm"].astype(float) > 0)
    shifts = {}
    for pooling in ("mean", "levels"):
        made = PeoplePooling(pooling).fit(train)
        spread = made.transform(train).features.std(0).sum()
        shifts[pooling] = (
            np.abs(made.transform(tested).features - made.transform(high).features).sum(1).mean() / spread
        )
    assert shifts["levels"] < shifts["mean"] / 3
    pooled = PeoplePooling().fit(train).transform(tested)
    assert pooled.features.shape == (4, WIDTH) and list(pooled.slices) == [42] * 4
    assert PeoplePooling("planes").fit(train).transform(tested).features.shape == (4, 3 * WIDTH)
    assert list(pooled.subject) == sorted(set(tested.columns["subject"]))


def test_pooling_is_an_estimator_and_refuses_what_it_does_not_know() -> None:
    assert clone(PeoplePooling("mean")).get_params() == {"pooling": "mean"}
    whole = cohort(people({"train": 3}))
    with pytest.raises(BrainclipError, match="pooling 'max'; possible: levels, planes, mean"):
        PeoplePooling("max").fit(whole)
    made = PeoplePooling().fit(whole.take(whole.columns["plane"] == "axial"))
    assert list(made.transform(whole).slices) == [14] * 3  # of 42
    with pytest.raises(BrainclipError, match="train0  T1: no slice at a plane"):
        made.transform(whole.take(whole.columns["plane"] == "coronal"))
    with pytest.raises(BrainclipError, match="without slices"):
        PeoplePooling().fit(whole.take(np.zeros(0, dtype=int)))


def test_planted_age_is_read_and_an_age_that_is_not_there_is_not() -> None:
    whole = cohort(people({"train": 40, "validation": 10, "test": 12}))
    found = brain_age(whole, "T1")
    assert found["test"]["error"]["value"] < 3 < found["test"]["error_of_the_mean_age"]["value"]
    assert found["test"]["r"]["value"] > 0.97 and found["people"] == {
        "train": 40,
        "validation": 10,
        "test": 12,
    }
    shuffled = Cohort(whole.embeddings, dict(whole.columns), whole.about)
    names = whole.columns["subject"]
    ages = dict(zip(names, np.random.default_rng(5).permutation(whole.columns["age"]), strict=True))
    shuffled.columns["age"] = np.array([ages[name] for name in names])
    assert abs(brain_age(shuffled, "T1")["test"]["r"]["value"]) < 0.7
    with pytest.raises(BrainclipError, match="needs T2 slices"):
        brain_age(whole, "T2")


def test_brain_age_without_ages_is_refused() -> None:
    whole = cohort(people({"train": 3}))
    whole.columns["age"][:] = np.nan
    made = PeoplePooling().fit(whole).transform(whole)
    with pytest.raises(BrainclipError, match="people of known age"):
        fit_age(made, made)
