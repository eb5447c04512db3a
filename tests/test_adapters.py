"""Several adapters at once, weighted and merged, and adapters as files of other programs."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from toy_bases import Lab, recipe_of, toy_lab

from brainclip import cli
from brainclip.config import AdapterRecipe, DecoderRecipe
from brainclip.decoder import Decoder
from brainclip.errors import RecipeError, WeightsError
from brainclip.model import load
from brainclip.train.assemble import assemble
from brainclip.train.decoder import train_adapter, train_decoder
from brainclip.weights import read_json

SMALL, LARGE = "stable-diffusion", "stable-diffusion-xl"
SETTINGS = {"steps": 2, "guidance": 1.5, "captions": ["axial T1 slice", "coronal T2 slice"]}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return toy_lab(tmp_path_factory.mktemp("lab"))


def made(decoder: Decoder) -> Tensor:
    whitened = torch.randn(2, 32, generator=torch.Generator().manual_seed(7))
    return decoder.sample(whitened, [0, 1], **SETTINGS)


def saved(lab: Lab, kind: str, folder: Path) -> Path:
    """A decoder over a toy base that reads captions."""
    torch.manual_seed(1)
    recipe = DecoderRecipe(base=str(lab.bases[kind]), text=True, tokens=3)
    Decoder.new(recipe, lab.clip, size=32).save(folder, dtype=None)
    return folder


def plant(folder: Path, lab: Lab, name: str, seed: int, *, projection: bool = False, **recipe: Any) -> None:
    """A random adapter of the decoder in `folder`, with an alpha that is not its rank."""
    decoder = Decoder.load(folder, lab.clip)
    torch.manual_seed(seed)
    decoder.add_adapter(name, AdapterRecipe(**{"rank": 2, "alpha": 6, "text": True} | recipe))
    for key, parameter in decoder.named_parameters():
        if parameter.requires_grad and (projection or "lora" in key):
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    card = {"base": decoder.hash, "rank": 2, "alpha": 6, "modalities": ["T1"], "default": False}
    decoder.save_adapter(name, folder / "adapters" / name, card)
    if not projection:
        shutil.rmtree(folder / "adapters" / name / "projection")


def test_weights_multiply_what_each_adapter_adds(lab: Lab, tmp_path: Path) -> None:
    folder = saved(lab, SMALL, tmp_path / "decoder")
    for seed, name in enumerate(("a", "b")):
        plant(folder, lab, name, seed, targets=(("to_q",), ("to_q", "to_v"))[seed])
    decoder = Decoder.load(folder, lab.clip)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    given = torch.randn(1, 5, 64)

    def answer(adapter: Any) -> Tensor:
        decoder.use_adapter(adapter)
        with torch.no_grad():
            return decoder.unet.get_submodule(layer)(given)

    base, a, b = (answer(adapter) for adapter in (None, "a", "b"))
    assert (a - base).abs().max() > 1e-3 and (b - base).abs().max() > 1e-3
    both = answer({"a": 0.7, "b": -0.5})
    assert torch.allclose(both, base + 0.7 * (a - base) - 0.5 * (b - base), atol=1e-5)
    assert torch.equal(answer("a"), a) and torch.equal(answer({"a": 1, "b": 0}), a)
    assert torch.equal(answer(None), base)
    decoder.use_adapter({"a": 0.7, "b": 0.5})
    first = made(decoder)
    decoder.use_adapter("b")
    assert not torch.equal(made(decoder), first)
    decoder.use_adapter({"b": 0.5, "a": 0.7})
    assert torch.allclose(made(decoder), first, atol=1e-5)


def test_adapters_that_cannot_be_used_together_or_at_all(lab: Lab, tmp_path: Path) -> None:
    folder = saved(lab, SMALL, tmp_path / "decoder")
    for seed, name in enumerate(("a", "b")):
        plant(folder, lab, name, seed, projection=True, text=False)
    decoder = Decoder.load(folder, lab.clip)
    own = decoder.projection.to_tokens.image_embeds.weight.clone()
    with pytest.raises(WeightsError, match=r"adapters 'a' and 'b' have a projection .* room for one"):
        decoder.use_adapter({"a": 0.5, "b": 0.5})
    shutil.rmtree(folder / "adapters" / "b" / "projection")
    decoder.use_adapter({"a": 0.5, "b": 0.5})
    assert not torch.equal(decoder.projection.to_tokens.image_embeds.weight, own)
    decoder.use_adapter("b")
    assert torch.equal(decoder.projection.to_tokens.image_embeds.weight, own)
    with pytest.raises(WeightsError, match="no adapter 'c' in this model; it has: a, b"):
        decoder.use_adapter({"a": 1, "c": 1})
    for weight in (math.nan, math.inf, "much"):
        with pytest.raises(WeightsError, match=f"adapter 'a' has the weight {weight!r}; give a finite"):
            decoder.use_adapter({"a": weight})  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def model(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model over a toy SDXL with text, and three adapters."""
    root = tmp_path_factory.mktemp("model")
    recipe = recipe_of(lab, root / "run", base=str(lab.bases[LARGE]), train="projection", text=True)
    train_decoder(recipe)
    train_adapter(replace(recipe, adapter={"own": replace(recipe.adapter["site"], text=True)}), "own")
    for seed, name in enumerate(("a", "b")):
        plant(root / "run" / "decoder", lab, name, seed)
    return assemble(recipe)


