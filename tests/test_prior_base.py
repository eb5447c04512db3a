"""A pretrained prior: a toy folder in Kandinsky 2.2's layout, saved by diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from peft import PeftModel
from safetensors.torch import load_file, save_file
from toy_pairs import SIZE, write_toy_pairs
from toys import CLIP, TEXTS, toy_prior
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from atlas.caption import caption
from brainclip.clip import Clip, new_clip, train_tokenizer
from brainclip.config import Recipe, load_recipe
from brainclip.data import PairDataset
from brainclip.errors import RecipeError, WeightsError
from brainclip.prior import Prior
from brainclip.prior_base import WEIGHTS, read_scheduler, text_length
from brainclip.train.prior import train_prior
from brainclip.weights import hash_file, read_weights

LENGTH = 9.0  # of the toy's image embeddings
SETTINGS = {"steps": 3, "guidance": 2.0}
RECIPE = """
folder = "{folder}"
size = 32
[pairs.toy]
[prior]
mix = {{ toy = 1.0 }}
base = "{base}"
steps = 2
batch = 8
warmup = 0
rate = 0.01
ema = 0.0
device = "cpu"
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All six parts, from the real classes at toy size."""
    torch.manual_seed(7)
    letters = sorted({letter for text in TEXTS for letter in text.lower() if letter != " "})
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer({word: k for k, word in enumerate(words)}, [], model_max_length=77)
    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(words), projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=1, **sizes
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=32, **sizes)
    encoder = CLIPTextModelWithProjection(text)
    prior = PriorTransformer(2, 16, 1, embedding_dim=32)
    prior.clip_mean.data.normal_()
    prior.clip_std.data.uniform_(0.5, 1.0)
    squares = prior.clip_mean.square().sum() + prior.clip_std.square().sum()
    for part in (prior.clip_mean, prior.clip_std):
        part.data.mul_(LENGTH / squares.sqrt())
    pipeline = KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=CLIPVisionModelWithProjection(vision),
        text_encoder=encoder,
        tokenizer=tokenizer,
        scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=10.0),
        image_processor=CLIPImageProcessor(),
    )
    folder = tmp_path_factory.mktemp("base")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's folder with pairs and a CLIP of the base's widths."""
    folder = tmp_path_factory.mktemp("run")
    write_toy_pairs(folder / "pairs" / "toy")
    facts = [pair.facts for pair in PairDataset([folder / "pairs" / "toy"], "train").pairs]
    texts = [caption(fact, seed=k).text for k, fact in enumerate(facts)]
    torch.manual_seed(0)
    clip = new_clip(CLIP, SIZE, train_tokenizer(texts * 4, 1500))
    clip.embedding_mean.normal_(std=0.1)
    clip.embedding_std.fill_(0.1)
    clip.save(folder / "clip")
    (folder / "toy.toml").write_text(RECIPE.format(folder=folder.as_posix(), base=base.as_posix()))
    return folder


def recipe_of(run: Path, tmp_path: Path, *overrides: str) -> Recipe:
    """The recipe in a folder of its own, over the same pairs and CLIP."""
    for name in ("pairs", "clip"):
        shutil.copytree(run / name, tmp_path / name)
    return load_recipe(run / "toy.toml", [f"folder={tmp_path.as_posix()}", *overrides])


def copied(base: Path, tmp_path: Path) -> Path:
    shutil.copytree(base, tmp_path / "base")
    return tmp_path / "base"


@torch.no_grad()
def test_pretrained_prior_is_given_embeddings_as_long_as_it_was_trained_on(base: Path, run: Path) -> None:
    clip, texts = Clip.load(run / "clip"), TEXTS[:1]
    prior = Prior.pretrained(str(base), clip, texts)
    pipeline = KandinskyV22PriorPipeline.from_pretrained(base)
    embedding, states, mask = pipeline._encode_prompt(texts, "cpu", 1, False)
    assert embedding.norm() > 3 and prior.contract["text_length"] == pytest.approx(float(embedding.norm()))
    x = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([300])
    wanted = pipeline.prior(x, timestep, embedding, states, mask).predicted_image_embedding
    found = prior(x, timestep, embedding / embedding.norm(), states, mask)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, prior(x, timestep, embedding, states, mask), atol=1e-3)


