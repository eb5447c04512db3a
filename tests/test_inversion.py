"""New words for a decoder that reads captions: trained, saved, used in prompts, opened by diffusers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from test_adapters import LARGE, SMALL, saved
from toy_bases import Lab, recipe_of, toy_lab

from brainclip import cli
from brainclip.config import InversionRecipe, Recipe
from brainclip.decoder import Decoder
from brainclip.errors import RecipeError, WeightsError
from brainclip.inversion import split_tokens
from brainclip.model import load
from brainclip.train.assemble import assemble
from brainclip.train.checks_decoder import check_inversion
from brainclip.train.decoder import train_decoder
from brainclip.train.inversion import train_inversion
from brainclip.weights import read_json, write_json

CLINIC = InversionRecipe(
    mix={"toy": 1.0}, steps=2, batch=4, warmup=0, device="cpu", ema=0.0, rate=0.1, token="<clinic>", vectors=2
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return toy_lab(tmp_path_factory.mktemp("lab"))


def with_tokens(recipe: Recipe, **tables: InversionRecipe) -> Recipe:
    return replace(recipe, inversion=tables)


@pytest.fixture(scope="module")
def recipe(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Of a trained decoder over a toy SDXL, and of a token that has been trained with it."""
    folder = tmp_path_factory.mktemp("model") / "run"
    base = recipe_of(lab, folder, base=str(lab.bases[LARGE]), train="projection", text=True)
    train_decoder(base)
    asked = with_tokens(base, clinic=CLINIC)
    train_inversion(asked, "clinic")
    assemble(asked)
    return asked


def test_only_the_new_rows_change(lab: Lab, recipe: Recipe) -> None:
    folder = Path(recipe.folder) / "decoder"
    run = folder / "inversions" / "clinic"
    state = torch.load(run / "state.pt", weights_only=True)
    names = set(state["optimizer"]["state"])
    parts = {"text_encoder": "learned_embeds.safetensors", "text_encoder_2": "learned_embeds_2.safetensors"}
    before = Decoder.load(folder, lab.clip)
    scale = {"decoder.scale.mean", "decoder.scale.std"}
    assert set(state["objective"]) == names | scale  # nothing else is trained, so nothing else is kept
    for part, file in parts.items():
        [trained] = [name for name in names if f".{part}." in name]
        assert trained.endswith("token_embedding.learned")
        embedding = before.layout.parts[part].get_input_embeddings()
        [word] = before.layout.tokenizers.all["tokenizer"]("brain", add_special_tokens=False).input_ids
        learned = load_file(run / file)
        assert set(learned) == {"<clinic>"} and learned["<clinic>"].shape == (2, embedding.embedding_dim)
        moved = (learned["<clinic>"] - embedding.weight[word]).abs()
        assert 0.01 < moved.max() < 1  # two steps from the word
    assert len(names) == 2


def test_a_stopped_run_resumes_bit_for_bit(recipe: Recipe) -> None:
    inversions = Path(recipe.folder) / "decoder" / "inversions"
    longer = {name: replace(CLINIC, steps=3, token=f"<{name}>") for name in ("straight", "stopped")}
    train_inversion(with_tokens(recipe, stopped=replace(longer["stopped"], steps=1)), "stopped")
    for name, table in longer.items():
        train_inversion(with_tokens(recipe, **{name: table}), name)
    for file in ("learned_embeds.safetensors", "learned_embeds_2.safetensors"):
        one, other = (load_file(inversions / name / file)[f"<{name}>"] for name in longer)
        assert torch.equal(one, other)
    for name in longer:
        shutil.rmtree(inversions / name)


