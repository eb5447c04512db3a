"""What of a base is trained: by layout and way, merged when saved, the LoRA alone beside it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_towers import given, given_by_its_own_library
from torch import nn
from toy_clips import WRITERS
from toy_pairs import write_toy_pairs
from toys import PRIOR, TEXTS, smooth_images

from brainclip.clip import Clip
from brainclip.config import ClipRecipe, Recipe
from brainclip.config_pairs import PairsRecipe
from brainclip.errors import RecipeError
from brainclip.prior import Prior
from brainclip.towers.attention import SplitAttention, fuse_attention, split_attention
from brainclip.towers.bases import open_base
from brainclip.train import adapt
from brainclip.train import clip as stage_clip
from brainclip.train.age import AgeReading
from brainclip.train.assemble import assemble
from brainclip.train.checks import check_adaptation
from brainclip.train.clip import ClipObjective, train_clip
from brainclip.weights import read_weights

LAYOUTS = tuple(WRITERS)
Opened = Callable[[str], Clip]
STAGE = ClipRecipe(
    mix={"toy": 1.0}, steps=2, batch=6, warmup=1, rate=3e-2, device="cpu", ema=0.0, rank=3, alpha=6, blocks=1
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("bases")
    return {name: write(root / name) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def opened(bases: dict[str, str]) -> Opened:
    """A CLIP of a layout, each with weights of its own."""
    once = {name: open_base(base) for name, base in bases.items()}
    return lambda name: Clip(copy.copy(once[name][0]), copy.deepcopy(once[name][1]))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    """A recipe with toy pairs, whose folder is empty."""
    monkeypatch.setattr(stage_clip, "CORPUS", 20)
    write_toy_pairs(tmp_path / "pairs" / "toy", subjects=(3, 2, 1))
    return Recipe(folder=str(tmp_path), pairs={"toy": PairsRecipe()}, clip=STAGE)


def trained(recipe: Recipe, **changes: object) -> Clip:
    """The CLIP that a run with these changes of the stage has written."""
    train_clip(replace(recipe, clip=replace(recipe.clip, **changes)))  # type: ignore[arg-type]
    return Clip.load(Path(recipe.folder) / "clip")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_base_adapted_two_steps_saved_and_reloaded_equals_its_own_library(
    layout: str, bases: dict[str, str], recipe: Recipe, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    save = adapt.save
    monkeypatch.setattr(adapt, "save", lambda clip, *rest: (seen.append(given(clip)), save(clip, *rest)))
    clip = trained(recipe, base=bases[layout], train="lora")
    folder = Path(recipe.folder) / "clip"
    before = given(opened(layout))
    pixels = clip.layout.pixels(smooth_images(3))
    theirs = given_by_its_own_library(folder, pixels)
    for now, other, begun, own in zip(given(clip), seen[0], before, theirs, strict=True):
        assert torch.allclose(now, other, atol=3e-3)  # saved in half precision
        assert torch.allclose(now, own, atol=1e-5)
        assert (now - begun).abs().max() > 5e-3  # it has learnt
    assert bool((clip.embedding_std > 0).all())
    run = json.loads((folder / "run.json").read_text())
    assert len(run["inputs"]["base"]) == 16 and run["recipe"]["base"] == bases[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lora_alone_on_a_fresh_base_gives_the_merged_folder(
    layout: str, bases: dict[str, str], recipe: Recipe, opened: Opened
) -> None:
    from peft import PeftModel

    clip = trained(recipe, base=bases[layout], train="lora")
    adapter = Path(recipe.folder) / "clip" / "adapter"
    fresh = opened(layout)
    if layout in ("open_clip", "siglip"):  # their towers' attention is torch's
        split_attention([fresh.towers])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft calls transformers by an older name
        fresh.towers = PeftModel.from_pretrained(fresh.towers, adapter).merge_and_unload()
    for ours, theirs in zip(given(clip), given(fresh), strict=True):
        assert torch.allclose(ours, theirs, atol=3e-3)  # the folder is in half precision
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (bases[layout], 3, 6)


def linear_numbers(layout: str) -> dict[str, int]:
    """Inputs plus outputs of the linear layers of one block, of either tower."""
    separate = 4 * (32 + 32) + 2 * (32 + (128 if layout in ("open_clip", "siglip") else 64))
    fused = (64 + 192) + (64 + 64) + 2 * (64 + 192)  # timm's: query, key and value are one layer; mlp ratio 3
    return {"image": fused if layout in ("biomed", "siglip") else separate, "text": separate}


BLOCKS = {"biomed": {"image": 6, "text": 2}, "siglip": {"image": 6, "text": 2}}
PROJECTION = {
    "open_clip": {"image": 32 * 24, "text": 32 * 24},
    "biomed": {"image": 64 * 24, "text": 32 * 28 + 28 * 24},  # the text's has two layers
    "siglip": {"image": 0, "text": 32 * 64 + 64},
    "clip_model": {"image": 32 * 32, "text": 32 * 32},
    "kandinsky": {"image": 32 * 32, "text": 32 * 32},
}


def learning(clip: Clip) -> int:
    """Numbers that are trained, but for scale and bias."""
    skipped = {id(clip.towers.logit_scale), id(clip.towers.logit_bias)}
    return sum(p.numel() for p in clip.towers.parameters() if p.requires_grad and id(p) not in skipped)


@pytest.mark.parametrize("locked", ["", "image", "text"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_way_trains_as_many_numbers_as_its_layers_have(layout: str, locked: str, opened: Opened) -> None:
    def counted(**changes: object) -> int:
        clip = opened(layout)
        adapt.choose(clip, replace(STAGE, base="x", locked=locked, **changes))  # type: ignore[arg-type]
        assert clip.towers.logit_scale.requires_grad
        return learning(clip)

    clip = opened(layout)
    sides = {name: side for name, side in clip.layout.sides(clip.towers).items() if name != locked}
    everything = sum(p.numel() for p in clip.towers.parameters()) - 1 - (clip.towers.logit_bias is not None)
    if not locked:
        assert counted(train="full") == everything
    else:
        other = opened(layout)
        rest = sum(p.numel() for p in other.layout.sides(other.towers)[locked].parameters)
        assert counted(train="full") == everything - rest
    projections = sum(PROJECTION[layout][name] for name in sides)
    if projections:
        assert counted(train="projection") == projections
    blocks = BLOCKS.get(layout, {"image": 2, "text": 2})
    assert counted(train="lora") == 3 * sum(blocks[name] * linear_numbers(layout)[name] for name in sides)
    last = sum(p.numel() for side in sides.values() for p in side.blocks[-1].parameters())
    ends = sum(p.numel() for side in sides.values() for p in side.ends)
    assert counted(train="blocks") == last + ends + projections


def test_nothing_to_train_and_too_many_blocks_are_refused(opened: Opened) -> None:
    clip = opened("siglip")
    with pytest.raises(RecipeError, match="have nothing of that kind to train"):
        adapt.choose(clip, replace(STAGE, base="x", train="projection", locked="text"))
    with pytest.raises(RecipeError, match=r"clip.blocks = 3: the text tower has 2"):
        adapt.choose(clip, replace(STAGE, base="x", train="blocks", blocks=3))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": "lora"}, "all but full need clip.base or clip.start"),
        ({"train": "most", "base": "x"}, "possible are full, blocks, lora, projection"),
        ({"locked": "image"}, "a tower of the folder clip.start or of clip.base"),
        ({"base": "x", "start": "y"}, "give one of them"),
        ({"base": "x", "train": "lora", "age": 1.0}, "which a LoRA does not hold"),
        ({"base": "x", "train": "lora", "rank": 0}, "both must be 1 or more"),
        ({"shard": True}, "towers are not split among processes"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        check_adaptation(replace(ClipRecipe(), **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["open_clip", "biomed", "kandinsky"])
@pytest.mark.parametrize("locked", ["image", "text"])
def test_locked_tower_of_a_base_gives_the_same_embeddings_and_the_other_learns(
    layout: str, locked: str, bases: dict[str, str], recipe: Recipe, opened: Opened
) -> None:
    clip = trained(recipe, base=bases[layout], locked=locked, train="lora")
    texts, images = zip(given(clip), given(opened(layout)), strict=True)
    kept, learnt = (images, texts) if locked == "image" else (texts, images)
    assert torch.allclose(*kept, atol=2e-3)  # half precision
    assert (learnt[0] - learnt[1]).abs().max() > 4e-3
    assert bool((clip.embedding_std > 0).all())  # a base has no statistics of its own


def test_dropout_is_off_in_a_locked_tower_and_on_in_one_that_learns(opened: Opened) -> None:
    for locked, same in (("text", True), ("image", False)):
        clip = opened("biomed")
        adapt.choose(clip, replace(STAGE, base="x", locked=locked))
        objective = ClipObjective(clip, AgeReading(clip))
        objective.train()
        tokens = clip.tokenize(TEXTS)
        assert torch.equal(clip.encode_text(tokens)[0], clip.encode_text(tokens)[0]) == same
        objective.eval()
        assert torch.equal(clip.encode_text(tokens)[0], clip.encode_text(tokens)[0])


def test_split_attention_gives_the_same_sums_and_fuses_to_the_same_weights() -> None:
    torch.manual_seed(0)
    block = nn.ModuleDict({"attn": nn.MultiheadAttention(24, 3, batch_first=True)})
    nn.init.normal_(block["attn"].in_proj_bias)
    nn.init.normal_(block["attn"].out_proj.bias)
    other, x = copy.deepcopy(block), torch.randn(2, 7, 24)
    split_attention([other])
    assert isinstance(other["attn"], SplitAttention)
    for mask in (None, torch.full((7, 7), float("-inf")).triu(1)):
        given = [part["attn"](x, x, x, need_weights=False, attn_mask=mask)[0] for part in (block, other)]
        assert torch.allclose(*given, atol=1e-6)
    fuse_attention(other)
    before, after = block.state_dict(), other.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_adapted_folder_can_be_started_from_and_given_another_loss(
    bases: dict[str, str], recipe: Recipe, tmp_path: Path
) -> None:
    first = trained(recipe, base=bases["kandinsky"], train="projection")
    (tmp_path / "clip").rename(tmp_path / "first")
    change = {"start": str(tmp_path / "first"), "train": "blocks", "loss": "siglip"}
    second = trained(recipe, **change)
    run = json.loads((tmp_path / "clip" / "run.json").read_text())
    assert run["inputs"]["start"] == first.hash != second.hash
    assert second.towers.logit_bias is not None
    with pytest.raises(RecipeError, match=r"image_size = \[32, 16\]: clip.start takes \[32, 32\]"):
        trained(recipe, **change, image_size=(32, 16))


def test_run_is_not_continued_on_another_base_of_the_same_name(recipe: Recipe, tmp_path: Path) -> None:
    base = WRITERS["open_clip"](tmp_path / "base")
    trained(recipe, base=base, train="projection")
    path = tmp_path / "base" / "open_clip_model.safetensors"
    state = read_weights(path)
    state["visual.ln_post.bias"] += 1
    from safetensors.torch import save_file

    save_file(state, path)
    with pytest.raises(RecipeError, match="was begun on"):
        trained(recipe, base=base, train="projection", steps=4)


@pytest.mark.parametrize("layout", ["open_clip", "biomed", "clip_model"])
@torch.no_grad()
def test_age_is_settled_in_the_projection_of_each_layout(layout: str, opened: Opened) -> None:
    clip = opened(layout)
    images = smooth_images(120)
    before = clip.encode_image(images)
    ages = 50 + 18 * (before - before.mean(0))[:, 2] / before[:, 2].std()
    returned = AgeReading(clip).settle(clip, before, ages)
    after = clip.encode_image(images)
    assert torch.allclose(after, returned, atol=1e-4)
    assert np.corrcoef(after @ clip.age_axis, ages)[0, 1] > 0.9


def test_age_needs_an_image_tower_with_a_linear_end(bases: dict[str, str], recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="needs an image tower with a linear projection"):
        trained(recipe, base=bases["siglip"], age=1.0)


@pytest.mark.parametrize(("layout", "width"), [("kandinsky", 32), ("biomed", 24)])
def test_prior_takes_its_widths_from_the_base(
    layout: str, width: int, opened: Opened, tmp_path: Path
) -> None:
    opened(layout).save(tmp_path)
    clip = Clip.load(tmp_path)
    clip.embedding_std.fill_(0.1)
    prior = Prior.new(PRIOR, clip).eval()
    assert (prior.transformer.config.num_embeddings, clip.states_width) == (256, 32)
    sampled = clip.unwhiten(prior.sample(clip, TEXTS, [1, 2, 3], steps=2, guidance=2.0))
    assert sampled.shape == (3, width) and torch.allclose(sampled.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("layout", ["open_clip", "kandinsky"])
def test_model_folder_holds_the_clip_of_any_layout_and_no_more(
    layout: str, bases: dict[str, str], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = trained(recipe, base=bases[layout], train="lora")
    monkeypatch.setattr("brainclip.train.assemble.FILES", {})  # the other stages are not there
    monkeypatch.setattr("brainclip.train.assemble.layout_files", lambda folder: ())
    recipe = replace(recipe, decoder=replace(recipe.decoder, mix={"toy": 1.0}))
    copied = Clip.load(assemble(recipe) / "clip")
    assert copied.hash == clip.hash
    for ours, theirs in zip(given(clip), given(copied), strict=True):
        assert torch.equal(ours, theirs)
    names = {path.name for path in (tmp_path / "model" / "clip").iterdir()}
    assert not names & {"adapter", "run.json", "log.jsonl", "state.pt"}
