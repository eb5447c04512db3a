"""Full-size CLIPs on torch's meta device: what each way trains, against the published configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_adapt import STAGE, learning
from toy_clips import clip_processor, clip_tokenizer

from brainclip.clip import Clip
from brainclip.config import ClipRecipe
from brainclip.towers.open_clip import OpenClip, build
from brainclip.towers.transformers import Transformers
from brainclip.train import adapt

# open_clip_config.json of https://huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224
BIOMED = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}
# config.json of https://huggingface.co/microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract
BERT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
# text_encoder/ and image_encoder/config.json of
# https://huggingface.co/kandinsky-community/kandinsky-2-2-prior
KANDINSKY_TEXT = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
KANDINSKY_IMAGE = {
    "hidden_size": 1664,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1280,
}


@pytest.fixture(scope="module")
def text_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("bert")
    BertConfig(**BERT).save_pretrained(folder)
    return folder


def full_size(model_cfg: dict[str, Any], text_config: Path) -> Clip:
    """A Clip whose weights take no memory."""
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with torch.device("meta"):
        towers = build(model_cfg, text_config)
        return Clip(OpenClip({"model_cfg": model_cfg, "preprocess_cfg": preprocess}, None), towers)


def vit_b_32() -> dict[str, Any]:
    import open_clip

    return open_clip.get_model_config("ViT-B-32")


def block(width: int) -> int:
    """Numbers of a transformer block: attention, an MLP of four times the width, two norms."""
    return (4 * width**2 + 4 * width) + (8 * width**2 + 5 * width) + 4 * width


def trained(clip: Clip, **changes: Any) -> int:
    stage = ClipRecipe(**{**vars(STAGE), "base": "x", **changes})
    with torch.device("meta"):
        adapt.choose(clip, stage)
    return learning(clip)


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"train": "full"}, 151_277_313 - 1),  # as published, less the logit scale
        (
            {"train": "blocks", "blocks": 2},
            2 * (block(768) + block(512)) + 2 * (768 + 512) + (768 + 512) * 512,
        ),
        ({"train": "projection"}, (768 + 512) * 512),
        ({"train": "lora", "rank": 16}, 16 * 12 * 18 * (768 + 512)),  # 4 layers of 2 widths, 2 of 5
        ({"train": "lora", "rank": 4, "locked": "text"}, 4 * 12 * 18 * 768),
    ],
)
def test_vit_b_32_trains_as_many_numbers_as_its_configuration_says(
    changes: dict[str, Any], numbers: int, text_config: Path
) -> None:
    clip = full_size(vit_b_32(), text_config)
    assert (clip.context, clip.embedding_width, clip.states_width) == (77, 512, 512)
    assert trained(clip, **changes) == numbers


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        (
            {"train": "blocks", "blocks": 2},
            4 * block(768) + 2 * 768 + 768 * 512 + (768 * 640 + 640 * 512),  # a BERT has no norm at its end
        ),
        ({"train": "projection"}, 768 * 512 + 768 * 640 + 640 * 512),
        # timm: one layer for query, key and value, so 16 widths where BERT has 18
        ({"train": "lora", "rank": 16}, 16 * 12 * (16 + 18) * 768),
        ({"train": "lora", "rank": 16, "locked": "image"}, 16 * 12 * 18 * 768),
    ],
)
def test_biomedclip_trains_as_many_numbers_as_its_configuration_says(
    changes: dict[str, Any], numbers: int, text_config: Path
) -> None:
    clip = full_size(BIOMED, text_config)
    assert (clip.context, clip.embedding_width, clip.states_width) == (256, 512, 768)
    assert trained(clip, **changes) == numbers


def test_biomedclip_has_the_parts_that_its_configuration_says(text_config: Path) -> None:
    vision = 12 * block(768) + 197 * 768 + 768 + (3 * 256 * 768 + 768) + 2 * 768 + 768 * 512
    text = 12 * block(768) + (30522 + 512 + 2 + 2) * 768 + 768 * 640 + 640 * 512
    assert trained(full_size(BIOMED, text_config), train="full") == vision + text


def test_kandinskys_clip_is_open_clips_vit_big_g() -> None:
    import open_clip
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(text_config=KANDINSKY_TEXT, vision_config=KANDINSKY_IMAGE, projection_dim=1280)
    with torch.device("meta"):
        theirs = build(open_clip.get_model_config("ViT-bigG-14"), Path())
        towers = CLIPModel(config)
        towers.logit_bias = None
        clip = Clip(Transformers(config, clip_tokenizer(), clip_processor(), halves=True), towers)
    assert trained(clip, train="full") == sum(p.numel() for p in theirs.parameters()) - 1
    assert (clip.context, clip.embedding_width, clip.states_width) == (77, 1280, 1280)
    of_text, of_image = 32 * (8 * 1280 + 2 * 6400), 48 * (8 * 1664 + 2 * (1664 + 8192))
    assert trained(clip, train="lora", rank=16) == 16 * (of_text + of_image)


def test_lora_file_takes_four_bytes_a_number(tmp_path: Path) -> None:
    from peft import get_peft_model_state_dict
    from toys import toy_clip

    clip = toy_clip()
    stage = ClipRecipe(**{**vars(STAGE), "base": "x", "train": "lora", "rank": 16})
    lora = adapt.choose(clip, stage)
    adapt.save(clip, lora, tmp_path)
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    state = get_peft_model_state_dict(lora, save_embedding_layers=False)
    assert 0 <= size - 4 * learning(clip) < 200 * len(state)  # names and places
