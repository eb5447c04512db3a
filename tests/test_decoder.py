from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from toys import DECODER, smooth_images, toy_clip, toy_decoder, toy_vae

from brainclip.clip import Clip
from brainclip.config import AdapterRecipe
from brainclip.decoder import Decoder
from brainclip.errors import BrainclipError, WeightsError
from brainclip.schedules import OBJECTIVES, objective_of
from brainclip.train.decoder import DecoderObjective
from brainclip.vae import PatchAutoencoder

SETTINGS = {"steps": 3, "guidance": 1.5}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = tmp_path_factory.mktemp("clip")
    toy_clip().save(folder)
    return Clip.load(folder)


@pytest.fixture
def folder(clip: Clip, tmp_path: Path) -> Path:
    toy_decoder(clip).save(tmp_path / "decoder", dtype=None)
    return tmp_path / "decoder"


def whitened() -> torch.Tensor:
    return torch.randn(2, 32, generator=torch.Generator().manual_seed(7))


def with_adapter(folder: Path, clip: Clip) -> Decoder:
    """A decoder with a random LoRA, written beside it."""
    decoder = Decoder.load(folder, clip)
    torch.manual_seed(4)
    decoder.add_adapter("ixi", AdapterRecipe(rank=2, alpha=2))
    for parameter in decoder.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    card = {"base": decoder.hash, "default": True, "modalities": ["T1"]}
    decoder.save_adapter("ixi", folder / "adapters" / "ixi", card)
    return decoder


def test_decoder_round_trips_and_parts_load_with_diffusers(folder: Path, clip: Clip) -> None:
    first, again = toy_decoder(clip), Decoder.load(folder, clip)
    assert torch.equal(
        first.sample(whitened(), [0, 1], **SETTINGS), again.sample(whitened(), [0, 1], **SETTINGS)
    )
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert (
        unet.config["addition_embed_type"] == "image" and unet.config["encoder_hid_dim_type"] == "image_proj"
    )
    PatchAutoencoder.from_pretrained(folder / "vae")


def test_picture_depends_on_its_own_seed_and_not_on_the_batch(folder: Path, clip: Clip) -> None:
    decoder = Decoder.load(folder, clip)
    both, second = (
        decoder.sample(whitened(), [0, 1], **SETTINGS),
        decoder.sample(whitened()[1:], [1], **SETTINGS),
    )
    assert torch.allclose(both[1], second[0], atol=1e-5)
    assert both.shape == (2, 1, 32, 32) and both.min() >= 0 and both.max() <= 1


def test_picture_follows_the_embedding(folder: Path, clip: Clip) -> None:
    decoder = Decoder.load(folder, clip)
    first, second = decoder.sample(whitened(), [3, 3], **SETTINGS)
    assert (first - second).abs().max() > 1e-4


def test_a_start_is_kept_the_more_the_less_noise_it_gets(folder: Path, clip: Clip) -> None:
    decoder = Decoder.load(folder, clip)
    start, settings = smooth_images(2), {"steps": 10, "guidance": 1.5}
    told = decoder.layout.pictures(
        decoder.layout.latents(start)
    ).detach()  # as the autoencoder alone gives it back
    away = [
        float((decoder.sample(whitened(), [0, 1], start=start, strength=s, **settings) - told).abs().mean())
        for s in (0.1, 0.5, 1.0)
    ]
    assert away[0] < away[1] < away[2]
    whole = decoder.sample(whitened(), [0, 1], start=start, strength=1.0, **settings)
    assert torch.allclose(whole, decoder.sample(whitened(), [0, 1], **settings), atol=1e-5)


