"""CLIPs of other libraries: opened, equal to what their own library gives, saved and opened there again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from toy_clips import TIMM, WRITERS, write_biomed, write_open_clip
from toys import TEXTS, smooth_images, toy_clip

from brainclip.clip import Clip
from brainclip.errors import PromptError, RecipeError, WeightsError
from brainclip.towers import fitted
from brainclip.towers.bases import open_base
from brainclip.weights import read_weights

LAYOUTS = tuple(WRITERS)
CONTEXTS = {"open_clip": 77, "biomed": 256, "siglip": 256, "clip_model": 256, "kandinsky": 256}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The recipe's name of each layout's toy folder."""
    root = tmp_path_factory.mktemp("bases")
    return {name: write(root / name) for name, write in WRITERS.items()}


def open_clip_gives(folder: Path, pixels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Text and image embeddings by open_clip alone."""
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder}", **options).eval()
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    return model.encode_text(ids, normalize=True), model.encode_image(pixels, normalize=True)


def transformers_give(folder: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Text and image embeddings by transformers alone, padded to the end with its own padding."""
    from transformers import AutoTokenizer, CLIPModel
    from transformers import CLIPTextModelWithProjection as TextHalf
    from transformers import CLIPVisionModelWithProjection as ImageHalf

    halves = (folder / "text_encoder").is_dir()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer" if halves else folder)
    ids = tokenizer(TEXTS, padding="max_length", max_length=256, return_tensors="pt").input_ids
    options = {"interpolate_pos_encoding": pixels.shape[-2] != pixels.shape[-1]}
    if halves:
        text = TextHalf.from_pretrained(folder / "text_encoder", dtype=torch.float32)(ids).text_embeds
        image = ImageHalf.from_pretrained(folder / "image_encoder", dtype=torch.float32)
        return normalize(text), normalize(image(pixels, **options).image_embeds)
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    text = model.get_text_features(ids).pooler_output
    return normalize(text), normalize(model.get_image_features(pixels, **options).pooler_output)


def given_by_its_own_library(folder: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    own = open_clip_gives if (folder / "open_clip_config.json").is_file() else transformers_give
    with torch.no_grad():
        return own(folder, pixels)


@torch.no_grad()
def given(clip: Clip) -> tuple[Tensor, Tensor]:
    return clip.encode_text(clip.tokenize(TEXTS))[0], clip.encode_image(smooth_images(3))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_base_gives_what_its_own_library_gives_and_so_does_the_saved_folder(
    layout: str, bases: dict[str, str], tmp_path: Path
) -> None:
    clip = Clip(*open_base(bases[layout]))
    assert clip.context == CONTEXTS[layout]
    pixels = clip.layout.pixels(smooth_images(3))
    theirs = given_by_its_own_library(Path(bases[layout].partition(":")[2]), pixels)
    for ours, other in zip(given(clip), theirs, strict=True):
        assert torch.allclose(ours, other, atol=1e-5)
    clip.embedding_mean.normal_(), clip.embedding_std.fill_(0.1)
    clip.save(tmp_path / "first", dtype=None)
    again = Clip.load(tmp_path / "first")
    for ours, other in zip(given(clip), given(again), strict=True):
        assert torch.equal(ours, other)
    assert torch.equal(clip.embedding_mean, again.embedding_mean)
    for ours, other in zip(given(clip), given_by_its_own_library(tmp_path / "first", pixels), strict=True):
        assert torch.allclose(ours, other, atol=1e-5)
    again.save(tmp_path / "second", dtype=None)
    assert Clip.load(tmp_path / "second").hash == again.hash


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_are_those_before_pooling_and_projection(layout: str, bases: dict[str, str]) -> None:
    clip = Clip(*open_base(bases[layout]))
    tokens = clip.tokenize(TEXTS)
    with torch.no_grad():
        embedding, states = clip.encode_text(tokens)
        last = (tokens != 0).sum(1) - 1
        place = {"biomed": torch.zeros(3, dtype=torch.long), "siglip": torch.full((3,), -1)}.get(layout, last)
        pooled = states[torch.arange(3), place]
        text = getattr(clip.towers, "text", clip.towers)
        if layout == "biomed":
            projected = text.proj(pooled)
        elif layout == "open_clip":
            projected = pooled @ text.text_projection
        else:
            projected = text.text_projection(pooled)
    assert states.shape == (3, CONTEXTS[layout], clip.states_width)
    assert torch.allclose(normalize(projected), embedding, atol=1e-6)


@pytest.mark.parametrize("layout", ["open_clip", "clip_model"])
def test_slices_are_prepared_as_the_library_prepares_a_grey_picture(
    layout: str, bases: dict[str, str]
) -> None:
    clip = Clip(*open_base(bases[layout]))
    grey = (smooth_images(60)[7, 0] * 255).round().byte().numpy()
    picture = Image.fromarray(np.kron(grey, np.ones((3, 3), np.uint8))).convert("RGB")
    if layout == "open_clip":
        from open_clip import create_model_and_transforms

        theirs = create_model_and_transforms(bases[layout])[2](picture)
    else:
        theirs = clip.layout.processor(picture, return_tensors="pt").pixel_values[0]
    ours = clip.layout.pixels(torch.from_numpy(np.array(picture)[None, None, :, :, 0]).float() / 255)[0]
    assert theirs.shape == ours.shape == (3, 32, 32)
    assert torch.allclose(ours, theirs, atol=2.5 / 255 / 0.26)  # theirs rounds to 8 bits


def test_slices_are_cropped_in_their_middle_to_the_aspect_and_resized() -> None:
    images = torch.arange(32.0).expand(2, 1, 24, 32) / 32
    assert torch.equal(fitted(images, (24, 32)), images)
    assert torch.equal(fitted(images, (24, 12)), images[..., 10:22])
    assert torch.equal(fitted(images, (8, 32)), images[..., 8:16, :])
    smaller = fitted(images, (8, 8))  # of columns 4 to 27, in threes
    assert torch.allclose(smaller[0, 0, 3, 2:-2], torch.arange(11.0, 21, 3) / 32, atol=1e-3)
    larger = fitted((images > 0.5).float(), (48, 64))
    assert larger.shape == (2, 1, 48, 64) and larger.min() == 0 and larger.max() == 1  # not beyond


@pytest.mark.parametrize("layout", ["open_clip", "biomed", "clip_model"])
def test_other_sizes_resize_the_position_embeddings_and_open_elsewhere(
    layout: str, bases: dict[str, str], tmp_path: Path
) -> None:
    size = (160, 96) if layout == "biomed" else (32, 24)
    base = bases[layout]
    if layout == "biomed":  # test_vit takes any size by itself, unlike BiomedCLIP's tower
        vision = TIMM | {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": ""}
        base = write_biomed(tmp_path / "base", vision_cfg=vision | {"timm_proj": "linear"})
    clip = Clip(*open_base(base, size))
    assert clip.size == size
    clip.save(tmp_path / "clip", dtype=None)
    assert Clip.load(tmp_path / "clip").size == size
    pixels = clip.layout.pixels(smooth_images(3))
    assert pixels.shape == (3, 3, *size)
    with torch.no_grad():
        if layout == "clip_model":
            theirs = transformers_give(tmp_path / "clip", pixels)[1]
            assert clip.layout.processor.crop_size == {"height": 32, "width": 24}
        else:
            forced = {"force_image_size": size}
            theirs = open_clip_gives(Path(base.partition(":")[2]), pixels, **forced)[1]
            again = open_clip_gives(tmp_path / "clip", pixels, **(forced if layout == "biomed" else {}))[1]
            assert torch.allclose(again, theirs, atol=1e-5)
        assert torch.allclose(clip.encode_image(smooth_images(3)), theirs, atol=1e-5)
        assert torch.equal(Clip.load(tmp_path / "clip").encode_image(smooth_images(3)), given(clip)[1])


@pytest.mark.parametrize(
    ("layout", "size", "sentence"),
    [
        ("open_clip", (30, 32), "must be multiples of 8"),
        ("clip_model", (32, 30), "must be multiples of 8"),
        ("biomed", (150, 160), "must be multiples of 16"),
        ("open_clip", (32,), "give height and width"),
    ],
)
def test_size_that_a_base_cannot_take_is_refused(
    layout: str, size: tuple[int, ...], sentence: str, bases: dict[str, str]
) -> None:
    with pytest.raises(RecipeError, match=sentence):
        open_base(bases[layout], size)


def test_convolutional_tower_takes_its_own_size_only(tmp_path: Path) -> None:
    vision = {"timm_model_name": "test_convnext", "image_size": 160, "timm_pool": "", "timm_proj": "linear"}
    base = write_biomed(tmp_path, vision_cfg=vision)
    assert Clip(*open_base(base)).encode_image(smooth_images(2)).shape == (2, 24)
    with pytest.raises(RecipeError, match=r"this base takes \[160, 160\] only"):
        open_base(base, (160, 96))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_beyond_the_context_of_the_base_is_refused(layout: str, bases: dict[str, str]) -> None:
    clip = Clip(*open_base(bases[layout]))
    assert clip.tokens_in("axial") == (3 if layout == "open_clip" else 7)
    with pytest.raises(PromptError, match=rf"at most {CONTEXTS[layout]} fit"):
        clip.tokenize(["axial T1 slice " * 40])


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fault", ["no file", "a key less", "damaged"])
def test_incomplete_weights_are_an_error_never_random(
    layout: str, fault: str, bases: dict[str, str], tmp_path: Path
) -> None:
    kind, _, folder = bases[layout].partition(":")
    shutil.copytree(folder, tmp_path / "copy")
    path = weight_files(tmp_path / "copy")[0]
    if fault == "no file":
        path.unlink()
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        state = load_file(path)
        state.pop(next(key for key in state if key.endswith("mlp.fc1.weight") or key.endswith("c_fc.weight")))
        save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError):
        open_base(f"{kind}:{tmp_path / 'copy'}")


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        (
            "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            "neither on this machine nor reach",
        ),
        ("ViT-B-32/laion2b_s34b_b79k", "neither on this machine nor reachable"),
        ("transformers:openai/clip-vit-base-patch32", "neither on this machine nor reachable"),
        ("ViT-B-32/laion9b", "its tags: openai, .*laion2b_s34b_b79k"),
        ("ViT-B-99/openai", r"open_clip\.list_pretrained\(\) has all"),
        ("local-dir:no/such/folder", r"a folder with open_clip_config\.json and a weight file"),
        ("transformers:no/such/folder", "no such folder"),
    ],
)
def test_base_that_cannot_be_had_is_one_sentence(base: str, sentence: str) -> None:
    with pytest.raises(WeightsError, match=sentence) as caught:
        open_base(base)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("base", ["ViT-B-32", "somewhere:else", "local-dir:", "/a/b:c"])
