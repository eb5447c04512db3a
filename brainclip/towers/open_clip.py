"""CLIPs of open_clip: its own towers, timm image towers, transformers text towers; opened as local-dir:."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brainclip.errors import RecipeError, WeightsError
from brainclip.towers import Layout, Side, Towers, all_parameters, padded_with, unreachable
from brainclip.weights import load_weights, read_json, save_weights, write_json

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
OWN_VOCABULARY = "local"  # hf_tokenizer_name of a CLIP with a tokenizer.json of brainclip's
START, END, PAD, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|pad|>", "<|unknown|>"
TEXT_CONFIG = "text_config"  # folder with the config of a transformers text tower
LOGIT_BIAS = -10.0  # Zhai et al. 2023, section 3.2


class OpenClip(Layout):
    """config: what open_clip_config.json holds, model_cfg and preprocess_cfg.

    tokenizer: one of open_clip's, or a tokenizers.Tokenizer for brainclip's own vocabulary.
    """

    def __init__(self, config: dict[str, Any], tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        model, preprocess = config["model_cfg"], config["preprocess_cfg"]
        self.context = int(model["text_cfg"].get("context_length", 77))
        self.embedding_width = int(model["embed_dim"])
        size = preprocess.get("size", model["vision_cfg"].get("image_size", 224))
        height, width = (size, size) if isinstance(size, int) else size
        self.size = int(height), int(width)
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        inner = getattr(tokenizer, "tokenizer", None)  # transformers' own, in open_clip's HFTokenizer
        self.padding = int(inner.pad_token_id) if inner is not None else 0

    @classmethod
    def read(cls, folder: Path) -> tuple[OpenClip, Towers]:
        """The layout and the towers that save() has written. WeightsError when a file or key is missing."""
        config = read_json(folder / CONFIG)
        if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name") == OWN_VOCABULARY:
            from tokenizers import Tokenizer

            path = folder / "tokenizer.json"
            if not path.is_file():
                raise WeightsError(f"{path}: no such file; the clip folder is not complete")
            tokenizer = Tokenizer.from_file(str(path))
        else:
            import open_clip

            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        layout = cls(config, tokenizer)
        towers = build(config["model_cfg"], folder / TEXT_CONFIG)
        load_weights(towers, folder / WEIGHTS)
        layout.take_size(towers)
        return layout, towers

    @staticmethod
    def weights(folder: Path) -> list[Path]:
        return [folder / WEIGHTS]

    def save(self, towers: Towers, folder: Path, dtype: torch.dtype | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(self.tokenizer, "encode_batch"):
            self._save_vocabulary(folder)
        elif hasattr(self.tokenizer, "tokenizer"):
            self.tokenizer.tokenizer.save_pretrained(folder)
        if _is_of_transformers(text := _text(towers)):
            text.config.save_pretrained(folder / TEXT_CONFIG)
        save_weights(towers, folder / WEIGHTS, dtype=dtype)
        config = copy.deepcopy(self.config)
        if towers.logit_bias is not None:
            config["model_cfg"].setdefault("init_logit_bias", LOGIT_BIAS)
        write_json(folder / CONFIG, config)

    def _save_vocabulary(self, folder: Path) -> None:
        self.tokenizer.save(str(folder / "tokenizer.json"))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": self.context,
                "bos_token": START,
                "eos_token": END,
                "pad_token": PAD,
                "unk_token": UNKNOWN,
            },
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        if hasattr(self.tokenizer, "encode_batch"):
            return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        if hasattr(self.tokenizer, "tokenizer"):
            cleaned = [self.tokenizer.clean_fn(text) for text in texts]
            return [list(ids) for ids in self.tokenizer.tokenizer(cleaned).input_ids]
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        return [[start, *self.tokenizer.encode(text), end] for text in texts]

    def check_tokenizer(self) -> None:
        """WeightsError where the tokenizer marks or pads texts in a way that ids() does not know of."""
        texts = ["axial T1 slice of a brain", ""]
        rows = [torch.tensor(ids + [self.padding] * (self.context - len(ids))) for ids in self.ids(texts)]
        if not torch.equal(torch.stack(rows), self.tokenizer(texts, context_length=self.context)):
            raise WeightsError("clip.base: its tokenizer has a mode that is not supported")

    def encode_text(self, towers: Towers, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As open_clip's encode_text, but without the padding beyond the longest text where the tower does
        not see it, which is 2-3 times faster."""
        from open_clip.transformer import text_global_pool

        text, longest = _text(towers), int(lengths.max())
        if _is_of_transformers(text):
            ids = padded_with(self.padding, tokens[:, :longest], lengths)
            seen = (torch.arange(longest, device=ids.device) < lengths[:, None]).long()
            out = text.transformer(input_ids=ids, attention_mask=seen)
            return text.proj(text.pooler(out, seen)), out.last_hidden_state.float()
        causal = text.attn_mask is not None
        longest = longest if causal else self.context
        ids = padded_with(self.padding, tokens[:, :longest], lengths)
        x = text.token_embedding(ids) + text.positional_embedding[:longest]  # (B, L, W)
        mask = text.attn_mask[:longest, :longest] if causal else None
        x = text.ln_final(text.transformer(x, attn_mask=mask)).float()
        native = text is towers
        pool, end = (text.text_pool_type, text.text_eos_id) if native else (text.pool_type, text.eos_id)
        pooled, projection = text_global_pool(x, ids, pool, end), text.text_projection
        if isinstance(projection, nn.Parameter):
            return pooled @ projection.float(), x
        return pooled if projection is None else projection(pooled), x

    def encode_image(self, towers: Towers, pixels: Tensor) -> Tensor:
        return towers.visual(pixels)

    def states_width(self, towers: Towers) -> int:
        text = _text(towers)
        return int(text.config.hidden_size if _is_of_transformers(text) else text.ln_final.weight.shape[0])

    def sides(self, towers: Towers) -> dict[str, Side]:
        return {"image": _image_side(towers.visual), "text": _text_side(towers)}

    def image_maps(self, towers: Towers) -> list[Tensor]:
        visual = towers.visual
        if not hasattr(visual, "trunk"):
            return [visual.proj] if isinstance(getattr(visual, "proj", None), nn.Parameter) else []
        parts = [visual.trunk.get_classifier(), *visual.head.modules()]
        layers = [part for part in parts if isinstance(part, nn.Linear)]
        if not layers:
            return []
        return [layers[-1].weight.T] + ([] if layers[-1].bias is None else [layers[-1].bias])

    def extras(self, towers: Towers) -> dict[str, Tensor]:
        return {}

    def check_size(self, towers: Towers) -> None:
        """RecipeError for a size that is no multiple of the image tower's patches."""
        trunk = getattr(towers.visual, "trunk", None)
        patch = getattr(getattr(trunk, "patch_embed", towers.visual), "patch_size", (1, 1))
        if self.size[0] % patch[0] or self.size[1] % patch[1]:
            raise RecipeError(
                f"clip.image_size = {list(self.size)}: height and width must be multiples of {patch[0]} "
                f"and {patch[1]}"
            )

    def take_size(self, towers: Towers) -> None:
        """Let a timm transformer take `size`, which open_clip does not see to: it resamples its position
        embeddings whenever it is shown another size, so its weights keep their shape.

        RecipeError for another timm tower, where the size is not its own.
        """
        visual = towers.visual
        trunk = getattr(visual, "trunk", None)
        if trunk is None or self.size == tuple(visual.image_size):
            return
        if not (hasattr(trunk, "dynamic_img_size") and hasattr(trunk, "pos_embed")):
            raise RecipeError(
                f"clip.image_size = {list(self.size)}: this base takes {list(visual.image_size)} only"
            )
        from timm.layers import Format

        trunk.dynamic_img_size = True  # what timm.create_model would set; open_clip does not pass it on
        trunk.patch_embed.strict_img_size = trunk.patch_embed.flatten = False
        trunk.patch_embed.output_fmt = Format.NHWC


