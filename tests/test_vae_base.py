"""A published autoencoder for one channel, and decoders over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_bases import Lab, recipe_of, toy_autoencoder, toy_lab
from toys import DECODER, smooth_images

from brainclip.config import VaeRecipe
from brainclip.decoder import Decoder
from brainclip.errors import RecipeError
from brainclip.layouts.parts import load_autoencoder
from brainclip.train.decoder import train_decoder
from brainclip.train.vae import one_channel, train_vae


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return toy_lab(tmp_path_factory.mktemp("lab"))


def test_one_channel_gives_the_latents_of_three_equal_ones_and_the_mean_of_its_pictures() -> None:
    torch.manual_seed(0)
    colour = toy_autoencoder().eval()
    grey = one_channel(colour)
    images = smooth_images(3) * 2 - 1
    with torch.no_grad():
        wanted = colour.encode(images.repeat(1, 3, 1, 1)).latent_dist.mode()
        latents = grey.encode(images).latent_dist.mode()
        assert torch.allclose(latents, wanted, atol=1e-5)
        pictures = grey.decode(latents).sample
        assert torch.allclose(pictures, colour.decode(latents).sample.mean(1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("train", ["decoder", "all"])
def test_the_decoder_of_a_base_is_trained_and_its_encoder_if_asked_for(
    lab: Lab, tmp_path: Path, train: str
) -> None:
    vae = VaeRecipe(base=str(lab.bases["stable-diffusion"]), train=train, rate=1e-3)
    recipe = recipe_of(lab, tmp_path / "run", vae=vae)
    numbers = train_vae(recipe)
    assert 0 < numbers["pixels"] < 2
    before = one_channel(Decoder.new(replace(recipe.decoder, base=vae.base), lab.clip, size=32).vae)
    after = load_autoencoder(tmp_path / "run" / "vae")
    changed = {
        part: any(
            not torch.allclose(old, new, rtol=1e-3, atol=1e-5)  # it is saved in half precision
            for old, new in zip(
                getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True
            )
        )
        for part in ("encoder", "decoder")
    }
    assert changed == {"encoder": train == "all", "decoder": True}


def test_a_base_and_mini_work_over_the_adapted_autoencoder(lab: Lab, tmp_path: Path) -> None:
    vae = VaeRecipe(base=str(lab.bases["stable-diffusion"]))
    small = DECODER.__class__(channels=DECODER.channels, groups=8, expected_width=16, head_width=16)
    train_vae(recipe_of(lab, tmp_path / "run", vae=vae))
    for name, keys in (
        ("base", {"base": vae.base, "train": "projection"}),
        (
            "mini",
            {key: getattr(small, key) for key in ("channels", "groups", "expected_width", "head_width")},
        ),
    ):
        recipe = recipe_of(lab, tmp_path / "run", vae=vae, **keys)
        train_decoder(recipe)
        decoder = Decoder.load(tmp_path / "run" / "decoder", lab.clip)
        assert decoder.vae.config["in_channels"] == 1
        std = decoder.layout.parts["scale"].std
        assert torch.allclose(std, torch.full((4,), 1 / 0.18215)) == (name == "base")
        made = decoder.sample(torch.randn(2, 32), [0, 1], steps=2, guidance=1.5)
        assert made.shape == (2, 1, 32, 32)
        (tmp_path / "run" / "decoder").rename(tmp_path / name)


def test_kandinsky_keeps_its_own_autoencoder(lab: Lab, tmp_path: Path) -> None:
    vae = VaeRecipe(base=str(lab.bases["stable-diffusion"]))
    recipe = recipe_of(lab, tmp_path / "run", vae=vae, base=str(lab.bases["kandinsky"]))
    train_vae(recipe)
    with pytest.raises(RecipeError, match="decodes with its own VQModel, not with an AutoencoderKL"):
        train_decoder(recipe)
    with pytest.raises(RecipeError, match=r"vae\.train = 'encoder': possible are decoder, all"):
        train_vae(recipe_of(lab, tmp_path / "other", vae=replace(vae, train="encoder")))