def test_latents_that_lie_where_a_start_is_kept_stay_and_noise_can_be_given(folder: Path, clip: Clip) -> None:
    decoder, start = Decoder.load(folder, clip), smooth_images(2)
    told = decoder.layout.pictures(decoder.layout.latents(start)).detach()
    everything = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    kept = decoder.sample(whitened(), [0, 1], start=start, keep=everything, **SETTINGS)
    assert torch.allclose(kept, told, atol=1e-5)
    everything[:, :, 3, 5] = False  # one pixel, and so its patch of 8 x 8
    assert not torch.allclose(
        decoder.sample(whitened(), [0, 1], start=start, keep=everything, **SETTINGS), told, atol=1e-4
    )
    swapped = decoder.sample(whitened(), [0, 1], noise=decoder.noise([5, 6]), **SETTINGS)
    assert torch.equal(swapped, decoder.sample(whitened(), [5, 6], **SETTINGS))
    with pytest.raises(BrainclipError, match="keep without a start"):
        decoder.sample(whitened(), [0, 1], keep=everything, **SETTINGS)


def test_wrong_starts_are_refused(folder: Path, clip: Clip) -> None:
    decoder = Decoder.load(folder, clip)
    with pytest.raises(BrainclipError, match="above 0, up to 1"):
        decoder.sample(whitened(), [0, 1], start=smooth_images(2), strength=0.0, **SETTINGS)
    with pytest.raises(BrainclipError, match=r"want \(2, 1, 32, 32\)"):
        decoder.sample(whitened(), [0, 1], start=smooth_images(1), strength=0.5, **SETTINGS)


def test_adapter_changes_pictures_and_can_be_switched_off(folder: Path, clip: Clip) -> None:
    base = Decoder.load(folder, clip).sample(whitened(), [0, 1], **SETTINGS)
    trained = with_adapter(folder, clip).sample(whitened(), [0, 1], **SETTINGS)
    decoder = Decoder.load(folder, clip)
    decoder.use_adapter("ixi")
    assert torch.equal(decoder.sample(whitened(), [0, 1], **SETTINGS), trained)
    assert (trained - base).abs().max() > 1e-3
    decoder.use_adapter(None)
    assert torch.equal(decoder.sample(whitened(), [0, 1], **SETTINGS), base)


def test_adapter_trains_only_lora_layers_of_the_attention(folder: Path, clip: Clip) -> None:
    decoder = Decoder.load(folder, clip)
    decoder.add_adapter("ixi", AdapterRecipe(rank=2, expected=False))
    names = [name for name, parameter in decoder.named_parameters() if parameter.requires_grad]
    assert names and all(
        "lora" in name and (".attn1." in name or ".attn2." in name or "attentions" in name) for name in names
    )


def test_unknown_adapter_names_those_there_are(folder: Path, clip: Clip) -> None:
    with_adapter(folder, clip)
    with pytest.raises(WeightsError, match="no adapter 'oasis' in this model; it has: ixi"):
        Decoder.load(folder, clip).use_adapter("oasis")


def test_adapter_of_another_base_is_refused_with_both_hashes(folder: Path, clip: Clip) -> None:
    decoder = with_adapter(folder, clip)
    path = folder / "adapters" / "ixi" / "adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": "0123456789abcdef"}))
    with pytest.raises(
        WeightsError, match=f"decoder 0123456789abcdef, this model's decoder is {decoder.hash}"
    ):
        Decoder.load(folder, clip).use_adapter("ixi")


