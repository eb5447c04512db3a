"""CLIPs of transformers: one CLIPModel folder, or the text_encoder/, image_encoder/, tokenizer/ and
image_processor/ of a Kandinsky 2.2 prior. Either is a CLIPModel in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brainclip.errors import RecipeError, WeightsError
from brainclip.towers import (
    UNREADABLE,
    Layout,
    Side,
    Towers,
    all_parameters,
    padded_with,
    shortly,
    unreachable,
)
from brainclip.weights import save_weights

WEIGHTS = "model.safetensors"
TEXT, IMAGE, TOKENIZER, PROCESSOR = "text_encoder", "image_encoder", "tokenizer", "image_processor"


class Transformers(Layout):
    """tokenizer, processor: transformers' own. halves: the folder is laid out as a Kandinsky 2.2 prior's."""

    def __init__(self, config: Any, tokenizer: Any, processor: Any, *, halves: bool) -> None:
        self.config, self.tokenizer, self.processor, self.halves = config, tokenizer, processor, halves
        self.context = int(config.text_config.max_position_embeddings)
        self.embedding_width = int(config.projection_dim)
        own = config.vision_config.image_size
        size = processor.crop_size or {"height": own, "width": own}
        self.size = int(size["height"]), int(size["width"])
        self.mean, self.std = tuple(processor.image_mean), tuple(processor.image_std)
        self.padding = int(tokenizer.pad_token_id)

    @classmethod
    def read(cls, name: str) -> tuple[Transformers, Towers]:
        """The layout and the towers of a folder or hub id. WeightsError for a missing file or key."""
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel
        from transformers import CLIPTextModelWithProjection as TextHalf
        from transformers import CLIPVisionModelWithProjection as ImageHalf

        halves = _has(name, f"{TEXT}/config.json")
        if halves:
            text, image = _read(TextHalf, name, TEXT), _read(ImageHalf, name, IMAGE)
            towers = _whole(text, image)
        else:
            towers = _read(CLIPModel, name, "")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, subfolder=TOKENIZER if halves else "")
            processor = CLIPImageProcessor.from_pretrained(name, subfolder=PROCESSOR if halves else "")
        except UNREADABLE as error:
            raise WeightsError(
                f"{name}: its tokenizer or image processor cannot be read: {shortly(error)}"
            ) from None
        towers.logit_bias = None
        return cls(towers.config, tokenizer, processor, halves=halves), towers.eval()

    def take_size(self, size: tuple[int, int]) -> None:
        """Take images of another height and width: the position embeddings stay square, as transformers wants
        them, and are interpolated by it. RecipeError for a size that is no multiple of the patches."""
        patch = self.config.vision_config.patch_size
        if size[0] % patch or size[1] % patch:
            raise RecipeError(
                f"clip.image_size = {list(size)}: height and width must be multiples of {patch}"
            )
        self.size = size
        self.processor.size = {"shortest_edge": max(size)}
        self.processor.crop_size = {"height": size[0], "width": size[1]}

    @staticmethod
    def weights(folder: Path) -> list[Path]:
        halves = [folder / TEXT / WEIGHTS, folder / IMAGE / WEIGHTS]
        return halves if halves[0].is_file() else [folder / WEIGHTS]

    def save(self, towers: Towers, folder: Path, dtype: torch.dtype | None) -> None:
        parts = {"": towers}
        if self.halves:
            parts = dict(zip((TEXT, IMAGE), _halves(towers), strict=True))
        self.tokenizer.save_pretrained(folder / TOKENIZER if self.halves else folder)
        self.processor.save_pretrained(folder / PROCESSOR if self.halves else folder)
        for name, part in parts.items():
            bias, part.logit_bias = getattr(part, "logit_bias", None), None  # no place in transformers' files
            save_weights(part, folder / name / WEIGHTS, dtype=dtype)
            part.logit_bias = bias
            part.config.architectures, part.config.dtype = [type(part).__name__], dtype or torch.float32
            part.config.save_pretrained(folder / name)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(list(texts)).input_ids]

    def encode_text(self, towers: Towers, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        longest = int(lengths.max())
        ids = padded_with(self.padding, tokens[:, :longest], lengths)
        out = towers.text_model(input_ids=ids)  # causal, so the padding needs no mask
        return towers.text_projection(out.pooler_output), out.last_hidden_state.float()

    def encode_image(self, towers: Towers, pixels: Tensor) -> Tensor:
        own = self.config.vision_config.image_size
        out = towers.vision_model(pixels, interpolate_pos_encoding=self.size != (own, own))
        return towers.visual_projection(out.pooler_output)

    def states_width(self, towers: Towers) -> int:
        return int(self.config.text_config.hidden_size)

    def sides(self, towers: Towers) -> dict[str, Side]:
        parts = {
            "image": (towers.vision_model, towers.vision_model.post_layernorm, towers.visual_projection),
            "text": (towers.text_model, towers.text_model.final_layer_norm, towers.text_projection),
        }
        return {
            name: Side(
                all_parameters(tower, projection),
                list(tower.encoder.layers),
                all_parameters(norm),
                all_parameters(projection),
            )
            for name, (tower, norm, projection) in parts.items()
        }

    def image_maps(self, towers: Towers) -> list[Tensor]:
        return [towers.visual_projection.weight.T]

    def extras(self, towers: Towers) -> dict[str, Tensor]:
        bias = {} if towers.logit_bias is None else {"logit_bias": towers.logit_bias}
        return {"logit_scale": towers.logit_scale, **bias}


def _has(name: str, file: str) -> bool:
    """Whether a folder or hub id has this file. WeightsError where that cannot be known."""
    if Path(name).is_dir():
        return (Path(name) / file).is_file()
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise WeightsError(f"clip.base = 'transformers:{name}': no such folder")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    try:
        hf_hub_download(name, file)
    except RemoteEntryNotFoundError:
        return False
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise WeightsError(unreachable(f"transformers:{name}", error)) from None
    return True


def _read(kind: Any, name: str, part: str) -> Towers:
    """A model of transformers in float32, every weight of which was in its files."""
    try:
        model, found = kind.from_pretrained(
            name, subfolder=part, dtype=torch.float32, output_loading_info=True
        )
    except UNREADABLE as error:
        raise WeightsError(f"{name}/{part}: no {kind.__name__} can be read: {shortly(error)}") from None
    wrong = sorted({*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]})
    if wrong:
        raise WeightsError(
            f"{name}/{part}: {len(wrong)} weights are not those of its config, first {wrong[0]!r}"
        )
    return model


def _whole(text: Towers, image: Towers) -> Towers:
    """A CLIPModel of the two halves of a Kandinsky 2.2 prior; its logit scale is that of its config."""
    from transformers import CLIPConfig, CLIPModel

    width = text.config.projection_dim
    if image.config.projection_dim != width:
        raise WeightsError(
            f"{TEXT} has embeddings of {width} numbers, {IMAGE} of {image.config.projection_dim}; "
            "they are not of one CLIP"
        )
    config = CLIPConfig(
        text_config=text.config.to_dict(), vision_config=image.config.to_dict(), projection_dim=width
    )
    with torch.device("meta"):
        whole = CLIPModel(config)
    whole.text_model, whole.text_projection = text.text_model, text.text_projection
    whole.vision_model, whole.visual_projection = image.vision_model, image.visual_projection
    whole.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
    return whole


def _halves(whole: Towers) -> tuple[Towers, Towers]:
    """The text and the image half of a CLIPModel, as a Kandinsky 2.2 prior has them."""
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    with torch.device("meta"):
        text = CLIPTextModelWithProjection(whole.config.text_config)
        image = CLIPVisionModelWithProjection(whole.config.vision_config)
    text.text_model, text.text_projection = whole.text_model, whole.text_projection
    image.vision_model, image.visual_projection = whole.vision_model, whole.visual_projection
    return text, image