def test_a_prompt_uses_the_token_and_the_clip_does_not_see_it(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(recipe.folder) / "model"
    model, common = load(folder), {"seed": 3, "steps": 2, "adapter": None}
    assert model.inversions == {"<clinic>": "clinic"}
    plain = model.generate("axial T1 slice, z = 12 mm", **common)[0]
    used = model.generate("axial T1 slice, <Clinic>, z = 12 mm", **common)[0]
    again = model.generate("axial T1 slice, z = 12 mm", **common)[0]
    assert (again.pixels == plain.pixels).all()  # the token in use changes nothing for other prompts
    assert abs(used.pixels - plain.pixels).max() > 1e-3
    assert (used.embedding == plain.embedding).all() and used.facts == plain.facts
    assert used.settings["caption"] == plain.settings["caption"] + ", <clinic>"
    assert used.warnings == plain.warnings
    assert "<Clinic>" in used.prompt
    unknown = model.generate("axial T1 slice, <other>, z = 12 mm", **common)[0]
    assert "'other' is not in this model's training captions" in unknown.warnings
    argv = ["generate", "axial T1 slice <clinic>", "--model", str(folder), "--out", str(tmp_path / "x.png")]
    assert cli.main([*argv, "--dry-run"]) == 0
    assert "clinic" not in capsys.readouterr().err


def test_diffusers_loads_the_file_and_reads_the_prompt_alike(lab: Lab, recipe: Recipe) -> None:
    run = Path(recipe.folder) / "decoder" / "inversions" / "clinic"
    decoder = Decoder.load(run.parent.parent, lab.clip)
    decoder.use_inversion("clinic")
    pipeline: Any = diffusers.StableDiffusionXLPipeline.from_pretrained(run.parent.parent)
    pipeline.load_textual_inversion(run / "learned_embeds.safetensors")
    pipeline.load_textual_inversion(
        run / "learned_embeds_2.safetensors",
        tokenizer=pipeline.tokenizer_2,
        text_encoder=pipeline.text_encoder_2,
    )
    prompt = "axial t1 slice, <clinic>"
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        ours = decoder.layout.read(decoder.layout.tokens([prompt]))
    assert torch.equal(states, ours[0]) and torch.equal(pooled, ours[1])
    ids = decoder.layout.tokens([prompt, "axial t1 slice, "])["tokenizer"]
    new = decoder.layout.tokenizers.ids("<clinic>", "tokenizer")
    assert [number for number in ids[0].tolist() if number in new] == new and not set(ids[1].tolist()) & set(
        new
    )


def test_the_end_of_a_caption_is_found_where_the_base_says_2_for_it(lab: Lab, tmp_path: Path) -> None:
    """As the published files of SDXL do: the end is then sought by the highest id, here the new token's."""
    decoder = Decoder.load(saved(lab, LARGE, tmp_path / "decoder"), lab.clip)
    layout = decoder.layout
    inner = layout.parts["text_encoder_2"].text_model
    inner.eos_token_id = 2
    said = layout.tokens(["axial t1 slice"])
    with torch.no_grad():
        before = layout.read(said)[1]
        decoder.add_inversion("x", CLINIC)
        assert torch.equal(layout.read(said)[1], before)
        ids = layout.tokens(["<clinic> axial t1 slice"])["tokenizer_2"]
        end = ids[0].tolist().index(layout.tokenizers.all["tokenizer_2"].eos_token_id)
        states = inner(ids)
    assert torch.equal(states.pooler_output[0], states.last_hidden_state[0, end])


def test_tokens_are_taken_out_of_a_prompt() -> None:
    tokens = {"<a>": "x", "<b-2>": "y"}
    assert split_tokens("axial T1 slice", tokens) == ("axial T1 slice", ())
    assert split_tokens("<A>, axial <b-2> T1 slice, <a>", tokens) == ("axial T1 slice", ("<a>", "<b-2>"))
    assert split_tokens("axial, <a>, T1 <c>", tokens) == ("axial, T1 <c>", ("<a>",))


def test_what_no_new_token_can_be(lab: Lab, recipe: Recipe, tmp_path: Path) -> None:
    for table, sentence in (
        (
            replace(CLINIC, token="clinic"),
            r"inversion\.x\.token = 'clinic': a new token is written as <clinic>",
        ),
        (replace(CLINIC, token="<a b>"), "a new token is written as <clinic>"),
        (replace(CLINIC, vectors=0), r"inversion\.x\.vectors = 0"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            check_inversion(with_tokens(recipe, x=table), "x")
    with pytest.raises(RecipeError, match=r"\[inversion\.y\] has the same"):
        check_inversion(with_tokens(recipe, x=CLINIC, y=CLINIC), "x")
    with pytest.raises(RecipeError, match=r"no table \[inversion\.y\]; it has: clinic"):
        check_inversion(recipe, "y")
    decoder = Decoder.load(saved(lab, SMALL, tmp_path / "decoder"), lab.clip)
    with pytest.raises(
        RecipeError, match=r"word = 'hippocampal brain': [2-9] tokens of the base's text_encoder"
    ):
        decoder.add_inversion("x", replace(CLINIC, word="hippocampal brain"))
    silent = recipe_of(lab, tmp_path / "silent", base=str(lab.bases[SMALL]), train="projection")
    train_decoder(silent)
    with pytest.raises(RecipeError, match=r"inversion\.x: this decoder has no text path"):
        train_inversion(with_tokens(silent, x=CLINIC), "x")
    folder = tmp_path / "silent" / "decoder"
    deaf = Decoder.load(folder, lab.clip)
    write_json(folder / "inversions" / "x" / "inversion.json", {"base": deaf.hash, "token": "<x>"})
    with pytest.raises(WeightsError, match="inversion 'x': this decoder has no text path that reads <x>"):
        Decoder.load(folder, lab.clip).use_inversion("x")


def test_tokens_of_another_base_or_with_other_rows_are_refused(
    lab: Lab, recipe: Recipe, tmp_path: Path
) -> None:
    folder = saved(lab, SMALL, tmp_path / "decoder")
    shutil.copytree(Path(recipe.folder) / "decoder" / "inversions", folder / "inversions")
    decoder = Decoder.load(folder, lab.clip)
    path = folder / "inversions" / "clinic" / "inversion.json"
    theirs = read_json(path)["base"]
    sentence = (
        f"inversion 'clinic' was trained on the decoder {theirs}, this model's decoder is {decoder.hash}"
    )
    with pytest.raises(WeightsError, match=sentence):
        decoder.use_inversion("clinic")
    with pytest.raises(WeightsError, match="no inversion 'lab' in this model; it has: clinic"):
        decoder.use_inversion("lab")
    write_json(path, read_json(path) | {"base": decoder.hash})
    path.with_name("learned_embeds_2.safetensors").rename(path.with_name("learned_embeds.safetensors"))
    with pytest.raises(
        WeightsError, match=r"holds <clinic> \(2, 16\); this decoder's text_encoder takes .* 24"
    ):
        Decoder.load(folder, lab.clip).use_inversion("clinic")
