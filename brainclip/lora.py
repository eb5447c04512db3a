"""LoRA through peft: which layers of a network it goes to, its weights read strictly, several at once."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from brainclip.config import AdapterRecipe
from brainclip.errors import RecipeError, WeightsError
from brainclip.weights import read_header, read_weights, write_weights

WEIGHTS = "pytorch_lora_weights.safetensors"
CONFIG = "lora_adapter_metadata"  # under which diffusers keeps peft's configuration in a file's header
CROSS, ATTENTION, FEED_FORWARD = "cross-attention", "attention", "feed-forward"  # names for groups of layers


def adapter_weights(adapter: str | Mapping[str, float] | None) -> dict[str, float]:
    """How many times each adapter is added, by name: a name is added once, and one with weight 0 is left out.

    WeightsError for a weight that is no finite number.
    """
    weights = {adapter: 1.0} if isinstance(adapter, str) else dict(adapter or {})
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            raise WeightsError(
                f"adapter {name!r} has the weight {weight!r}; give a finite number such as 0.7"
            )
    return {name: float(weight) for name, weight in weights.items() if weight}


def shown_adapter(weights: Mapping[str, float]) -> str | dict[str, float] | None:
    """Adapters as generate() is asked for them."""
    return next(iter(weights), None) if list(weights.values()) in ([], [1.0]) else dict(weights)


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


def add_lora(part: nn.Module, name: str, recipe: AdapterRecipe, targets: Sequence[str]) -> None:
    """Attach fresh LoRA layers to the layers `targets` of a part, as lora_targets reads them.

    RecipeError when none of its layers is meant.
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = lora_targets(part, targets)
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=layers)
    try:
        inject_adapter_in_model(config, part, adapter_name=name)
    except ValueError as error:
        why = str(error).partition("\n")[0]
        raise RecipeError(f"targets of the adapter {name!r}: {why}") from None


def attached(part: nn.Module) -> dict[str, Any]:
    """peft's configurations of the adapters that a part has, by name."""
    return getattr(part, "peft_config", {})


def save_lora(part: nn.Module, name: str, folder: Path) -> None:
    """Write the LoRA of one part as diffusers' load_lora_adapter reads it."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(part, adapter_name=name, save_embedding_layers=False)
    write_lora(state, attached(part)[name].to_dict(), folder)


def write_lora(state: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> None:
    """The same of a LoRA that is attached nowhere: its tensors and peft's configuration."""
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_weights(tensors, folder / WEIGHTS, {CONFIG: json.dumps(plain, indent=2, sort_keys=True)})


def read_lora(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and peft's configuration of a LoRA. WeightsError when the file or a part of it is missing."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file; the adapter folder is not complete")
    header, _ = read_header(path)
    if CONFIG not in header:
        raise WeightsError(f"{path}: rank and alpha are not in its header; give it to `brainclip import`")
    return read_weights(path), json.loads(header[CONFIG])


def load_lora(part: nn.Module, name: str, folder: Path) -> None:
    """Attach the LoRA of one part. WeightsError when the file or one of its keys is missing."""
    from diffusers.utils import delete_adapter_layers
    from peft import (
        LoraConfig,
        get_peft_model_state_dict,
        inject_adapter_in_model,
        set_peft_model_state_dict,
    )

    state, config = read_lora(folder)
    try:
        with warnings.catch_warnings():  # peft goes by the keys and only warns of layers that have none
            warnings.filterwarnings("error", message="While injecting the PEFT adapters")
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # of another adapter
            inject_adapter_in_model(LoraConfig(**config), part, adapter_name=name, state_dict=state)
            set_peft_model_state_dict(part, state, adapter_name=name)
        wanted = set(get_peft_model_state_dict(part, adapter_name=name, save_embedding_layers=False))
        if set(state) != wanted:
            raise WeightsError(
                f"{folder}: {len(wanted - set(state))} keys missing and {len(set(state) - wanted)} too many, "
                f"first {min(set(state) ^ wanted)!r}; copy or train the adapter again"
            )
    except (WeightsError, RuntimeError, RuntimeWarning, ValueError, KeyError, TypeError) as error:
        delete_adapter_layers(part, name)
        attached(part).pop(name, None)
        if isinstance(error, WeightsError):
            raise
        why = str(error).partition("\n")[0]
        raise WeightsError(f"{folder}: this LoRA does not fit the base model ({why})") from None


def use_lora(part: nn.Module, weights: Mapping[str, float]) -> None:
    """Make these adapters of a part the active ones, each added so many times; without any, the part is as
    it was before."""
    from diffusers.utils import set_adapter_layers, set_weights_and_activate_adapters

    set_adapter_layers(part, enabled=bool(weights))
    if weights:
        set_weights_and_activate_adapters(part, list(weights), list(weights.values()))


def fuse_lora(part: nn.Module) -> None:
    """Add the active adapters, weighted as they are, to the part's own weights; no LoRA layer is left."""
    from diffusers.utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in part.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    recurse_remove_peft_layers(part)
    attached(part).clear()
