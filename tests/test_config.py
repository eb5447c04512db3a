from __future__ import annotations

from pathlib import Path

import pytest

from atlas.agreement import Setting
from brainclip.config import AdapterRecipe, load_recipe, read_recipe
from brainclip.errors import RecipeError
from brainclip.evaluate.ablation import AblationRecipe
from brainclip.evaluate.agreement import AgreementRecipe
from brainclip.train.checks import check_stage

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.parametrize(("name", "model"), [("tiny", "tiny"), ("mini", "mini"), ("mini_age", "mini")])
def test_recipes_of_the_repository_load(name: str, model: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    assert recipe.name == model
    assert set(recipe.clip.mix) <= set(recipe.pairs)
    assert recipe.clip.text_width == recipe.clip.embedding


def test_the_second_round_of_mini_has_the_same_pairs_and_adapter_as_the_first() -> None:
    first, second = (load_recipe(RECIPES / f"{name}.toml") for name in ("mini", "mini_age"))
    assert second.folder != first.folder
    for part in ("size", "spacing_mm", "simulate", "pairs", "adapter", "judge"):
        assert getattr(second, part) == getattr(first, part), part
    for stage in ("clip", "prior", "decoder"):
        assert getattr(second, stage).start == f"{first.folder}/model/{stage}"
        assert getattr(second, stage).mix == getattr(first, stage).mix


def test_the_study_of_labels_loads() -> None:
    recipe = read_recipe(AgreementRecipe, RECIPES / "agreement.toml")
    assert recipe.setting["chosen"] == Setting()
    assert set(recipe.heads) == set(recipe.setting) - {"chosen"}


def test_the_recipe_on_published_models_passes_every_check_that_needs_no_weights() -> None:
    recipe = load_recipe(RECIPES / "base.toml")
    for stage in ("pairs", "clip", "prior", "decoder", "judge"):
        check_stage(recipe, stage)
    check_stage(recipe, "decoder", adapter="brain")
    assert AdapterRecipe().targets == ("cross-attention",)  # as the brief asks
    assert set(recipe.pairs) == set(recipe.clip.mix) == set(recipe.adapter["brain"].mix)
    assert recipe.clip.base == f"transformers:{recipe.prior.base}"  # the prior is of this CLIP
    assert recipe.clip.locked == "image" and not recipe.decoder.project
    assert recipe.adapter["brain"].targets == ("cross-attention",)


def test_the_study_of_the_decoder_loads_and_its_variants_are_recipes() -> None:
    study = read_recipe(AblationRecipe, RECIPES / "ablation.toml")
    for name, variant in study.variant.items():
        recipe = load_recipe(RECIPES / "mini_age.toml", [*study.common, *variant.set])
        assert recipe.adapter["ixi"].steps == recipe.decoder.steps == 600, name
        assert recipe.decoder.start == ""


def test_override_replaces_a_value_and_keeps_its_type() -> None:
    recipe = load_recipe(
        RECIPES / "tiny.toml", ["clip.steps=3", "vae.rate=1", "folder=elsewhere", "decoder.channels=[8, 16]"]
    )
    assert (recipe.clip.steps, recipe.vae.rate, recipe.folder, recipe.decoder.channels) == (
        3,
        1.0,
        "elsewhere",
        (8, 16),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[clip]\nlayer = 3", "unknown key 'layer' in \\[clip\\]; known keys: mix, slices, steps"),
        ("[clip]\nsteps = 'many'", "clip.steps = 'many' should be of type int"),
        ("[clip]\nsteps = true", "clip.steps = True should be of type int"),
        ("[pairs.ixi]\nmask = 'x'", "unknown key 'mask' in \\[pairs.ixi\\]"),
        ("clip = 3", "\\[clip\\] should be a table"),
        ("[clip", "not a readable TOML file"),
    ],
)
def test_wrong_recipe_is_one_clear_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=sentence):
        load_recipe(path)


def test_missing_recipe_names_the_bundled_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipes/tiny\.toml"):
        load_recipe(tmp_path / "no.toml")


def test_override_without_a_value_is_refused() -> None:
    with pytest.raises(RecipeError, match="expected key=value"):
        load_recipe(RECIPES / "tiny.toml", ["clip.steps"])
