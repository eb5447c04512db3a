"""LoRA through peft: which layers of a network it goes to, and its weights read strictly."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from brainclip.config import AdapterRecipe
from brainclip.errors import RecipeError, WeightsError
from brainclip.weights import read_weights

WEIGHTS = "pytorch_lora_weights.safetensors"
CROSS, ATTENTION, FEED_FORWARD = "cross-attention", "attention", "feed-forward"  # names for groups of layers


def lora_targets(part: nn.Module, asked: Sequence[str]) -> list[str]:
    """The layers that `asked` means, as peft takes them: names of layers, and ends of names as they are.

    cross-attention: what reads the condition, queries and outputs included. In Kandinsky's UNet one layer
    attends to picture and condition together; there it is all but the picture's keys and values. attention:
    the picture's own as well. RecipeError for a group of which the part has no layer.
    """
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention

    groups: dict[str, list[str]] = {CROSS: [], ATTENTION: [], FEED_FORWARD: []}
    for name, layer in part.named_modules():
        inner = [f"{name}.{key}" for key, inside in layer.named_modules() if isinstance(inside, nn.Linear)]
        if isinstance(layer, FeedForward):
            groups[FEED_FORWARD] += inner
        elif isinstance(layer, Attention):
            groups[ATTENTION] += inner
            if layer.added_kv_proj_dim is not None:
                groups[CROSS] += [key for key in inner if not key.endswith((".to_k", ".to_v"))]
            elif layer.is_cross_attention:
                groups[CROSS] += inner
    for target in asked:
        if groups.get(target) == []:
            there = ", ".join(group for group, layers in groups.items() if layers) or "none"
            raise RecipeError(
                f"targets: {target!r} means no layer of this decoder; of the groups it has {there}"
            )
    return sorted({layer for target in asked for layer in groups.get(target, [target])})


def add_lora(part: Any, name: str, recipe: AdapterRecipe, targets: Sequence[str]) -> None:
    """Attach fresh LoRA layers to the layers `targets` of a part of diffusers, as lora_targets reads them.

    RecipeError when none of its layers is meant.
    """
    from peft import LoraConfig

    layers = lora_targets(part, targets)
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=layers)
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
