"""recipes/base.toml from one end to the other, on folders in Kandinsky 2.2's layout made at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
)
from toy_bases import WEIGHTS, toy_base, toy_text, toy_tokenizer
from toy_pairs import write_toy_pairs
from transformers import (
    CLIPImageProcessor,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import brainclip
from brainclip.train import run_stage
from brainclip.weights import read_weights

RECIPE = Path(__file__).parents[1] / "recipes" / "base.toml"
WIDTH = 32


def toy_prior_base(folder: Path) -> Path:
    """The folder of a Kandinsky 2.2 prior, from the real classes."""
    torch.manual_seed(5)
    vision = CLIPVisionConfig(
        image_size=32,
        patch_size=16,
        projection_dim=WIDTH,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    prior = PriorTransformer(2, 16, 1, embedding_dim=WIDTH)
    prior.clip_mean.data.normal_()
    prior.clip_std.data.uniform_(0.5, 1.0)
    KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=CLIPVisionModelWithProjection(vision),
        text_encoder=CLIPTextModelWithProjection(toy_text(WIDTH, projection_dim=WIDTH)),
        tokenizer=toy_tokenizer(),
        scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=10.0),
        image_processor=CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size=32),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The recipe's folder with every stage done, and the changes that bring it to toy size."""
    root = tmp_path_factory.mktemp("lab")
    folder = root / "run"
    for seed, name in enumerate(("ixi", "oasis1", "hcp")):
        write_toy_pairs(folder / "pairs" / name, subjects=(4, 1, 1), seed=seed)
    prior, decoder = toy_prior_base(root / "prior"), toy_base("kandinsky", root / "decoder")
    changes = [f"folder={folder}", "size=32", "spacing_mm=6.0"]
    changes += [f"clip.base=transformers:{prior}", f"prior.base={prior}", f"decoder.base={decoder}"]
    changes += ["clip.batch=12", "clip.piece=4", "prior.batch=8", "adapter.brain.batch=6"]
    changes += ["prior.sampling_steps=2", "decoder.sampling_steps=2"]
    for stage in ("clip", "prior", "adapter.brain"):
        changes += [
            f"{stage}.{change}" for change in ("steps=2", "rate=0.05", "warmup=0", "decay=0", "track=[]")
        ]
    changes += [f"{stage}.device=cpu" for stage in ("clip", "prior", "decoder", "adapter.brain")]
    for stage in ("clip", "prior", "decoder"):
        run_stage(stage, RECIPE, overrides=changes)
    run_stage("decoder", RECIPE, overrides=changes, adapter="brain")
    return folder, changes


def test_the_chain_of_the_recipe_draws_what_is_asked(lab: tuple[Path, list[str]]) -> None:
    model = brainclip.load(lab[0] / "model")
    assert model.adapters == ("brain",)
    prompt = "axial T1 slice at the level of the thalamus"
    first, second = model.generate(prompt, n=2, seed=3)
    assert first.pixels.shape == (32, 32)
    assert first.settings["adapter"] == "brain"
    assert not np.array_equal(first.pixels, second.pixels)
    bare = model.generate(prompt, seed=3, adapter=None)[0]
    assert not np.array_equal(first.pixels, bare.pixels)  # two steps of LoRA show
    again = model.generate(prompt, seed=3)[0]
    np.testing.assert_allclose(first.pixels, again.pixels, atol=1e-4)  # alone or beside another


def test_only_what_the_recipe_says_is_trained(lab: tuple[Path, list[str]]) -> None:
    folder = lab[0]
    model, bases = brainclip.load(folder / "model"), folder.parent
    theirs = UNet2DConditionModel.from_pretrained(bases / "decoder" / "unet").state_dict()
    ours = read_weights(folder / "decoder" / "unet" / WEIGHTS)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], value.half()) for key, value in theirs.items())
    image = CLIPVisionModelWithProjection.from_pretrained(bases / "prior" / "image_encoder").state_dict()
    text = CLIPTextModelWithProjection.from_pretrained(bases / "prior" / "text_encoder").state_dict()
    towers = model.clip.towers.state_dict()

    def changed(weights: dict[str, torch.Tensor]) -> list[str]:
        return [k for k, v in weights.items() if not torch.allclose(towers[k], v, atol=1e-3, rtol=1e-3)]

    assert changed(image) == []  # locked
    assert changed(text)  # by the LoRA, which is merged into it
    config = json.loads((folder / "clip" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 16)
    assert list((folder / "decoder" / "adapters" / "brain" / "unet").glob("*.safetensors"))
