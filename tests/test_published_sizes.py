"""Published sizes, built without memory on the meta device: parameters, shapes, and what our parts add to
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import published
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from torch import nn
from toys import toy_clip

from brainclip.config import AdapterRecipe, DecoderRecipe
from brainclip.layouts import PUBLISHED
from brainclip.layouts.layout import LatentScale
from brainclip.layouts.pretrained import Pretrained
from brainclip.lora import add_lora

KANDINSKY, SMALL, LARGE = range(3)
WIDTH = 1280  # of the embeddings of a large CLIP
EMBEDDING = 32
# transformer blocks by their width, C: count. Stable Diffusion 1.5: two a level going down, three going up,
# one in the middle; SDXL: 2 and 10 layers in each of those; Kandinsky: attention layers, three a level down,
# four up, one in the middle.
BLOCKS = {
    KANDINSKY: {768: 7, 1152: 7, 1536: 8},
    SMALL: {320: 5, 640: 5, 1280: 6},
    LARGE: {640: 2 * 5, 1280: 10 * 6},
}


def count(part: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in part.parameters() if p.requires_grad or not trained)


@pytest.fixture(scope="module")
def layouts() -> list[Pretrained]:
    clip, made = toy_clip(), []
    for kind, config in zip(
        PUBLISHED, (published.KANDINSKY_UNET, published.SMALL_UNET, published.LARGE_UNET), strict=True
    ):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)
            vae: Any = (
                VQModel(**published.KANDINSKY_MOVQ)
                if kind.autoencoder == "movq"
                else AutoencoderKL(**published.AUTOENCODER)
            )
            parts = {"unet": unet, kind.autoencoder: vae, "scale": LatentScale(4)}
            parts["projection"] = kind.projection(DecoderRecipe(), clip, unet.config)
        assert kind.fits({"unet": "UNet2DConditionModel", kind.autoencoder: type(vae).__name__}, unet.config)
        made.append(kind(parts, size=128, decoded=512, index={}, folder=Path()))
    return made


def test_the_networks_have_the_published_numbers_of_parameters(layouts: list[Pretrained]) -> None:
    # 859.5 M and 2567 M: model cards; 5.01 GB in single precision: Kandinsky's file on the hub
    assert [count(layout.parts["unet"]) for layout in layouts] == [1_253_057_288, 859_520_964, 2_567_463_684]
    assert count(layouts[SMALL].parts["vae"]) == count(layouts[LARGE].parts["vae"]) == 83_653_863
    assert round(count(layouts[KANDINSKY].parts["movq"]) / 1e6) == 68  # the model card of 2.1 says 67 M


def test_projections_have_the_parameters_of_their_formula(layouts: list[Pretrained]) -> None:
    # weights and biases of a linear map, and two numbers a feature of the tokens' norm
    assert count(layouts[KANDINSKY].parts["projection"]) == (EMBEDDING + 1) * 1280
    assert count(layouts[SMALL].parts["projection"]) == (EMBEDDING + 1) * 8 * 768 + 2 * 768
    pooled = (EMBEDDING + 1) * 1280
    assert count(layouts[LARGE].parts["projection"]) == (EMBEDDING + 1) * 8 * 2048 + 2 * 2048 + pooled


def test_slices_of_128_pixels_at_512_give_latents_of_64_and_answers_of_their_shape(
    layouts: list[Pretrained],
) -> None:
    for layout in layouts:
        assert layout.shape == (4, 64, 64)
        with torch.device("meta"), torch.no_grad():
            conditions = layout.conditions(torch.empty(2, EMBEDDING))
            answer = layout.predict(torch.empty(2, 4, 64, 64), torch.empty(2), conditions)
            assert layout.latents(torch.empty(2, 1, 128, 128)).shape == (2, 4, 64, 64)
            assert layout.pictures(answer).shape == (2, 1, 128, 128)
        assert answer.shape == (2, 4, 64, 64)


def lora_parameters(kind: int, rank: int, targets: tuple[str, ...]) -> int:
    """rank * (inputs + outputs) of each layer, by the widths of the blocks and of the condition."""
    text, total = {KANDINSKY: 768, SMALL: 768, LARGE: 2048}[kind], 0
    for width, blocks in BLOCKS[kind].items():
        square, reading = 2 * width, text + width
        layers = 2 * square + 2 * reading  # queries and outputs; keys and values of the condition
        if "attention" in targets:
            # Kandinsky's one layer shares queries and outputs between picture and condition
            layers += 2 * square if kind == KANDINSKY else 4 * square
        if "feed-forward" in targets:
            layers += width + 8 * width + 4 * width + width  # gated: 8 out, 4 in
        total += rank * blocks * layers
    return total


@pytest.mark.parametrize(
    ("kind", "rank", "targets", "megabytes"),
    [
        (KANDINSKY, 16, ("cross-attention",), 12.04),
        (KANDINSKY, 64, ("attention",), 74.51),
        (SMALL, 4, ("attention",), 3.19),  # huggingface.co/blog/lora says about 3 MB
        (SMALL, 16, ("cross-attention",), 6.37),
        (SMALL, 16, ("attention", "feed-forward"), 23.94),
        (LARGE, 4, ("cross-attention",), 12.58),
        (LARGE, 16, ("attention",), 92.90),
        (LARGE, 64, ("attention", "feed-forward"), 669.78),
    ],
)
def test_lora_has_the_parameters_of_its_formula_and_the_file_this_size(
    layouts: list[Pretrained], kind: int, rank: int, targets: tuple[str, ...], megabytes: float
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(layouts[kind].parts["unet"].config)
        unet.requires_grad_(False)
        add_lora(unet, "x", AdapterRecipe(rank=rank), targets)
    found = count(unet, trained=True)
    assert found == lora_parameters(kind, rank, targets)
    assert 4 * found / 1e6 == pytest.approx(megabytes, abs=0.006)  # single precision, as diffusers saves it