def test_whitening_is_the_pretrained_priors_own(base: Path, run: Path) -> None:
    clip = Clip.load(run / "clip")
    prior, theirs = Prior.pretrained(str(base), clip, TEXTS), PriorTransformer.from_pretrained(base / "prior")
    assert torch.equal(prior.transformer.clip_mean, theirs.clip_mean)
    assert prior.contract["image_length"] == pytest.approx(LENGTH, rel=1e-5)
    embedding = torch.nn.functional.normalize(torch.randn(5, 32), dim=1)
    x = prior.from_clip(clip, clip.whiten(embedding))
    assert torch.allclose(x, (LENGTH * embedding - theirs.clip_mean) / theirs.clip_std, atol=1e-5)
    assert torch.allclose(prior.unwhiten(x), embedding, atol=1e-6)
    one = torch.eye(32)[:1] * 1e-3
    moved = (theirs.post_process_latents(x[:1] + one) - theirs.post_process_latents(x[:1])) / LENGTH
    assert torch.allclose(moved[0, 0] / 1e-3, prior.unit_std[0], rtol=1e-2)
    ours = toy_prior(clip)
    assert torch.equal(ours.from_clip(clip, x), x) and torch.equal(ours.unwhiten(x), clip.unwhiten(x))


def test_unclip_scheduler_is_read_as_the_same_process_sampled_by_ddim(base: Path) -> None:
    found, theirs = read_scheduler(base / "scheduler" / "scheduler_config.json"), UnCLIPScheduler()
    assert isinstance(found, DDIMScheduler) and torch.equal(found.alphas_cumprod, theirs.alphas_cumprod)
    found.set_timesteps(4)
    x = torch.randn(1, 32)
    for timestep in found.timesteps:
        x = found.step(torch.full((1, 32), 30.0), timestep, x, use_clipped_model_output=True).prev_sample
    assert torch.allclose(x, torch.full((1, 32), 10.0), atol=1e-4)  # the range of the config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prediction_type", "epsilon", "prediction_type 'epsilon', a prior is read with 'sample'"),
        ("variance_type", "learned_range", "variance_type 'learned_range'"),
        ("num_train_timesteps", None, "num_train_timesteps' is missing"),
    ],
)
def test_scheduler_of_another_process_is_refused(
    base: Path, tmp_path: Path, key: str, value: str | None, message: str
) -> None:
    table = json.loads((base / "scheduler" / "scheduler_config.json").read_text()) | {key: value}
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({name: entry for name, entry in table.items() if entry is not None}))
    with pytest.raises(WeightsError, match=message):
        read_scheduler(path)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_pretrained_prior_is_adapted_saved_and_loaded(
    base: Path, run: Path, tmp_path: Path, train: str
) -> None:
    recipe = recipe_of(run, tmp_path, f"prior.train={train}", "prior.rank=2", "prior.alpha=4")
    assert train_prior(recipe)["loss"] > 0
    clip, folder = Clip.load(tmp_path / "clip"), tmp_path / "prior"
    inputs = json.loads((folder / "run.json").read_text())["inputs"]
    assert len(inputs["base"]) == 16
    before, after = read_weights(base / WEIGHTS), read_weights(folder / "diffusion_pytorch_model.safetensors")
    changed = {key for key in before if not torch.allclose(before[key], after[key].float(), atol=2e-3)}
    assert set(before) == set(after) and not changed & {"clip_mean", "clip_std"}
    attention = {key for key in before if ".attn1.to_" in key and key.endswith("weight")}
    assert changed and (changed <= attention) == (train == "lora")
    prior = Prior.load(folder, clip)
    prior.save(tmp_path / "again", dtype=None)
    again = Prior.load(tmp_path / "again", clip)
    assert again.contract == prior.contract and prior.contract["base"] == base.as_posix()
    made = [one.sample(clip, TEXTS, [1, 2, 3], **SETTINGS) for one in (prior, again)]
    assert torch.equal(*made) and torch.allclose(made[0].norm(dim=1), torch.ones(3), atol=1e-5)
    theirs = PriorTransformer.from_pretrained(folder)
    assert torch.equal(theirs.proj_in.weight.float(), again.transformer.proj_in.weight)
    assert (folder / "adapter").is_dir() == (train == "lora")


