"""Pixel-space diffusion models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from toy_pairs import SIZE, write_toy_pairs

from brainclip.config import PixelRecipe, Recipe
from brainclip.config_pairs import PairsRecipe
from brainclip.errors import RecipeError, WeightsError
from brainclip.pixel import PixelDiffusion, UViT
from brainclip.train.pixel import train_pixel

# millions, of which 20, 21, 62, 63.5, 46 and 104 are published; of a U-ViT most are 13 blocks of 12 width^2
WEIGHTS = {
    "unet-small": 20.0,
    "unet-small-attention": 20.8,
    "unet-large": 62.2,
    "unet-large-attention": 63.5,
    "uvit-small": 46.6,
    "uvit-large": 104.5,
}


def recipe(folder: Path, model: str, **changes: object) -> Recipe:
    settings = {"steps": 3, "batch": 4, "warmup": 1, "save_every": 2, "device": "cpu", "sampling_steps": 3}
    stage = PixelRecipe(model=model, **(settings | changes))  # type: ignore[arg-type]
    return Recipe(folder=str(folder), size=SIZE, pairs={"simulated": PairsRecipe()}, pixel=stage)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_models_have_the_published_numbers_of_weights(name: str) -> None:
    with torch.device("meta"):
        model = PixelDiffusion.new(name, 256).model
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(WEIGHTS[name], abs=0.05)


@pytest.mark.parametrize(("name", "kind"), [("unet-tiny", UNet2DModel), ("uvit-tiny", UViT)])
def test_a_trained_model_comes_back_and_opens_elsewhere(tmp_path: Path, name: str, kind: type) -> None:
    write_toy_pairs(tmp_path / "pairs" / "simulated")
    train_pixel(recipe(tmp_path, name, sample_every=3))
    pixels = PixelDiffusion.load(tmp_path / "pixel")
    both = pixels.sample([5, 6], steps=3)
    assert both.shape == (2, 1, SIZE, SIZE)
    torch.testing.assert_close(pixels.sample([6], steps=3), both[1:], rtol=0, atol=1e-4)  # sums of a batch
    elsewhere = kind.from_pretrained(tmp_path / "pixel").eval()
    noise, time = torch.randn(2, 1, SIZE, SIZE), torch.tensor([3, 900])
    with torch.no_grad():
        assert torch.equal(elsewhere(noise, time).sample, pixels.model(noise, time).sample)
    assert (tmp_path / "pixel" / "samples" / "0000003.png").is_file()


def test_a_transformer_of_patches_learns_the_noise(tmp_path: Path) -> None:
    write_toy_pairs(tmp_path / "pairs" / "simulated")
    train_pixel(recipe(tmp_path, "uvit-tiny", steps=40, batch=8, rate=3e-3, save_every=40))
    lines = (tmp_path / "pixel" / "log.jsonl").read_text().splitlines()
    loss = [json.loads(line)["loss"] for line in lines]
    assert sum(loss[-8:]) < 0.8 * sum(loss[:8])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"pixel\.model = 'unet': possible are unet-small"):
        PixelDiffusion.new("unet", 32)
    with pytest.raises(RecipeError, match="takes slices of a multiple of 8 pixels, not 100"):
        PixelDiffusion.new("unet-small", 100)
    PixelDiffusion.new("uvit-tiny", SIZE).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "Transformer2DModel"}))
    with pytest.raises(WeightsError, match="of class 'Transformer2DModel', not UNet2DModel or UViT"):
        PixelDiffusion.load(tmp_path)
