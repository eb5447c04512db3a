"""Anatomy of a toy model's pictures: what is compared with what, and the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_run import toy_run
from toy_tissues import write_toy_tissues

from atlas.facts import Facts
from atlas.prompt import read_prompt
from brainclip.config import load_recipe
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError
from brainclip.evaluate import age_sweep, ventricles
from brainclip.evaluate.age_sweep import AGES, EACH
from brainclip.evaluate.anatomy import anatomy, run_anatomy
from brainclip.evaluate.counterparts import asked_like, chosen_rows
from brainclip.evaluate.page import markdown
from brainclip.evaluate.sections.anatomy import section
from brainclip.model import load

TABLE = """
[segmenter]
mix = { toy = 1.0 }
people = 8
steps = 40
batch = 8
rate = 1e-2
warmup = 5
decay = 20
ema = 0.9
channels = [8, 16]
device = "cpu"
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = toy_run(tmp_path_factory.mktemp("toy"))
    path.write_text(path.read_text() + TABLE)
    write_toy_tissues(load_recipe(path), "toy")
    return path


@pytest.fixture(scope="module")
def part(recipe: Path) -> dict[str, Any]:
    loaded = load_recipe(recipe)
    held_out = PairDataset([loaded.pairs_folder("toy")], "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ventricles, "FEWEST", 4)  # the toy run has few slices there
        patch.setattr(age_sweep, "FEWEST", 2)
        patch.setattr(age_sweep, "NEAR_MM", 20.0)
        return anatomy(load(recipe.parent / "model"), loaded, held_out, recipe.parent / "anatomy")


def test_every_contrast_is_compared_and_every_figure_has_its_n_and_interval(part: dict[str, Any]) -> None:
    assert set(part["groups"]) == {"toy T1", "toy T2", "toy PD", "toy FLAIR"}
    found = []

    def walk(node: object) -> None:
        if isinstance(node, dict) and "value" in node:
            found.append(node)
        elif isinstance(node, dict):
            for child in node.values():
                walk(child)

    walk(part)
    assert len(found) > 100 and all({"low", "high", "n"} <= set(figure) for figure in found)


def test_the_floor_and_the_held_out_slices_are_nearer_than_pictures_of_an_untrained_model(
    part: dict[str, Any],
) -> None:
    for group in part["groups"].values():
        white = group["areas"]["white matter"]
        assert abs(white["floor_difference"]["value"]) < abs(white["difference"]["value"])


def test_sheet_and_tables_are_written(recipe: Path, part: dict[str, Any]) -> None:
    with Image.open(recipe.parent / "anatomy" / "segmenter.png") as sheet:
        assert sheet.width > 5 * 128 and sheet.height > 8 * 128
    made = section({"anatomy": part})
    assert made is not None and section({}) is None
    text = markdown("", "", [made])
    assert "| toy T1, lateral ventricles |" in text and "| toy FLAIR, any of these |" in text
    assert text.count("\n\n") >= 4 and "nan" not in text


def test_the_verb_says_what_it_would_do_and_refuses_the_training_split(recipe: Path) -> None:
    assert "would write" in run_anatomy(recipe, [], split="test", dry_run=True)
    with pytest.raises(BrainclipError, match="validation, test"):
        run_anatomy(recipe, [], split="train")


def test_a_prompt_says_the_facts_of_its_slice_and_is_read_so() -> None:
    facts = Facts("coronal", -21.5, "FLAIR", known={"age": 63.6, "sex": "female"})
    asked = asked_like(facts)
    assert asked.text == "coronal FLAIR slice at y = -22 mm, healthy 64-year-old woman"
    read = read_prompt(asked.text).facts
    assert (read.plane, read.modality, read.position_mm) == ("coronal", "FLAIR", -22)
    assert read.known["age"] == 64 and read.known["sex"] == "female"
    unknown = asked_like(Facts("axial", 12.0, "T1"))
    assert unknown.text == "axial T1 slice at z = 12 mm, healthy adult" and unknown.age is None
    assert unknown.at_ventricles


def test_slices_are_of_every_person_and_contrast_and_none_is_taken_twice(recipe: Path) -> None:
    data = PairDataset([load_recipe(recipe).pairs_folder("toy")], "test")
    rows = chosen_rows(data, ["T1", "T2", "PD", "FLAIR"], people=9)
    assert len(set(rows.tolist())) == len(rows)
    kinds = {(data.pairs[i].subject, data.pairs[i].facts.modality) for i in rows}
    assert len(kinds) == 3 * 4
    few = chosen_rows(data, ["T1"], people=2)
    assert len({data.pairs[i].subject for i in few}) == 2
    assert np.array_equal(few, chosen_rows(data, ["T1"], people=2))


def test_each_size_of_the_ventricles_is_asked_of_each_person_and_judged(part: dict[str, Any]) -> None:
    for found in part["sizes"].values():
        asked = np.array(found["made"]["counts"]).sum(1)
        assert asked[0] > 0 and len(set(asked.tolist())) == 1
        assert found["made"]["right"]["n"] == asked.sum() and set(found["shares"]) == set(
            found["made"]["labels"]
        )
    assert part["sizes"]


def test_ventricles_are_read_over_all_ages_beside_people(part: dict[str, Any]) -> None:
    assert part["ages"]
    for found in part["ages"].values():
        assert found["made"]["slope"]["n"] == len(AGES) * EACH and found["people"]["slope"]["n"] >= 2
        assert set(found["made"]["at"]) == set(found["people"]["at"]) == {"30", "80"}
