"""How kohya's sd-scripts call the layers of a Stable Diffusion in a LoRA file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from brainclip.layouts import StableDiffusion, StableDiffusionXL

Place = tuple[str, str]  # part of a decoder, layer in it
UNET = "lora_unet_"
TEXT: dict[type[Any], dict[str, str]] = {
    StableDiffusion: {"text_encoder": "lora_te_"},
    StableDiffusionXL: {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
}
RESNET = {  # the layers of a residual block in Stability's own code
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OF_SDXL = re.compile(r"lora_te2_|text_encoder_2\.|lora_unet_(input_blocks|middle_block|output_blocks)_")


def kohya_names(
    kind: type[Any], unet: Mapping[str, Any], layers: Mapping[str, Iterable[str]]
) -> dict[Place, str]:
    """The name of each layer, by part and layer, as sd-scripts write it: for SDXL that of Stability's code.

    unet: the UNet's configuration. layers: part -> its layers. Those without a name are left out.
    """
    names = {}
    for part, inside in layers.items():
        for layer in inside:
            if part == "unet":
                called = sgm_name(layer, unet) if kind is StableDiffusionXL else layer
                start = UNET
            else:
                called, start = f"text_model.{layer}", TEXT[kind].get(part, "")
            if called:
                names[part, layer] = start + called.replace(".", "_")
    return names


def further_names(layers: Mapping[str, Iterable[str]]) -> dict[Place, str]:
    """Other names by which programs call the same layers: diffusers' for any UNet, and lora_te1_ for any
    first text encoder."""
    starts = {"unet": UNET, "text_encoder": "lora_te1_text_model_"}
    return {
        (part, layer): start + layer.replace(".", "_")
        for part, start in starts.items()
        for layer in layers.get(part, ())
    }


def sgm_name(layer: str, unet: Mapping[str, Any]) -> str:
    """The name in Stability's own code of a layer of diffusers' UNet, in its attentions and residual blocks;
    empty for one elsewhere."""
    found = re.fullmatch(
        r"(down_blocks|mid_block|up_blocks)(?:\.(\d+))?\.(resnets|attentions)\.(\d+)\.(.+)", layer
    )
    if not found:
        return ""
    where, block, kind, number, rest = found.groups()
    inner = int(kind == "attentions")
    if kind == "resnets":
        rest = RESNET.get(rest, rest)
    if where == "mid_block":
        return f"middle_block.{2 * int(number) + inner}.{rest}"
    at = int(block) * (unet["layers_per_block"] + 1) + int(number)
    if where == "down_blocks":
        return f"input_blocks.{at + 1}.{inner}.{rest}"  # the first is conv_in
    return f"output_blocks.{at}.{inner}.{rest}"
