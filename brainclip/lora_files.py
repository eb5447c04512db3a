"""Adapters as one file, out and in: as diffusers' pipelines and as kohya's sd-scripts write them.

Our own form is a folder, <decoder>/adapters/<name>: diffusers' LoRA of each part, and adapter.json.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brainclip.errors import WeightsError
from brainclip.layouts import StableDiffusionXL, layout_kind
from brainclip.lora import CONFIG, WEIGHTS, read_lora, write_lora
from brainclip.lora_names import OF_SDXL, TEXT, Place, further_names, kohya_names
from brainclip.weights import (
    DIFFUSERS_WEIGHTS,
    hash_file,
    read_header,
    read_json,
    read_weights,
    write_json,
    write_weights,
)

CARD = "brainclip"  # under which adapter.json stands in the header of a file
PROJECTION = Path("projection") / DIFFUSERS_WEIGHTS
ENDS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}


@dataclass(frozen=True)
class LowRank:
    """The LoRA of one layer: alpha / rank * up @ down is added to its weight.

    down: (rank, inputs), up: (outputs, rank); those of a convolution with the kernel's sides behind.
    """

    down: Tensor
    up: Tensor
    alpha: float


Lora = dict[Place, LowRank]


class Base:
    """The decoder that an adapter's folder belongs to, and what an adapter has to fit.

    layers: part -> layer -> shape of its weight, as the adapter's files call them. unet: its configuration.
    """

    def __init__(self, adapter: Path) -> None:
        folder = adapter.parent.parent
        if adapter.parent.name != "adapters" or not (folder / "contract.json").is_file():
            raise WeightsError(
                f"{adapter}: no place of an adapter; that is DECODER/adapters/NAME, with the finished "
                "decoder of a run or of a model"
            )
        self.kind = layout_kind(folder)
        self.hash = hash_file(folder / "unet" / DIFFUSERS_WEIGHTS)
        self.unet = read_json(folder / "unet" / "config.json")
        self.layers: dict[str, dict[str, tuple[int, ...]]] = {}
        for part in (*self.kind.lora, *getattr(self.kind, "text_encoders", ())):
            shapes: dict[str, tuple[int, ...]] = {}
            for path in sorted((folder / part).glob("*.safetensors")):
                shapes |= read_header(path)[1]
            if shapes:
                self.layers[part] = {
                    key.removesuffix(".weight").removeprefix("text_model."): shape
                    for key, shape in shapes.items()
                    if key.endswith(".weight") and len(shape) > 1
                }


def export_adapter(folder: Path, out: Path, form: str) -> int:
    """Write an adapter's folder as one file in the form "diffusers" or "kohya"; how many layers it has.

    A projection of the image embedding, for which neither form has a place, goes into a file beside it
    (projection_beside). WeightsError for a folder that is no adapter, and for layers that the form does not
    know.
    """
    base, card, lora = Base(folder), read_json(folder / "adapter.json"), read_folder(folder)
    tensors: dict[str, Tensor] = {}
    projected = (folder / PROJECTION).is_file()
    header = {CARD: json.dumps(card | {"projection": projected})}
    if form == "kohya":
        names = _kohya(base, folder)
        for place, added in lora.items():
            if place not in names:
                raise WeightsError(
                    f"{folder}: kohya's form has no name for {'.'.join(place)}; use that of diffusers"
                )
            tensors[f"{names[place]}.lora_down.weight"] = added.down
            tensors[f"{names[place]}.lora_up.weight"] = added.up
            tensors[f"{names[place]}.alpha"] = torch.tensor(added.alpha)
    else:
        for (part, layer), added in lora.items():
            name = f"{part}.{'text_model.' if part in TEXT[StableDiffusionXL] else ''}{layer}"
            tensors |= {f"{name}.lora_A.weight": added.down, f"{name}.lora_B.weight": added.up}
        configs = {part: _config(lora, part) for part in dict.fromkeys(part for part, _ in lora)}
        flat = {f"{part}.{key}": value for part, config in configs.items() for key, value in config.items()}
        header[CONFIG] = json.dumps(flat, indent=2, sort_keys=True)
    projection_beside(out).unlink(missing_ok=True)  # that of an earlier export
    if projected:
        write_weights(read_weights(folder / PROJECTION), projection_beside(out))
    write_weights(tensors, out, header)
    return len(lora)


def import_adapter(path: Path, folder: Path) -> int:
    """Write a one-file LoRA of either form as the adapter `folder` of a decoder; how many layers it has.

    WeightsError for one of another base, both named, for keys that do not fit it, and for a folder that is
    there already.
    """
    base = Base(folder)
    if folder.exists():
        raise WeightsError(f"{folder}: there already; choose another name or delete it")
    header, _ = read_header(path)
    card = json.loads(header.get(CARD, "{}"))
    projected = card.pop("projection", False)
    if card.get("base", base.hash) != base.hash:
        raise WeightsError(
            f"{path}: this LoRA was trained on the decoder {card['base']}, this one is {base.hash}"
        )
    if projected and not projection_beside(path).is_file():
        raise WeightsError(f"{path}: its projection {projection_beside(path).name} is missing beside it")
    lora = read_file(path, base)
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in dict.fromkeys(part for part, _ in lora):
        state: dict[str, Tensor] = {}
        for (where, layer), added in lora.items():
            if where == part:
                state |= {f"{layer}.lora_A.weight": added.down, f"{layer}.lora_B.weight": added.up}
        write_lora(state, _config(lora, part), unfinished / part)
    if projection_beside(path).is_file():
        write_weights(read_weights(projection_beside(path)), unfinished / PROJECTION)
    if not card:
        rank, alpha = len(next(iter(lora.values())).down), next(iter(lora.values())).alpha
        card = {"base": base.hash, "rank": rank, "alpha": alpha, "modalities": [], "default": False}
    write_json(unfinished / "adapter.json", card | {"file": {"name": path.name, "hash": hash_file(path)}})
    os.replace(unfinished, folder)
    return len(lora)


def projection_beside(path: Path) -> Path:
    """Where the projection of an adapter that is the file `path` lies."""
    return path.with_name(f"{path.stem}.projection.safetensors")


def read_folder(folder: Path) -> Lora:
    """The LoRA of an adapter's folder."""
    lora = {}
    for path in sorted(folder.glob(f"*/{WEIGHTS}")):
        state, config = read_lora(path.parent)
        for key, down in state.items():
            layer = key.removesuffix(".lora_A.weight")
            if layer != key:
                up = state[f"{layer}.lora_B.weight"]
                lora[path.parent.name, layer] = LowRank(down, up, _alpha(config, layer, len(down)))
    return lora


