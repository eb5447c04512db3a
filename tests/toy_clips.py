"""CLIP folders in the layouts of other libraries, made with their real classes at toy size."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WIDTH = {"width": 32, "layers": 2}
IMAGE = {"image_size": 32, "patch_size": 8, "head_width": 16, **WIDTH}
TIMM = {"timm_model_name": "test_vit", "image_size": 160}
SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "heads": 2, **WIDTH}


def write_open_clip(folder: Path, **changes: Any) -> str:
    """open_clip's own two towers, with its own vocabulary."""
    model = {"embed_dim": 24, "vision_cfg": IMAGE, "text_cfg": {"heads": 2, **WIDTH}} | changes
    return _write(folder, model)


def write_biomed(folder: Path, **changes: Any) -> str:
    """As BiomedCLIP: a timm image tower and a BERT, 256 tokens, the text projected by two layers."""
    from transformers import BertConfig

    tokenizer = bert_tokenizer(folder, pad=0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=300,
    )
    config.save_pretrained(folder / "bert")
    text = {
        "hf_model_name": str(folder / "bert"),
        "hf_tokenizer_name": str(folder / "bert"),
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_proj_type": "mlp",
        "context_length": 256,
    }
    vision = TIMM | {"timm_pool": "", "timm_proj": "linear"}
    return _write(folder, {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text} | changes)


def write_siglip(folder: Path) -> str:
    """As SigLIP: a timm tower that pools by attention, a text tower that sees the padding, a logit bias."""
    tokenizer = bert_tokenizer(folder, pad=1)
    text = {"vocab_size": len(tokenizer), "context_length": 256, "hf_tokenizer_name": "x", **SIGLIP_TEXT}
    vision = TIMM | {"timm_pool": "map", "timm_proj": "none"}
    model = {"embed_dim": 64, "init_logit_bias": -10, "custom_text": True}
    return _write(folder, model | {"vision_cfg": vision, "text_cfg": text})


def write_clip_model(folder: Path) -> str:
    """A CLIPModel of transformers, with tokenizer and image processor."""
    from transformers import CLIPModel

    torch.manual_seed(3)
    CLIPModel(_config()).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    clip_processor().save_pretrained(folder)
    return f"transformers:{folder}"


def write_kandinsky(folder: Path) -> str:
    """The CLIP of a Kandinsky 2.2 prior: its halves in folders of their own."""
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    torch.manual_seed(4)
    config = _config()
    CLIPTextModelWithProjection(config.text_config).save_pretrained(folder / "text_encoder")
    CLIPVisionModelWithProjection(config.vision_config).save_pretrained(folder / "image_encoder")
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    clip_processor().save_pretrained(folder / "image_processor")
    return f"transformers:{folder}"


WRITERS = {
    "open_clip": write_open_clip,
    "biomed": write_biomed,
    "siglip": write_siglip,
    "clip_model": write_clip_model,
    "kandinsky": write_kandinsky,
}


def _write(folder: Path, model_cfg: dict[str, Any]) -> str:
    """An open_clip folder with random weights."""
    from brainclip.towers.open_clip import build

    torch.manual_seed(2)
    towers = build(model_cfg, folder / "bert")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(towers.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def bert_tokenizer(folder: Path, *, pad: int) -> Any:
    """A BertTokenizer that knows single characters, saved in a folder; pad: id of the padding, 0 or 1."""
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special[:2] = special[:2] if pad == 0 else special[1::-1]
    letters = [c for c in string.printable if not c.isspace() and not c.isupper()]
    words = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    tokenizer.save_pretrained(folder)
    return tokenizer


def _config() -> Any:
    from transformers import CLIPConfig

    common = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 32,
    }
    ends = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    return CLIPConfig(
        text_config={**common, **ends, "vocab_size": 514, "max_position_embeddings": 256},
        vision_config={**common, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )


def clip_tokenizer() -> Any:
    """CLIP's vocabulary without its merges: a token a letter."""
    from open_clip.tokenizer import bytes_to_unicode
    from transformers import CLIPTokenizer

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])


def clip_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
