"""What a base, a decoder over it or its recipe may not be: refused in one sentence with both values."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_bases import BASES, WEIGHTS, Lab, recipe_of, toy_base, toy_lab
from toys import toy_clip

from brainclip.clip import Clip
from brainclip.config import AdapterRecipe, DecoderRecipe, Recipe, VaeRecipe
from brainclip.decoder import Decoder
from brainclip.errors import RecipeError, WeightsError
from brainclip.train.checks_decoder import check_decoder
from brainclip.train.decoder import train_adapter, train_decoder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return toy_lab(tmp_path_factory.mktemp("lab"))


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """A safetensors or JSON file with its table changed."""
    if path.suffix == ".json":
        table = json.loads(path.read_text())
        how(table)
        path.write_text(json.dumps(table))
    else:
        table = load_file(path)
        how(table)
        save_file(table, path, metadata={"format": "pt"})


def begin(folder: Path, lab: Lab, **more: Any) -> Decoder:
    return Decoder.new(DecoderRecipe(base=str(folder), **more), lab.clip, size=32)


@pytest.mark.parametrize(
    ("kind", "file", "how", "sentence"),
    [
        (
            "kandinsky",
            f"unet/{WEIGHTS}",
            lambda t: t.pop("conv_in.bias"),
            "1 keys missing, first 'conv_in.bias'",
        ),
        (
            "kandinsky",
            f"movq/{WEIGHTS}",
            lambda t: t.pop("quant_conv.bias"),
            "missing, first 'quant_conv.bias'",
        ),
        (
            "stable-diffusion",
            f"unet/{WEIGHTS}",
            lambda t: t.update(more=torch.zeros(1)),
            "1 keys too many, first 'more'",
        ),
        (
            "stable-diffusion",
            f"vae/{WEIGHTS}",
            lambda t: t.update({"encoder.conv_in.bias": torch.zeros(3)}),
            "cannot be read .*encoder.conv_in.bias",
        ),
        (
            "stable-diffusion-xl",
            "text_encoder_2/model.safetensors",
            lambda t: t.pop("text_projection.weight"),
            "missing, first 'text_projection.weight'",
        ),
    ],
)
def test_keys_that_are_not_those_of_the_part(
    lab: Lab, tmp_path: Path, kind: str, file: str, how: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    folder = shutil.copytree(lab.bases[kind], tmp_path / "base")
    change(folder / file, how)
    with pytest.raises(WeightsError, match=sentence):
        begin(folder, lab, text=kind != "kandinsky")


@pytest.mark.parametrize(
    ("kind", "gone", "sentence"),
    [
        ("kandinsky", "model_index.json", "model_index.json: no such file"),
        ("kandinsky", "movq", "no VQModel there"),
        ("stable-diffusion", f"unet/{WEIGHTS}", f"cannot be read .*{WEIGHTS}"),
        ("stable-diffusion", "scheduler", "scheduler_config.json: no such file"),
        ("stable-diffusion-xl", "text_encoder", "no CLIPTextModel there"),
        ("stable-diffusion-xl", "tokenizer_2", "the base's text path needs its tokenizer"),
    ],
)
def test_files_that_are_missing(lab: Lab, tmp_path: Path, kind: str, gone: str, sentence: str) -> None:
    folder = shutil.copytree(lab.bases[kind], tmp_path / "base")
    shutil.rmtree(folder / gone) if (folder / gone).is_dir() else (folder / gone).unlink()
    with pytest.raises(WeightsError, match=sentence):
        begin(folder, lab, text=kind != "kandinsky")


def test_text_encoders_as_older_libraries_wrote_them_are_read(lab: Lab, tmp_path: Path) -> None:
    folder = shutil.copytree(lab.bases["stable-diffusion"], tmp_path / "base")

    def older(table: dict[str, Any]) -> None:
        for key in list(table):
            table[f"text_model.{key}"] = table.pop(key)
        table["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    change(folder / "text_encoder" / "model.safetensors", older)
    ours, theirs = (
        begin(base, lab, text=True).text_encoder for base in (folder, lab.bases["stable-diffusion"])
    )
    assert all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_other_models_are_named_with_the_possible_ones(lab: Lab, tmp_path: Path) -> None:
    folder = shutil.copytree(lab.bases["kandinsky"], tmp_path / "base")
    change(
        folder / "unet" / "config.json", lambda t: t.update(addition_embed_type="text_image")
    )  # Kandinsky 2.1
    sentence = "KandinskyV22Pipeline of movq VQModel, .*possible bases are Kandinsky 2.2's decoder, .*SDXL"
    with pytest.raises(WeightsError, match=sentence):
        begin(folder, lab)
    painting = toy_base("stable-diffusion", tmp_path / "painting", unet={"in_channels": 9})
    with pytest.raises(WeightsError, match="its UNet takes 9 channels and its autoencoder has 4"):
        begin(painting, lab)
    with pytest.raises(WeightsError, match="nowhere/there: neither a folder nor a hub id"):
        begin(Path("nowhere/there"), lab)


@pytest.mark.parametrize("kind", BASES)
def test_a_decoder_of_another_clip_names_both(lab: Lab, tmp_path: Path, kind: str) -> None:
    begin(lab.bases[kind], lab).save(tmp_path / "decoder")
    toy_clip(seed=5).save(tmp_path / "clip")
    other = Clip.load(tmp_path / "clip")
    with pytest.raises(WeightsError, match=f"with CLIP {lab.clip.hash}, not with CLIP {other.hash}"):
        Decoder.load(tmp_path / "decoder", other)


def test_an_adapter_of_another_base_or_without_some_keys_is_refused(lab: Lab, tmp_path: Path) -> None:
    recipe = recipe_of(lab, tmp_path / "run", base=str(lab.bases["stable-diffusion"]), train="projection")
    train_decoder(recipe)
    train_adapter(recipe, "site")
    folder = tmp_path / "run" / "decoder"
    other = Decoder.new(DecoderRecipe(base=str(lab.bases["stable-diffusion-xl"])), lab.clip, size=32)
    other.save(tmp_path / "other")
    shutil.copytree(folder / "adapters", tmp_path / "other" / "adapters")
    decoder, other = (Decoder.load(path, lab.clip) for path in (folder, tmp_path / "other"))
    sentence = f"trained on the decoder {decoder.hash}, this model's decoder is {other.hash}"
    with pytest.raises(WeightsError, match=sentence):
        other.use_adapter("site")
    path = folder / "adapters" / "site" / "unet" / "pytorch_lora_weights.safetensors"
    whole = load_file(path)
    key = next(key for key in whole if "to_v" in key)
    for gone in (
        [key],
        [key.replace("lora_A", end) for end in ("lora_A", "lora_B")],
    ):  # half a layer, a layer
        metadata = _metadata(path)
        save_file({k: v for k, v in whole.items() if k not in gone}, path, metadata=metadata)
        with pytest.raises(WeightsError, match=r"1 keys missing and 0 too many|does not fit the base model"):
            Decoder.load(folder, lab.clip).use_adapter("site")


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize(
    ("decoder", "sentence"),
    [
        ({"text": True}, "decoder.text = True: mini has no such choice"),
        ({"train": "projection"}, "decoder.train = 'projection': mini has no such choice"),
        ({"size": 64}, "decoder.size = 64: mini has no such choice"),
        ({"base": "a", "start": "b"}, "decoder.base = 'a' and decoder.start = 'b'"),
        ({"base": "a", "train": "unet"}, "decoder.train = 'unet': possible are full, projection"),
        ({"base": "a", "tokens": 0}, "decoder.tokens = 0"),
        ({"objective": "eps"}, "'eps': possible are flow, epsilon"),
        ({"min_snr": 5.0}, "min_snr = 5: the flow has no weights"),
        (
            {"base": "a", "objective": "sample", "sampler": "pndm"},
            "'pndm': possible for the objective 'sample'",
        ),
    ],
)
def test_recipes_that_contradict_themselves(decoder: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        check_decoder(Recipe(decoder=DecoderRecipe(**decoder)))


def test_what_a_frozen_unet_cannot_do(lab: Lab, tmp_path: Path) -> None:
    frozen = {"base": str(lab.bases["stable-diffusion"]), "train": "projection"}
    with pytest.raises(RecipeError, match="predicts epsilon, and train = 'projection' leaves it as it is"):
        train_decoder(recipe_of(lab, tmp_path / "run", **frozen, objective="sample"))
    vae = VaeRecipe(base="x", train="all")
    with pytest.raises(RecipeError, match=r"vae\.train = 'all' changes the latents"):
        train_decoder(recipe_of(lab, tmp_path / "run", **frozen, vae=vae))


def test_what_a_layout_does_not_have(lab: Lab) -> None:
    kandinsky, small = lab.bases["kandinsky"], lab.bases["stable-diffusion"]
    with pytest.raises(RecipeError, match=r"Kandinsky 2\.2's decoder takes no captions"):
        begin(kandinsky, lab, text=True)
    with pytest.raises(RecipeError, match="Stable Diffusion 1 takes no image embedding as it is"):
        begin(small, lab, project=False)
    wide = toy_clip()
    wide.embedding_mean = torch.zeros(48)
    with pytest.raises(RecipeError, match="embeddings have 48 numbers, the UNet of the base takes 32"):
        Decoder.new(DecoderRecipe(base=str(kandinsky), project=False), wide, size=32)
    begin(kandinsky, lab).add_adapter("x", AdapterRecipe(targets=("attention",)))
    for recipe, sentence in (
        (
            AdapterRecipe(targets=("attention", "feed-forward")),
            "'feed-forward' means no layer of this decoder; of the groups it has cross-attention, attention",
        ),
        (AdapterRecipe(targets=("query",)), "targets of the adapter 'x': .*query"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            begin(kandinsky, lab).add_adapter("x", recipe)