def read_file(path: Path, base: Base) -> Lora:
    """The LoRA of a file of either form, all of whose keys are known and fit this base.

    A layer of which the file states no alpha has that of its rank, as is usual.
    """
    state, (header, _) = read_weights(path), read_header(path)
    of_sdxl = next((key for key in state if OF_SDXL.match(key)), None)
    if of_sdxl and base.kind is not StableDiffusionXL:
        raise WeightsError(
            f"{path}: a LoRA for SDXL (its key {of_sdxl!r}), and this decoder is {base.kind.title}; give one "
            "that was made for it"
        )
    kohya = any(key.startswith("lora_") for key in state)
    keyed = _by_kohya(state, base, path) if kohya else _by_diffusers(state)
    layers: dict[Place, dict[str, Tensor]] = {}
    for (place, end), (key, value) in keyed.items():
        part, layer = place
        if not end or layer not in base.layers.get(part, {}):
            raise WeightsError(
                f"{path}: its key {key!r} fits no layer of this decoder, {base.kind.title} with the parts "
                f"{', '.join(base.layers)}"
            )
        layers.setdefault(place, {})[end] = value
    flat = json.loads(header.get(CONFIG, "{}"))
    lora = {}
    for place, found in layers.items():
        part, layer = place
        _check_shapes(path, place, found, base.layers[part][layer])
        config = {k.removeprefix(f"{part}."): v for k, v in flat.items() if k.startswith(f"{part}.")}
        rank = len(found["down"])
        alpha = float(found["alpha"]) if "alpha" in found else _alpha(config, layer, rank)
        lora[place] = LowRank(found["down"], found["up"], alpha)
    if not lora:
        raise WeightsError(f"{path}: holds no LoRA")
    return lora


