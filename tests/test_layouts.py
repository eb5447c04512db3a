"""Decoders over published layouts: toy folders as the hub has them, adapted, saved, opened again and
sampled."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from toy_bases import BASES, WEIGHTS, Lab, recipe_of, toy_lab
from toys import smooth_images

from brainclip.config import DecoderRecipe
from brainclip.data import PairDataset
from brainclip.decoder import Decoder
from brainclip.errors import PromptError, RecipeError, WeightsError
from brainclip.layouts.layout import LatentScale
from brainclip.model import load
from brainclip.train.assemble import assemble
from brainclip.train.decoder import DecoderObjective, train_adapter, train_decoder
from brainclip.weights import read_json

SETTINGS = {"steps": 2, "guidance": 1.5}
PIPELINES = {
    "kandinsky": "KandinskyV22Pipeline",
    "stable-diffusion": "StableDiffusionPipeline",
    "stable-diffusion-xl": "StableDiffusionXLPipeline",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return toy_lab(tmp_path_factory.mktemp("lab"))


def whitened(rows: int = 2) -> Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(7))


def made(decoder: Decoder, **more: Any) -> Tensor:
    return decoder.sample(whitened(), [0, 1], **SETTINGS, **more)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("train", ["projection", "full"])
def test_a_base_is_adapted_saved_and_opened_again_with_equal_pictures(
    lab: Lab, tmp_path: Path, kind: str, train: str
) -> None:
    text = kind != "kandinsky" and train == "full"
    recipe = recipe_of(lab, tmp_path / "run", base=str(lab.bases[kind]), train=train, text=text)
    train_decoder(recipe)
    folder = tmp_path / "run" / "decoder"
    before = load_file(lab.bases[kind] / "unet" / WEIGHTS)
    after = load_file(folder / "unet" / WEIGHTS)
    same = [torch.allclose(before[key], after[key].float(), rtol=1e-3, atol=1e-6) for key in before]
    assert all(same) if train == "projection" else sum(same) < len(same) / 2
    decoder = Decoder.load(folder, lab.clip)
    first = made(decoder)
    decoder.save(tmp_path / "again", dtype=None)
    assert torch.equal(made(Decoder.load(tmp_path / "again", lab.clip)), first)
    assert first.shape == (2, 1, 32, 32) and first.std() > 0.01
    for path in (tmp_path / "again").rglob("*.json"):
        assert str(tmp_path.parent) not in path.read_text()  # no path of this machine


@pytest.mark.parametrize("kind", BASES)
def test_the_saved_folder_opens_in_diffusers_own_pipeline(lab: Lab, tmp_path: Path, kind: str) -> None:
    text = kind != "kandinsky"
    decoder = Decoder.new(DecoderRecipe(base=str(lab.bases[kind]), text=text), lab.clip, size=32).eval()
    decoder.save(tmp_path / "decoder", dtype=None)
    assert read_json(tmp_path / "decoder" / "model_index.json")["_class_name"] == PIPELINES[kind]
    pipeline = getattr(diffusers, PIPELINES[kind]).from_pretrained(tmp_path / "decoder")
    theirs, ours = pipeline.unet.state_dict(), decoder.unet.state_dict()
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler"
    if text:
        assert (
            pipeline.tokenizer("axial T1 slice").input_ids
            == decoder.layout.tokens(["axial T1 slice"])["tokenizer"][
                0, : len(pipeline.tokenizer("axial T1 slice").input_ids)
            ].tolist()
        )


@pytest.mark.parametrize("kind", BASES)
def test_an_adapter_trains_over_a_base_and_prompts_become_pictures(
    lab: Lab, tmp_path: Path, kind: str
) -> None:
    recipe = recipe_of(lab, tmp_path / "run", base=str(lab.bases[kind]), train="projection")
    train_decoder(recipe)
    train_adapter(recipe, "site")
    assemble(recipe)
    model = load(tmp_path / "run" / "model")
    prompt = "axial T1 slice, z = 12 mm"
    base, adapted = (model.generate(prompt, seed=3, adapter=name, steps=2)[0] for name in (None, "site"))
    assert base.pixels.shape == (32, 32) and abs(base.pixels - adapted.pixels).max() > 1e-3
    again = model.generate(prompt, seed=3, adapter=None, steps=2)[0]
    assert (again.pixels == base.pixels).all()

    decoder = Decoder.load(tmp_path / "run" / "decoder", lab.clip)
    own = decoder.layout.parts["projection"].state_dict()
    own = {key: value.clone() for key, value in own.items()}
    decoder.use_adapter("site")
    changed = decoder.layout.parts["projection"].state_dict()
    assert any(not torch.equal(own[key], changed[key]) for key in own)  # it was trained with the LoRA
    scales = {layer.scaling["site"] for layer in decoder.unet.modules() if hasattr(layer, "scaling")}
    assert scales == {3.0}  # alpha / rank travels with the file
    decoder.use_adapter(None)
    restored = decoder.layout.parts["projection"].state_dict()
    assert all(torch.equal(own[key], restored[key]) for key in own)


def test_kandinskys_own_clip_is_fed_as_it_is(lab: Lab, tmp_path: Path) -> None:
    recipe = recipe_of(
        lab, tmp_path / "run", base=str(lab.bases["kandinsky"]), train="projection", project=False
    )
    assert train_decoder(recipe) == {}  # nothing to train
    decoder = Decoder.load(tmp_path / "run" / "decoder", lab.clip)
    data = PairDataset([tmp_path / "run" / "pairs" / "toy"], "train")
    images = data.images(range(40))
    with torch.no_grad():
        raw = lab.clip.towers.visual(((images - 0.2) / 0.3).expand(-1, 3, -1, -1))
        fed = decoder.layout.conditions(lab.clip.whiten(lab.clip.encode_image(images)))["image_embeds"]
    assert torch.allclose(
        torch.nn.functional.normalize(fed, dim=1), torch.nn.functional.normalize(raw, dim=1), atol=1e-5
    )
    assert torch.allclose(fed.norm(dim=1), fed.norm(dim=1)[:1].expand(40), rtol=1e-5)
    assert float(fed[0].norm()) == pytest.approx(float(raw.norm(dim=1).mean()), rel=0.1)
    assert not decoder.layout.conditions(torch.zeros(1, 32))["image_embeds"].any()


def test_text_stands_before_the_image_tokens_and_is_dropped_as_the_base_does(lab: Lab) -> None:
    small, large = (
        Decoder.new(DecoderRecipe(base=str(lab.bases[kind]), text=True, tokens=3), lab.clip, size=32).eval()
        for kind in BASES[1:]
    )
    with torch.no_grad():
        for decoder, width in ((small, 24), (large, 40)):
            layout = decoder.layout
            said = layout.tokens(["axial T1 slice", ""])
            states = layout.conditions(whitened(), **said)["states"]
            assert states.shape == (2, 77 + 3, width)
            alone = layout.conditions(whitened())["states"]
            assert torch.allclose(states[:, 77:], alone, atol=1e-6)
            assert not torch.allclose(states[0, :77], states[1, :77])
        encoder = small.layout.parts["text_encoder"]
        said = small.layout.tokens(["axial T1 slice", ""])
        found = small.layout.conditions(whitened(), **said)["states"][:, :77]
        assert torch.equal(found, encoder(said["tokenizer"]).last_hidden_state)
        said = large.layout.tokens(["axial T1 slice", ""])
        found = large.layout.conditions(whitened(), **said)
        one, two = (
            large.layout.parts[name](said[f"tokenizer{end}"], output_hidden_states=True)
            for name, end in (("text_encoder", ""), ("text_encoder_2", "_2"))
        )
        joined = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)
        assert torch.allclose(found["states"][0, :77], joined[0])
        assert torch.allclose(found["pooled"][0], two.text_embeds[0])  # the image's part begins at 0
        assert not found["states"][1, :77].any() and not found["pooled"][1].any()


def test_captions_move_the_pictures_of_a_decoder_with_text_alone(lab: Lab) -> None:
    for text in (True, False):
        recipe = DecoderRecipe(base=str(lab.bases["stable-diffusion"]), text=text)
        decoder = Decoder.new(recipe, lab.clip, size=32).eval()
        one, other = (made(decoder, captions=[said] * 2) for said in ("axial T1 slice", "coronal PD image"))
        assert torch.equal(one, other) != text


def test_a_caption_beyond_the_text_encoder_is_refused(lab: Lab) -> None:
    recipe = DecoderRecipe(base=str(lab.bases["stable-diffusion-xl"]), text=True)
    layout = Decoder.new(recipe, lab.clip, size=32).layout
    with pytest.raises(PromptError, match="at most 77 fit"):
        layout.tokens(["axial T1 slice " * 40])


def test_latents_keep_the_bases_factor_or_are_measured_and_travel_with_the_model(
    lab: Lab, tmp_path: Path
) -> None:
    kind = "stable-diffusion"
    frozen, full = (
        recipe_of(lab, tmp_path / train, base=str(lab.bases[kind]), train=train)
        for train in ("projection", "full")
    )
    for recipe in (frozen, full):
        train_decoder(recipe)
    scale = Decoder.load(tmp_path / "projection" / "decoder", lab.clip).layout.parts["scale"]
    assert torch.equal(scale.mean, torch.zeros(4)) and torch.allclose(
        scale.std, torch.full((4,), 1 / 0.18215)
    )
    decoder = Decoder.load(tmp_path / "full" / "decoder", lab.clip)
    data = PairDataset([tmp_path / "full" / "pairs" / "toy"], "train")
    with torch.no_grad():
        latents = decoder.layout.latents(data.images(range(len(data))))
    assert latents.mean((0, 2, 3)).abs().max() < 0.1
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.1
    decoder.save(tmp_path / "again")  # in half precision, the numbers that the data decided as they are
    again = Decoder.load(tmp_path / "again", lab.clip).layout.parts["scale"]
    assert torch.equal(again.std, decoder.scale.std) and torch.equal(again.mean, decoder.scale.mean)
    (tmp_path / "again" / "latents.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"latents\.safetensors: no such weight file"):
        Decoder.load(tmp_path / "again", lab.clip)


def test_a_run_goes_on_from_an_earlier_one_with_its_projection_and_scale(lab: Lab, tmp_path: Path) -> None:
    base = str(lab.bases["stable-diffusion"])
    train_decoder(recipe_of(lab, tmp_path / "run", base=base, text=True))
    first = tmp_path / "first"
    (tmp_path / "run" / "decoder").rename(first)
    before = Decoder.load(first, lab.clip)
    recipe = recipe_of(lab, tmp_path / "run", start=str(first), rate=0.0)
    train_decoder(recipe)
    after = Decoder.load(tmp_path / "run" / "decoder", lab.clip)
    assert torch.equal(after.scale.std, before.scale.std) and (before.scale.std != 1 / 0.18215).all()
    said = {"captions": ["axial T1 slice"] * 2}
    assert torch.allclose(made(after, **said), made(before, **said), atol=0.02)  # half precision
    run = read_json(tmp_path / "run" / "decoder" / "run.json")
    assert set(run["inputs"]) == {"pairs", "clip", "start"}
    shutil.rmtree(tmp_path / "run" / "decoder")
    with pytest.raises(RecipeError, match="of an earlier run; give it as start"):
        train_decoder(recipe_of(lab, tmp_path / "run", base=str(first)))


def test_scale_is_undone_and_measures_each_channel() -> None:
    scale = LatentScale(2)
    latents = (
        torch.randn(50, 2, 3, 5) * torch.tensor([2.0, 0.5])[:, None, None]
        + torch.tensor([1.0, -4.0])[:, None, None]
    )
    scale.measure([latents[:20], latents[20:]])
    assert torch.allclose(scale.mean, torch.tensor([1.0, -4.0]), atol=0.2)
    assert torch.allclose(scale.std, torch.tensor([2.0, 0.5]), rtol=0.1)
    assert torch.allclose(scale.undo(scale(latents)), latents, atol=1e-5)
    assert torch.allclose(scale(latents).std((0, 2, 3)), torch.ones(2), atol=1e-3)


def test_slices_go_in_as_three_equal_channels_at_the_size_asked_for(lab: Lab) -> None:
    recipe = DecoderRecipe(base=str(lab.bases["stable-diffusion"]))
    own, larger = (Decoder.new(replace(recipe, size=size), lab.clip, size=32).eval() for size in (0, 48))
    assert own.layout.shape == (4, 16, 16) and larger.layout.shape == (4, 24, 24)
    images = smooth_images(2)
    with torch.no_grad():
        wanted = own.vae.encode((images * 2 - 1).repeat(1, 3, 1, 1)).latent_dist.mode() * 0.18215
        assert torch.allclose(own.layout.latents(images), wanted, atol=1e-6)
        colours = own.vae.decode(wanted / 0.18215).sample
        grey = ((colours.mean(1, keepdim=True) + 1) / 2).clamp(0, 1)
        assert torch.allclose(own.layout.pictures(wanted), grey, atol=1e-5)
    assert made(larger).shape == (2, 1, 32, 32)
    with pytest.raises(
        RecipeError, match=r"slices of 34 pixels: this decoder takes multiples of 4 .* example 36"
    ):
        Decoder.new(replace(recipe, size=34), lab.clip, size=32)


def test_sdxl_is_told_the_size_of_the_picture(lab: Lab) -> None:
    recipe = DecoderRecipe(base=str(lab.bases["stable-diffusion-xl"]), size=48)
    layout = Decoder.new(recipe, lab.clip, size=32).eval().layout
    given: dict[str, Tensor] = {}
    hook = layout.parts["unet"].register_forward_pre_hook(
        lambda _, args, named: given.update(named["added_cond_kwargs"]), with_kwargs=True
    )
    with torch.no_grad():
        answer = layout.predict(
            torch.randn(2, *layout.shape), torch.tensor([5, 9]), layout.conditions(whitened())
        )
    hook.remove()
    assert answer.shape == (2, 4, 24, 24)
    assert given["time_ids"].tolist() == [[48, 48, 0, 0, 48, 48]] * 2
    assert given["text_embeds"].shape == (2, 12)


def test_kandinskys_variance_is_left_out(lab: Lab) -> None:
    layout = Decoder.new(DecoderRecipe(base=str(lab.bases["kandinsky"])), lab.clip, size=32).eval().layout
    noisy, time = torch.randn(2, *layout.shape), torch.tensor([5, 9])
    with torch.no_grad():
        conditions = layout.conditions(whitened())
        whole = layout.parts["unet"](noisy, time, None, added_cond_kwargs=conditions).sample
        answer = layout.predict(noisy, time, conditions)
    assert whole.shape[1] == 8 and torch.equal(answer, whole[:, :4])


def test_checkpointing_changes_no_gradient(lab: Lab) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        decoder = Decoder.new(DecoderRecipe(base=str(lab.bases["stable-diffusion"])), lab.clip, size=32)
        decoder.train()
        if checkpointing:
            decoder.unet.enable_gradient_checkpointing()
        batch = {"latents": torch.randn(2, 4, 16, 16), "noise": torch.randn(2, 4, 16, 16)}
        DecoderObjective(decoder)(**batch, time=torch.tensor([3, 900]), whitened=whitened())[0].backward()
        gradients.append(decoder.unet.conv_in.weight.grad)
    assert gradients[0].abs().max() > 0 and torch.allclose(*gradients, rtol=1e-4, atol=1e-7)