def test_lora_is_merged_and_stands_alone_beside_it_for_peft(base: Path, run: Path, tmp_path: Path) -> None:
    clip = Clip.load(run / "clip")
    prior = Prior.pretrained(str(base), clip, TEXTS)
    prior.add_lora(2, 4, str(base))
    for name, part in prior.named_parameters():
        assert part.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            part.data.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    live = prior.sample(clip, TEXTS, [1, 2, 3], **SETTINGS)
    plain = Prior.pretrained(str(base), clip, TEXTS).sample(clip, TEXTS, [1, 2, 3], **SETTINGS)
    assert not torch.allclose(live, plain, atol=1e-3)
    prior.save(tmp_path, dtype=None)
    assert torch.equal(prior.sample(clip, TEXTS, [1, 2, 3], **SETTINGS), live)  # saving changed nothing
    merged = Prior.load(tmp_path, clip)
    assert torch.allclose(merged.sample(clip, TEXTS, [1, 2, 3], **SETTINGS), live, atol=1e-5)
    card = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (card["base_model_name_or_path"], card["r"], card["lora_alpha"]) == (str(base), 2, 4)
    adapted = PeftModel.from_pretrained(
        PriorTransformer.from_pretrained(base / "prior"), tmp_path / "adapter"
    )
    arguments = (torch.randn(1, 32), torch.tensor([300]), torch.randn(1, 32), torch.randn(1, 77, 32))
    wanted = merged.transformer(*arguments).predicted_image_embedding
    assert torch.allclose(adapted(*arguments).predicted_image_embedding, wanted, atol=1e-5)


def test_lora_stopped_and_resumed_equals_straight_and_another_base_is_refused(
    base: Path, run: Path, tmp_path: Path
) -> None:
    folder = copied(base, tmp_path)
    asked = [f"prior.base={folder}", "prior.train=lora", "prior.rank=2"]
    for name, steps in (("straight", (4,)), ("resumed", (2, 4))):
        (tmp_path / name).mkdir()
        recipe = recipe_of(run, tmp_path / name, *asked)
        for until in steps:
            # how it is sampled later on may change on the way
            train_prior(replace(recipe, prior=replace(recipe.prior, steps=until, candidates=until)))
    straight, resumed = (
        read_weights(tmp_path / name / "prior" / "adapter" / "adapter_model.safetensors")
        for name in ("straight", "resumed")
    )
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())
    assert any(bool(value.any()) for key, value in straight.items() if "lora_B" in key)
    first = hash_file(folder / WEIGHTS)
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"prd_embedding": weights["prd_embedding"] + 1}, folder / WEIGHTS)
    with pytest.raises(RecipeError, match=f"begun on .*{first}.* now .*{hash_file(folder / WEIGHTS)}"):
        train_prior(recipe)
    with pytest.raises(RecipeError, match=f"base = '{folder}', the recipe says '{base}'"):
        train_prior(replace(recipe, prior=replace(recipe.prior, base=str(base))))