Keyed = dict[
    tuple[Place, str], tuple[str, Tensor]
]  # place and what of it (down, up, alpha) -> key and tensor


def _by_kohya(state: Mapping[str, Tensor], base: Base, path: Path) -> Keyed:
    further = further_names(base.layers)
    places = {name: place for place, name in (*further.items(), *_kohya(base, path).items())}
    keyed = {}
    for key, value in state.items():
        name, _, rest = key.partition(".")
        keyed[places.get(name, ("", name)), ENDS.get(f".{rest}", "")] = key, value
    return keyed


def _by_diffusers(state: Mapping[str, Tensor]) -> Keyed:
    """Keys as diffusers' pipelines write them; those of its versions before peft by its own converters."""
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
    from diffusers.utils.state_dict_utils import StateDictType

    keyed = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if ".lora_A." not in rest and ".lora_B." not in rest:
            one = {rest: value}
            text = part in TEXT[StableDiffusionXL]
            one = (
                convert_state_dict_to_peft(one, original_type=StateDictType.DIFFUSERS_OLD)
                if text
                else convert_unet_state_dict_to_peft(one)
            )
            rest = next(iter(one))
        end = next((end for end in ENDS if rest.endswith(end)), "")
        layer = rest.removesuffix(end).removeprefix("text_model.")
        keyed[(part, layer), ENDS.get(end, "")] = key, value
    return keyed


def _kohya(base: Base, path: Path) -> dict[Place, str]:
    """kohya's name of each layer of a decoder. WeightsError for a kind that sd-scripts does not know."""
    if base.kind not in TEXT:
        raise WeightsError(
            f"{path}: the kohya form is for {' and '.join(kind.title for kind in TEXT)}, and this decoder is "
            f"{base.kind.title}; use the form of diffusers"
        )
    return kohya_names(base.kind, base.unet, base.layers)


def _check_shapes(path: Path, place: Place, found: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
    """WeightsError unless both halves of a layer's LoRA are there, finite and of the layer's shape."""
    name = ".".join(place)
    if not {"down", "up"} <= set(found):
        raise WeightsError(f"{path}: of its LoRA of {name} a half is missing; copy the file again")
    down, up = found["down"], found["up"]
    rank, (outputs, inputs, *sides) = len(down), shape
    if (down.shape[1:], up.shape) != ((inputs, *sides), (outputs, rank, *[1] * len(sides))):
        raise WeightsError(
            f"{path}: its LoRA of {name} is for a weight of {len(up)} x {down.shape[1]}, in this decoder it "
            f"has {outputs} x {inputs}; was it made for another base?"
        )
    if not all(torch.isfinite(value).all() for value in found.values()):
        raise WeightsError(f"{path}: its LoRA of {name} holds values that are not finite; it cannot be used")


def _alpha(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """The alpha of a layer by peft's configuration; its rank where this states none."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns, layer), config.get("lora_alpha", rank))
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


def _config(lora: Lora, part: str) -> dict[str, Any]:
    """peft's configuration of the LoRA of one part: each layer's rank and alpha are kept."""
    from peft import LoraConfig

    ranks = {layer: len(added.down) for (where, layer), added in lora.items() if where == part}
    alphas = {layer: added.alpha for (where, layer), added in lora.items() if where == part}
    (rank, _), (alpha, _) = (Counter(found.values()).most_common(1)[0] for found in (ranks, alphas))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={layer: found for layer, found in ranks.items() if found != rank},
        alpha_pattern={layer: found for layer, found in alphas.items() if found != alpha},
        target_modules=sorted(ranks),
    ).to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