def test_generate_takes_weights_and_a_merged_model_draws_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"a": 0.7, "own": 0.5}
    common = {"seed": 3, "steps": 2}
    prompt = "axial T1 slice, z = 12 mm"
    base, weighted, one = (
        load(model).generate(prompt, adapter=adapter, **common)[0] for adapter in (None, asked, {"a": 1})
    )
    assert (weighted.settings["adapter"], one.settings["adapter"]) == (asked, "a")
    assert abs(base.pixels - weighted.pixels).max() > 1e-2
    out = tmp_path / "merged"
    line = ["merge", str(model), str(out), "--adapter", "a:0.7", "--adapter", "own:0.5"]
    assert cli.main(line) == 0
    merged = load(out)
    assert f"({merged.name}, with a 0.7, own 0.5)" in capsys.readouterr().out
    assert merged.name != load(model).name and merged.adapters == ()
    drawn = merged.generate(prompt, **common)[0]
    assert abs(drawn.pixels - weighted.pixels).max() < 1e-4
    [made_of] = read_json(out / "decoder" / "contract.json")["merged"]
    assert made_of["decoder"] == load(model).decoder.hash != merged.decoder.hash
    assert {name: found["weight"] for name, found in made_of["adapters"].items()} == asked
    again = cli.main([*line[:3], "--adapter", "b"])
    assert again == 2 and "there already; name a new folder" in capsys.readouterr().err
    with pytest.raises(WeightsError, match=r"no adapter 'c' in .*; it has: a, b, own"):
        load(model).generate(prompt, adapter={"c": 1.0})


def test_weights_are_read_from_the_command_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt, common = "axial T1 slice, z = 12 mm", ["--steps", "1", "--model", str(model)]
    out = tmp_path / "x.png"
    given = ["--adapter", "a:0.7", "--adapter", "b"]
    assert cli.main(["generate", prompt, *common, *given, "--out", str(out)]) == 0
    assert Image.open(out).text["adapter"] == '{"a": 0.7, "b": 1.0}'  # type: ignore[attr-defined]
    assert cli.main(["generate", prompt, *common, "--adapter", "a:nan", "--out", str(out)]) == 2
    assert "adapter 'a' has the weight nan" in capsys.readouterr().err


def test_text_encoders_are_trained_with_their_own_rate(lab: Lab, model: Path, tmp_path: Path) -> None:
    folder = model.parent / "decoder" / "adapters" / "own"
    of_sdxl = {"text_encoder": 1, "text_encoder_2": 2}  # nothing is read of the last layer of the first
    for part, layers in of_sdxl.items():
        state = torch.load(folder / "state.pt", weights_only=True)["objective"]
        up = [key for key in state if key.startswith(f"decoder.{part}.") and "lora_B" in key]
        assert len(up) == 4 * layers and all(state[key].any() for key in up)
        assert (model / "decoder" / "adapters" / "own" / part).is_dir()
    recipe = recipe_of(lab, model.parent, base=str(lab.bases[LARGE]), train="projection", text=True)
    changed = {}
    for name, text_rate in (("slow", 0.0), ("quick", 0.05)):
        stage = replace(recipe.adapter["site"], text=True, text_rate=text_rate, steps=1)
        train_adapter(replace(recipe, adapter={name: stage}), name)
        state = torch.load(folder.parent / name / "state.pt", weights_only=True)
        norms = {
            part: sum(
                float(value.norm())
                for key, value in state["objective"].items()
                if f".{part}." in key and "lora_B" in key
            )
            for part in ("unet", "text_encoder_2")
        }
        changed[name] = norms
        shutil.rmtree(folder.parent / name)
    assert 0 < changed["slow"]["unet"] == pytest.approx(changed["quick"]["unet"], rel=1e-4)
    assert changed["slow"]["text_encoder_2"] == 0 < changed["quick"]["text_encoder_2"]


def test_an_adapter_of_the_text_encoders_resumes_bit_for_bit(lab: Lab, model: Path) -> None:
    recipe = recipe_of(lab, model.parent, base=str(lab.bases[LARGE]), train="projection", text=True)
    stage = replace(recipe.adapter["site"], text=True, steps=3)
    runs = {name: replace(recipe, adapter={name: stage}) for name in ("straight", "stopped")}
    stopped = replace(recipe, adapter={"stopped": replace(stage, steps=1)})
    train_adapter(stopped, "stopped")
    for name, of_it in runs.items():
        train_adapter(of_it, name)
    folder = model.parent / "decoder" / "adapters"
    for part in ("unet", "text_encoder", "text_encoder_2"):
        one, other = (load_file(folder / name / part / "pytorch_lora_weights.safetensors") for name in runs)
        assert all(torch.equal(one[key], other[key]) for key in one)
    for name in runs:
        shutil.rmtree(folder / name)


def test_text_is_refused_where_there_is_none(lab: Lab, tmp_path: Path) -> None:
    decoder = Decoder.new(DecoderRecipe(base=str(lab.bases[SMALL])), lab.clip, size=32)
    with pytest.raises(RecipeError, match=r"adapter\.x\.text = true: this decoder has no text path"):
        decoder.add_adapter("x", AdapterRecipe(text=True))
    plant(saved(lab, SMALL, tmp_path / "decoder"), lab, "a", 0)
    decoder.save(tmp_path / "silent", dtype=None)  # its UNet is the same
    shutil.copytree(tmp_path / "decoder" / "adapters", tmp_path / "silent" / "adapters")
    with pytest.raises(WeightsError, match=r"adapter 'a' has a LoRA of text_encoder, .* has the parts unet;"):
        Decoder.load(tmp_path / "silent", lab.clip).use_adapter("a")