def test_lora_on_our_own_prior_keeps_the_clips_statistics(run: Path, tmp_path: Path) -> None:
    clip = Clip.load(run / "clip")
    toy_prior(clip).save(tmp_path / "ours", dtype=None)
    recipe = recipe_of(run, tmp_path, "prior.base=''", f"prior.start={tmp_path / 'ours'}", "prior.train=lora")
    train_prior(recipe)
    prior = Prior.load(tmp_path / "prior", clip)
    assert prior.contract == {"clip": clip.hash}
    assert torch.equal(prior.transformer.clip_mean[0], clip.embedding_mean)
    assert (tmp_path / "prior" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_pretrained_prior_keeps_its_statistics_when_trained_further(
    base: Path, run: Path, tmp_path: Path
) -> None:
    kept = Prior.pretrained(str(base), Clip.load(run / "clip"), TEXTS)
    kept.save(tmp_path / "kept", dtype=None)
    other = Clip.load(run / "clip")
    other.hash = "another"
    again = Prior.load(tmp_path / "kept", other, retrain=True)
    assert again.contract == kept.contract | {"clip": "another"}
    assert torch.equal(again.transformer.clip_std, kept.transformer.clip_std)


def test_base_of_another_clip_is_refused_with_both_widths(base: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 20, 400)
    for changes, message in (
        ({"text_width": 48}, "embedding_dim 32, the recipe's CLIP 48"),
        ({"embedding": 48}, "embedding_proj_dim 32, the recipe's CLIP 48"),
        ({"context": 64}, "num_embeddings 77, the recipe's CLIP 64"),
    ):
        clip = new_clip(replace(CLIP, **changes), SIZE, tokenizer)
        with pytest.raises(WeightsError, match=message):
            Prior.pretrained(str(base), clip, TEXTS)


def test_damaged_base_is_refused_by_the_name_of_what_is_wrong(base: Path, run: Path, tmp_path: Path) -> None:
    clip, folder = Clip.load(run / "clip"), copied(base, tmp_path)
    weights = load_file(folder / WEIGHTS)

    def refused(message: str) -> None:
        with pytest.raises(WeightsError, match=message):
            Prior.pretrained(str(folder), clip, TEXTS)

    save_file({key: value for key, value in weights.items() if key != "prd_embedding"}, folder / WEIGHTS)
    refused("1 keys missing, first 'prd_embedding'")
    save_file(weights | {"clip_std": torch.zeros(1, 32)}, folder / WEIGHTS)
    refused("clip_std is 0")
    save_file(weights, folder / WEIGHTS)
    encoder = folder / "text_encoder" / "model.safetensors"
    texts = load_file(encoder)
    save_file({k: v for k, v in texts.items() if k != "text_projection.weight"}, encoder, {"format": "pt"})
    refused("keys missing, first 'text_projection.weight'")
    shutil.rmtree(folder / "text_encoder")
    refused("text_encoder or tokenizer cannot be read")
    (folder / "model_index.json").write_text('{"prior": ["diffusers", "UNet2DModel"]}')
    refused(r"names \['diffusers', 'UNet2DModel'\] as prior")
    with pytest.raises(WeightsError, match="neither a folder nor a hub id"):
        Prior.pretrained("no/such", clip, TEXTS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prior.train=qlora"], "prior.train = 'qlora'"),
        (["prior.base=", "prior.train=lora"], "with prior.base or prior.start also 'lora'"),
        (["prior.start=elsewhere"], "a run begins with one of them"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_read(
    run: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        train_prior(load_recipe(run / "toy.toml", overrides))


@torch.no_grad()
def test_text_length_is_that_of_the_folders_own_encoder(base: Path) -> None:
    pipeline = KandinskyV22PriorPipeline.from_pretrained(base)
    lengths = [float(pipeline._encode_prompt([text], "cpu", 1, False)[0].norm()) for text in TEXTS]
    assert text_length(base, TEXTS) == pytest.approx(sum(lengths) / 3, rel=1e-5)
    assert max(lengths) - min(lengths) < 0.5 * min(lengths)
