"""Adapters as files in the forms of diffusers and kohya: out, in, and through diffusers' own pipelines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import load_file, save_file
from test_adapters import LARGE, SMALL, made, plant, saved
from toy_bases import Lab, toy_lab
from toys import toy_decoder

from brainclip import cli
from brainclip.config import AdapterRecipe
from brainclip.decoder import Decoder
from brainclip.errors import WeightsError
from brainclip.lora_files import export_adapter, import_adapter, projection_beside
from brainclip.lora_names import sgm_name
from brainclip.weights import read_header, read_json

PIPELINES = {SMALL: "StableDiffusionPipeline", LARGE: "StableDiffusionXLPipeline"}
TARGETS = ("to_q", "to_v", "conv1", "proj_in", "ff.net.2")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return toy_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def decoders(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A decoder over each base, with an adapter "a" on its UNet, its text encoders and its projection."""
    root = tmp_path_factory.mktemp("decoders")
    folders = {kind: saved(lab, kind, root / kind) for kind in PIPELINES}
    for folder in folders.values():
        plant(folder, lab, "a", 0, projection=True, targets=TARGETS)
    return folders


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("kind", PIPELINES)
def test_exported_and_imported_again_gives_equal_pictures(
    lab: Lab,
    decoders: dict[str, Path],
    tmp_path: Path,
    kind: str,
    form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapters, out = decoders[kind] / "adapters", tmp_path / "a.safetensors"
    assert cli.main(["export", str(adapters / "a"), str(out), "--form", form]) == 0
    assert cli.main(["import", str(out), str(adapters / form)]) == 0
    printed = capsys.readouterr().out
    assert f"{form}; the projection of the image embedding is {projection_beside(out)})" in printed
    decoder = Decoder.load(decoders[kind], lab.clip)
    base, pictures = made(decoder), []
    for name in ("a", form):
        decoder.use_adapter(name)
        pictures.append(made(decoder))
    assert torch.equal(*pictures) and not torch.allclose(pictures[0], base, atol=1e-2)
    card = read_json(adapters / form / "adapter.json")
    assert card.pop("file")["name"] == "a.safetensors" and card == read_json(adapters / "a" / "adapter.json")
    with pytest.raises(WeightsError, match="there already"):
        import_adapter(out, adapters / form)


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("kind", PIPELINES)
def test_diffusers_own_pipeline_loads_the_file_and_answers_alike(
    lab: Lab, decoders: dict[str, Path], tmp_path: Path, kind: str, form: str
) -> None:
    out = tmp_path / "a.safetensors"
    export_adapter(decoders[kind] / "adapters" / "a", out, form)
    decoder = Decoder.load(decoders[kind], lab.clip)
    decoder.use_adapter("a")
    pipeline = getattr(diffusers, PIPELINES[kind]).from_pretrained(lab.bases[kind])
    noisy, states = torch.randn(2, 4, 16, 16), torch.randn(2, 80, decoder.unet.config.cross_attention_dim)
    added = {"text_embeds": torch.randn(2, 12), "time_ids": torch.randn(2, 6)}
    more = {"added_cond_kwargs": added} if kind == LARGE else {}
    ids = decoder.layout.tokens(["axial T1 slice"])

    def answers(unet: Any, encoders: list[Any]) -> list[torch.Tensor]:
        with torch.no_grad():
            read = [
                encoder(ids[f"tokenizer{'_2' * number}"]).last_hidden_state
                for number, encoder in enumerate(encoders)
            ]
            return [unet(noisy, torch.tensor([5, 900]), states, **more).sample, *read]

    names = ("text_encoder", "text_encoder_2")[: 1 + (kind == LARGE)]
    before = answers(pipeline.unet, [getattr(pipeline, name) for name in names])
    pipeline.load_lora_weights(out)
    theirs = answers(pipeline.unet, [getattr(pipeline, name) for name in names])
    ours = answers(decoder.unet, [decoder.layout.parts[name] for name in names])
    for one, other, base in zip(theirs, ours, before, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
        assert (one - base).abs().max() > 1e-2


def test_kohyas_names_and_alphas_are_those_of_sd_scripts(decoders: dict[str, Path], tmp_path: Path) -> None:
    files = {}
    for kind, folder in decoders.items():
        export_adapter(folder / "adapters" / "a", tmp_path / kind, "kohya")
        files[kind] = load_file(tmp_path / kind)
    small, large = files[SMALL], files[LARGE]
    attention = "transformer_blocks_0_attn2_to_q"
    assert small[f"lora_unet_down_blocks_0_attentions_0_{attention}.alpha"] == 6
    assert small[f"lora_unet_mid_block_attentions_0_{attention}.lora_down.weight"].shape == (2, 64)
    assert "lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_up.weight" in small
    # one layer a block: the second of SDXL's down blocks begins with the fourth of Stability's
    assert f"lora_unet_input_blocks_3_1_{attention}.lora_up.weight" in large
    assert f"lora_unet_middle_block_1_{attention}.alpha" in large
    assert f"lora_unet_output_blocks_1_1_{attention}.alpha" in large
    assert "lora_unet_middle_block_2_in_layers_2.alpha" in large
    assert {key.partition("_text_model")[0] for key in large if "text_model" in key} == {
        "lora_te1",
        "lora_te2",
    }
    unet = {"layers_per_block": 2}  # the real one, as sd-scripts calls it
    for ours, theirs in {
        "down_blocks.1.attentions.0.proj_in": "input_blocks.4.1.proj_in",
        "down_blocks.2.attentions.1.norm": "input_blocks.8.1.norm",
        "up_blocks.0.attentions.2.proj_out": "output_blocks.2.1.proj_out",
        "up_blocks.1.resnets.0.time_emb_proj": "output_blocks.3.0.emb_layers.1",
    }.items():
        assert sgm_name(ours, unet) == theirs


def test_a_file_of_another_program_gets_the_alpha_that_it_states(
    lab: Lab, decoders: dict[str, Path], tmp_path: Path
) -> None:
    """In half precision, ranks and alphas that differ, diffusers' names for SDXL's UNet, no alpha for one."""
    folder, file = decoders[LARGE], tmp_path / "other.safetensors"
    layers = {"attn2_to_q": (4, 2.0), "attn2_to_k": (2, 3.0), "attn1_to_q": (2, None)}
    sizes = {"attn2_to_k": 40}
    state = {}
    for layer, (rank, alpha) in layers.items():
        name = f"lora_unet_mid_block_attentions_0_transformer_blocks_0_{layer}"
        state[f"{name}.lora_down.weight"] = torch.randn(rank, sizes.get(layer, 64)).half()
        state[f"{name}.lora_up.weight"] = torch.randn(64, rank).half()
        if alpha:
            state[f"{name}.alpha"] = torch.tensor(alpha).half()
    save_file(state, file)
    assert import_adapter(file, folder / "adapters" / "other") == 3
    decoder = Decoder.load(folder, lab.clip)
    decoder.use_adapter("other")
    block = decoder.unet.mid_block.attentions[0].transformer_blocks[0]
    for layer, (rank, alpha) in layers.items():
        attention, _, kind = layer.partition("_")
        found = getattr(getattr(block, attention), kind)
        assert found.scaling["other"] == (alpha or rank) / rank
        down, up = (value.float() for key, value in state.items() if f"_{layer}.lora" in key)
        assert torch.allclose(found.get_delta_weight("other"), (alpha or rank) / rank * up @ down, atol=1e-4)
    assert read_json(folder / "adapters" / "other" / "adapter.json")["default"] is False


def test_a_file_of_older_diffusers_is_read(lab: Lab, decoders: dict[str, Path], tmp_path: Path) -> None:
    folder, new, old = decoders[SMALL], tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    plant(folder, lab, "plain", 3, targets=("to_q", "to_out.0"), alpha=2)
    export_adapter(folder / "adapters" / "plain", new, "diffusers")
    state = convert_state_dict_to_diffusers(load_file(new))
    assert any("q_proj.lora_linear_layer.up" in key for key in state)
    assert any("attn2.to_q.lora.down" in key for key in state)
    save_file(state, old)
    import_adapter(old, folder / "adapters" / "old")
    decoder, pictures = Decoder.load(folder, lab.clip), []
    for name in ("plain", "old"):
        decoder.use_adapter(name)
        pictures.append(made(decoder))
    assert torch.equal(*pictures)


def test_files_that_do_not_fit_are_refused_by_name(decoders: dict[str, Path], tmp_path: Path) -> None:
    small, large = decoders[SMALL] / "adapters", decoders[LARGE] / "adapters"
    kohya, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    export_adapter(large / "a", kohya, "kohya")
    of_large = load_file(kohya)  # without the header that names its decoder
    export_adapter(small / "a", kohya, "kohya")
    whole = load_file(kohya)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
    down = f"{name}.lora_down.weight"

    def refused(state: dict[str, torch.Tensor], sentence: str, folder: Path = small) -> None:
        save_file(state, out)
        with pytest.raises(WeightsError, match=sentence):
            import_adapter(out, folder / "x")
        assert not (folder / "x").exists()

    refused(of_large, r"a LoRA for SDXL \(its key '.*'\), and this decoder is Stable Diffusion 1; give one")
    refused(whole, "its key 'lora_te_text_model_.*' fits no layer of this decoder, SDXL with", large)
    refused(whole | {f"{name}.dora_scale": torch.ones(1)}, rf"its key '{name}\.dora_scale' fits no layer")
    refused({key: value for key, value in whole.items() if key != down}, "attn2.to_q a half is missing")
    refused(whole | {down: torch.ones(2, 48)}, "weight of 64 x 48, in this decoder it has 64 x 64")
    refused(whole | {down: torch.full((2, 64), torch.nan)}, "attn2.to_q holds values that are not finite")
    refused({"unet.conv.weight": torch.ones(2)}, "its key 'unet.conv.weight' fits no layer")
    theirs, ours = (read_json(folder / "a" / "adapter.json")["base"] for folder in (small, large))
    with pytest.raises(WeightsError, match=f"trained on the decoder {theirs}, this one is {ours}"):
        import_adapter(kohya, large / "x")
    projection_beside(kohya).unlink()
    with pytest.raises(WeightsError, match=r"its projection x\.projection\.safetensors is missing beside it"):
        import_adapter(kohya, small / "x")
    with pytest.raises(WeightsError, match=re.escape(f"{tmp_path / 'b'}: no place of an adapter")):
        import_adapter(kohya, tmp_path / "b")


def test_a_decoder_of_mini_has_the_form_of_diffusers_alone(lab: Lab, tmp_path: Path) -> None:
    toy_decoder(lab.clip).save(tmp_path / "decoder", dtype=None)
    adapters = tmp_path / "decoder" / "adapters"
    decoder = Decoder.load(tmp_path / "decoder", lab.clip)
    decoder.add_adapter("a", AdapterRecipe(rank=2))
    for key, parameter in decoder.named_parameters():
        if "lora_B" in key:
            parameter.data.normal_()
    decoder.save_adapter("a", adapters / "a", {"base": decoder.hash, "default": True})
    with pytest.raises(WeightsError, match="for Stable Diffusion 1 and SDXL, and this decoder is mini"):
        export_adapter(adapters / "a", tmp_path / "x.safetensors", "kohya")
    export_adapter(adapters / "a", tmp_path / "x.safetensors", "diffusers")
    header, shapes = read_header(tmp_path / "x.safetensors")
    assert {key.partition(".")[0] for key in shapes} == {"unet", "expected"}
    assert json.loads(header["brainclip"])["base"] == decoder.hash
    import_adapter(tmp_path / "x.safetensors", adapters / "b")
    decoder, pictures = Decoder.load(tmp_path / "decoder", lab.clip), []
    for name in ("a", "b"):
        decoder.use_adapter(name)
        pictures.append(made(decoder))
    assert torch.equal(*pictures)
