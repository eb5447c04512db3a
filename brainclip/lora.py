"""LoRA through peft: which layers of a network it goes to, and its weights read strictly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from brainclip.config import AdapterRecipe
from brainclip.errors import RecipeError, WeightsError
from brainclip.weights import read_weights

WEIGHTS = "pytorch_lora_weights.safetensors"
ATTENTION = ("cross", "all")


def lora_targets(unet: nn.Module, recipe: AdapterRecipe) -> list[str]:
    """Names of the UNet's layers that get LoRA, or, as `targets`, ends of their names.

    attention = "cross": what reads the condition, queries and outputs included. In Kandinsky's UNet one layer
    attends to picture and condition together; there it is all but the picture's keys and values.
    """
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention

    if recipe.attention and recipe.attention not in ATTENTION:
        raise RecipeError(
            f"attention = {recipe.attention!r}: possible are {', '.join(ATTENTION)}, or none for `targets`"
        )
    attention: list[str] = []
    feed_forward: list[str] = []
    for name, layer in unet.named_modules():
        inner = [f"{name}.{key}" for key, part in layer.named_modules() if isinstance(part, nn.Linear)]
        if isinstance(layer, FeedForward):
            feed_forward += inner
        elif not isinstance(layer, Attention):
            continue
        elif recipe.attention == "cross" and layer.added_kv_proj_dim is not None:
            attention += [key for key in inner if not key.endswith((".to_k", ".to_v"))]
        elif recipe.attention == "all" or layer.is_cross_attention:
            attention += inner
    if recipe.feed_forward and not feed_forward:
        raise RecipeError("feed_forward = true: this decoder's UNet has no feed-forward layers; leave it out")
    names = attention if recipe.attention else list(recipe.targets)
    return names + (feed_forward if recipe.feed_forward else [])


def add_lora(part: Any, name: str, recipe: AdapterRecipe, targets: list[str]) -> None:
    """Attach fresh LoRA layers to a part of diffusers. RecipeError when none of its layers is meant."""
    from peft import LoraConfig

    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=targets)
    try:
        part.add_adapter(config, adapter_name=name)
    except ValueError as error:
        why = str(error).partition("\n")[0]
        raise RecipeError(f"targets of the adapter {name!r}: {why}") from None


def load_lora(part: Any, name: str, folder: Path) -> None:
    """Load the LoRA of one part. WeightsError when the file or one of its keys is missing."""
    from peft import get_peft_model_state_dict

    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{folder / WEIGHTS}: no such weight file; the adapter folder is not complete")
    keys = set(read_weights(folder / WEIGHTS))
    try:
        with warnings.catch_warnings():  # peft goes by the keys and only warns of layers that have none
            warnings.filterwarnings("error", message="While injecting the PEFT adapters")
            part.load_lora_adapter(str(folder), adapter_name=name, prefix=None, use_safetensors=True)
    except (RuntimeError, RuntimeWarning, ValueError, KeyError) as error:
        why = str(error).partition("\n")[0]
        raise WeightsError(f"{folder}: this LoRA does not fit the base model ({why})") from None
    wanted = set(get_peft_model_state_dict(part, adapter_name=name))
    if keys != wanted:
        raise WeightsError(
            f"{folder}: {len(wanted - keys)} keys missing and {len(keys - wanted)} too many, first "
            f"{min(keys ^ wanted)!r}; copy or train the adapter again"
        )