def test_missing_adapter_weights_are_an_error(folder: Path, clip: Clip) -> None:
    with_adapter(folder, clip)
    (folder / "adapters" / "ixi" / "unet" / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(WeightsError, match="adapter folder is not complete"):
        Decoder.load(folder, clip).use_adapter("ixi")


def test_expected_latents_get_no_gradient_from_the_flow(clip: Clip) -> None:
    decoder = toy_decoder(clip)
    images, whitened = smooth_images(4), torch.randn(4, 32)
    batch = {"noise": torch.randn(4, *decoder.layout.shape), "time": torch.full((4,), 500.0)}
    DecoderObjective(decoder)(**batch, images=images, whitened=whitened)[0].backward()
    both = decoder.expected.linear_in.weight.grad.clone()
    decoder.zero_grad()
    torch.nn.functional.mse_loss(decoder.expected(whitened), decoder.layout.latents(images)).backward()
    assert torch.allclose(both, decoder.expected.linear_in.weight.grad, atol=1e-7)


def test_flow_of_a_perfect_velocity_arrives_at_the_latents(clip: Clip) -> None:
    decoder = toy_decoder(clip)
    target = decoder.layout.latents(smooth_images(2))
    noise = [torch.randn(target.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    decoder.layout.predict = lambda noisy, time, conditions: torch.stack(noise) - target  # type: ignore[method-assign]
    made = decoder.sample(whitened(), [0, 1], steps=3, guidance=1)
    assert torch.allclose(made, decoder.layout.pictures(target), atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' scheduler
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_mini_and_its_sampler_is_saved_with_it(
    clip: Clip, tmp_path: Path, objective: str
) -> None:
    torch.manual_seed(2)
    recipe = replace(DECODER, objective=objective, sampler="" if objective == "flow" else "dpm-solver")
    decoder = Decoder.new(recipe, clip, toy_vae())
    latents = decoder.layout.latents(smooth_images(4))
    batch = {"latents": latents, "noise": torch.randn_like(latents), "time": torch.tensor([5, 99, 500, 980])}
    loss, parts = DecoderObjective(decoder)(**batch, whitened=torch.randn(4, 32))
    assert set(parts) == {objective, "expected"} and loss.item() == pytest.approx(
        sum(map(float, parts.values()))
    )
    loss.backward()
    assert decoder.unet.conv_out.weight.grad.abs().max() > 0
    decoder.eval().save(tmp_path / "decoder", dtype=None)
    again = Decoder.load(tmp_path / "decoder", clip)
    assert objective_of(again.scheduler) == objective
    assert type(again.scheduler) is type(decoder.scheduler)
    made = [one.sample(whitened(), [0, 1], **SETTINGS) for one in (decoder, again)]
    assert torch.equal(*made) and torch.isfinite(made[0]).all()


def test_min_snr_weighs_the_rows_of_a_batch(clip: Clip) -> None:
    torch.manual_seed(2)
    decoder = Decoder.new(replace(DECODER, objective="epsilon"), clip, toy_vae()).eval()
    latents = decoder.layout.latents(smooth_images(2))
    batch = {"latents": latents, "noise": torch.randn_like(latents), "time": torch.tensor([30, 700])}
    batch["whitened"] = torch.randn(2, 32)
    rows = [{key: value[row : row + 1] for key, value in batch.items()} for row in range(2)]
    plain = [DecoderObjective(decoder)(**row)[1]["epsilon"] for row in rows]
    weighted = DecoderObjective(decoder, min_snr=5.0)(**batch)[1]["epsilon"]
    kept = DecoderObjective(decoder).scheduler.alphas_cumprod[batch["time"]]
    snr = kept / (1 - kept)
    assert snr[0] > 5 > snr[1]
    wanted = (5 / snr[0] * plain[0] + plain[1]) / 2
    assert float(weighted) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize(
    ("targets", "ends"),
    [
        (("cross-attention",), {"attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"}),
        (
            ("cross-attention", "feed-forward"),
            {"attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"},
        ),
        (
            ("attention",),
            {f"attn{n}.{name}" for n in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")},
        ),
        (
            ("to_q", "to_k", "to_v", "to_out.0"),
            {f"attn{n}.{name}" for n in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")},
        ),
    ],
)
def test_adapters_go_to_the_layers_asked_for(
    folder: Path, clip: Clip, targets: tuple[str, ...], ends: set[str]
) -> None:
    decoder = Decoder.load(folder, clip)
    decoder.add_adapter("x", AdapterRecipe(rank=2, expected=False, targets=targets))
    names = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    assert {name.split("transformer_blocks.0.")[1].split(".lora_")[0] for name in names} == ends