def test_base_of_no_known_form_is_refused(base: str) -> None:
    with pytest.raises(RecipeError, match="possible are"):
        open_base(base)


def test_tokenizer_with_marks_of_its_own_is_refused(tmp_path: Path) -> None:
    base = write_biomed(tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"strip_sep_token": True}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="its tokenizer has a mode that is not supported"):
        open_base(base)


def test_halves_of_different_clips_are_refused(tmp_path: Path) -> None:
    base = WRITERS["kandinsky"](tmp_path)
    path = tmp_path / "image_encoder" / "config.json"
    path.write_text(path.read_text().replace('"projection_dim": 32', '"projection_dim": 16'))
    weights = tmp_path / "image_encoder" / "model.safetensors"
    state = load_file(weights)
    state["visual_projection.weight"] = state["visual_projection.weight"][:16].clone()
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="embeddings of 32 numbers, image_encoder of 16"):
        open_base(base)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logit_scale_and_bias_are_kept_and_a_missing_bias_is_given(
    layout: str, bases: dict[str, str], tmp_path: Path
) -> None:
    clip = Clip(*open_base(bases[layout]))
    assert (clip.towers.logit_bias is None) == (layout != "siglip")
    clip.towers.logit_scale.data.fill_(3.5)
    clip.add_logit_bias()
    scale = 3.5 if layout == "siglip" else np.log(10)  # a base that has a bias keeps its scale
    assert float(clip.towers.logit_scale.detach()) == pytest.approx(scale)
    clip.towers.logit_bias.data.fill_(-7.5)
    clip.save(tmp_path)
    again = Clip.load(tmp_path)
    assert float(again.towers.logit_bias.detach()) == -7.5
    assert float(again.towers.logit_scale.detach()) == pytest.approx(scale, abs=2e-3)  # in half precision
    if layout in ("open_clip", "biomed"):
        import open_clip

        assert float(open_clip.create_model(f"local-dir:{tmp_path}").logit_bias.detach()) == -7.5


