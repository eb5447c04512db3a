"""The embedding of grey slices by the short way is that of the whole tower."""

from __future__ import annotations

import pytest
import torch
from toys import SIZE, smooth_images, toy_clip

from brainclip.clip import new_clip
from brainclip.config import ClipRecipe
from brainclip.encode import encode_images
from brainclip.towers.grey import GreyTower


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_short_way_gives_what_the_tower_gives(layers: int, size: tuple[int, int]) -> None:
    recipe = ClipRecipe(
        embedding=24,
        vision_width=32,
        text_width=32,
        vision_layers=layers,
        text_layers=1,
        head_width=16,
        image_size=size,
    )
    torch.manual_seed(layers)
    clip = new_clip(recipe, SIZE, toy_clip().layout.tokenizer).eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in clip.towers.visual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases are 0 at first
    images = smooth_images(5)
    assert GreyTower.fits(clip.layout, clip.towers)
    with torch.inference_mode():
        whole = clip.layout.encode_image(clip.towers, clip.layout.pixels(images))
        short = GreyTower(clip.layout, clip.towers)(images)
        assert torch.allclose(short, whole, atol=1e-4 * float(whole.abs().max()))
        assert torch.allclose(encode_images(clip, images[:, 0].numpy()), clip.encode_image(images), atol=1e-5)


def test_other_towers_go_the_whole_way() -> None:
    clip = toy_clip()
    clip.towers.visual.pool_type = "avg"
    assert not GreyTower.fits(clip.layout, clip.towers)
    images = smooth_images(3)
    with torch.inference_mode():
        assert torch.allclose(encode_images(clip, images[:, 0].numpy()), clip.encode_image(images), atol=1e-6)
    clip.towers.visual.pool_type = "tok"
    assert GreyTower.fits(clip.layout, clip.towers)
    assert not GreyTower.fits(clip.train().layout, clip.towers)