def build(model_cfg: dict[str, Any], text_config: Path) -> Towers:
    """open_clip's model of a model_cfg with random weights; nothing is read but the folder `text_config`,
    which holds the config of a transformers text tower where there is one."""
    from open_clip.model import CLIP, CustomTextCLIP

    arguments = copy.deepcopy(model_cfg)
    custom = arguments.pop("custom_text", False)
    vision, text = arguments["vision_cfg"], arguments["text_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text |= {"hf_model_name": str(text_config), "hf_model_pretrained": False}
    return (CustomTextCLIP if custom or "hf_model_name" in text else CLIP)(**arguments)


def opened(name: str, tag: str | None, size: tuple[int, int] | None) -> tuple[OpenClip, Towers]:
    """The layout and the towers of an open_clip name with a pretrained tag, or of a name that begins with
    hf-hub: or local-dir:, its weights strictly loaded.

    size: height and width of its images, if not its own. WeightsError when it cannot be had.
    """
    import open_clip

    quick_gelu = _fetch(name, tag)
    model_cfg = open_clip.get_model_config(name)
    if "multimodal_cfg" in model_cfg:
        raise WeightsError(f"clip.base = {name!r} is a CoCa, whose text tower is not supported")
    if quick_gelu:
        model_cfg["quick_gelu"] = True
    forced = size if "timm_model_name" not in model_cfg["vision_cfg"] else None
    towers = open_clip.create_model(
        name, tag, force_image_size=forced, force_quick_gelu=quick_gelu, require_pretrained=True
    )
    preprocess = copy.deepcopy(towers.visual.preprocess_cfg)
    if forced:
        model_cfg["vision_cfg"]["image_size"] = list(forced)
    preprocess["size"] = list(size) if size else preprocess["size"]
    layout = OpenClip({"model_cfg": model_cfg, "preprocess_cfg": preprocess}, open_clip.get_tokenizer(name))
    layout.check_size(towers)
    layout.take_size(towers)
    layout.check_tokenizer()
    return layout, towers.eval()


def _fetch(name: str, tag: str | None) -> bool:
    """Fetch the config and the weights of a base, for open_clip goes on with random weights where there are
    none; True when a tag wants quick_gelu."""
    import open_clip
    from open_clip.pretrained import download_pretrained_from_hf, get_pretrained_cfg

    kind, _, place = name.partition(":")
    if kind == "local-dir":
        found = [path for ending in ("safetensors", "bin", "pth") for path in Path(place).glob(f"*.{ending}")]
        if not (Path(place) / CONFIG).is_file() or not found:
            raise WeightsError(f"clip.base = {name!r}: a folder with {CONFIG} and a weight file is needed")
        return False
    if kind == "hf-hub":
        try:
            for file in (CONFIG, None):  # None: the weights, under the name they have there
                download_pretrained_from_hf(place, filename=file)
        except (OSError, ValueError) as error:
            raise WeightsError(unreachable(name, error)) from None
        return False
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        known = (
            f"its tags: {', '.join(tags)}" if tags else "open_clip.list_pretrained() has all names and tags"
        )
        raise WeightsError(f"clip.base = '{name}/{tag}' is not known to open_clip; {known}")
    pretrained = get_pretrained_cfg(name, tag)
    try:
        open_clip.download_pretrained(pretrained)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(unreachable(f"{name}/{tag}", error)) from None
    return bool(pretrained.get("quick_gelu", False))


def _image_side(visual: Towers) -> Side:
    everything, blocks, ends = list(visual.parameters()), [], []
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        blocks = list(getattr(trunk, "blocks", []))
        ends = all_parameters(*(getattr(trunk, name, None) for name in ("norm", "attn_pool", "fc_norm")))
        projection = all_parameters(trunk.get_classifier(), visual.head)
    elif hasattr(visual, "transformer"):
        blocks = list(visual.transformer.resblocks)
        ends = all_parameters(visual.attn_pool, visual.ln_post)
        projection = all_parameters(visual.proj)
    else:
        projection = all_parameters(visual.attnpool)  # of a ResNet, pooling and projection in one
    return Side(everything, blocks, ends, projection)


def _text(towers: Towers) -> Towers:
    """The text tower: a part of its own, or spread over the whole."""
    return getattr(towers, "text", towers)


def _is_of_transformers(text: Towers) -> bool:
    return hasattr(text, "pooler")


def _text_side(towers: Towers) -> Side:
    text = _text(towers)
    if _is_of_transformers(text):
        inner = text.transformer
        blocks = list(getattr(getattr(inner, "encoder", None), "layer", []))
        projection = all_parameters(getattr(inner, "pooler", None), text.proj)
        return Side(list(text.parameters()), blocks, [], projection)
    parts = (text.token_embedding, text.positional_embedding, text.transformer, text.ln_final)
    ends, projection = all_parameters(text.ln_final), all_parameters(text.text_projection)
    everything = all_parameters(*parts) + projection
    return Side(everything, list(text.transformer.resblocks), ends, projection)