def test_mini_clip_is_a_base_like_others_and_writes_the_same_folder(tmp_path: Path) -> None:
    toy_clip().save(tmp_path / "mini")
    clip = Clip(*open_base(f"local-dir:{tmp_path / 'mini'}"))
    mini = Clip.load(tmp_path / "mini")
    for ours, theirs in zip(given(mini), given(clip), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    names = {path.name for path in (tmp_path / "mini").iterdir()}
    assert names == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "whitening.safetensors",
    }
    assert set(read_weights(tmp_path / "mini" / "whitening.safetensors")) == {"mean", "std", "age_axis"}


def test_mini_clip_for_slices_that_are_not_square(tmp_path: Path) -> None:
    from dataclasses import replace

    from toys import CLIP

    from brainclip.clip import new_clip

    clip = new_clip(replace(CLIP, image_size=(32, 16)), 32, toy_clip().layout.tokenizer)
    assert clip.size == (32, 16)
    assert clip.towers.visual.positional_embedding.shape == (2 * 1 + 1, 32)
    middle = smooth_images(2)
    outside = middle.clone()
    outside[..., :8] = 0.0
    assert torch.equal(clip.encode_image(middle), clip.encode_image(outside))


def test_open_clip_base_needs_no_tokenizer_files(bases: dict[str, str], tmp_path: Path) -> None:
    base = write_open_clip(tmp_path / "base", quick_gelu=True)
    Clip(*open_base(base)).save(tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is True
    assert not (tmp_path / "clip" / "tokenizer.json").exists()
