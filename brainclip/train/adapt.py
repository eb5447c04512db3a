"""What of a CLIP is trained: all of it, its last blocks, its projections, or a LoRA on its linear layers."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from brainclip.clip import Clip
from brainclip.config import ClipRecipe
from brainclip.errors import RecipeError
from brainclip.towers import Side, Towers
from brainclip.towers.attention import fuse_attention, split_attention

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "adapter"


def choose(clip: Clip, stage: ClipRecipe) -> PeftModel | None:
    """Let only that part of the towers have gradients that the recipe wants trained.

    The logit scale trains always, the bias with the loss that uses it. Returns the LoRA, which is then a part
    of clip.towers, or None. RecipeError for towers that have no such part.
    """
    towers, lora = clip.towers, None
    sides = {name: side for name, side in clip.layout.sides(towers).items() if name != stage.locked}
    wanted = {
        id(parameter)
        for name, side in sides.items()
        for parameter in _wanted(name, side, stage)
        if parameter.requires_grad
    }
    if stage.train == "lora":
        lora = _add_lora(clip, sides, stage)
    elif not wanted:
        raise RecipeError(f"clip.train = {stage.train!r}: the towers have nothing of that kind to train")
    for parameter in towers.parameters():
        trained = id(parameter) in wanted or (lora is not None and parameter.requires_grad)
        parameter.requires_grad_(trained)
    towers.logit_scale.requires_grad_(True)
    if towers.logit_bias is not None:
        towers.logit_bias.requires_grad_(stage.loss == "siglip")
    return lora


def _wanted(name: str, side: Side, stage: ClipRecipe) -> list[nn.Parameter]:
    """The parameters of a tower that are trained themselves."""
    if stage.train == "full":
        return side.parameters
    if stage.train == "projection":
        return side.projection
    if not side.blocks:
        raise RecipeError(f"clip.train = {stage.train!r}: the {name} tower of this base has no blocks")
    if stage.train == "lora":
        return []
    if not 1 <= stage.blocks <= len(side.blocks):
        raise RecipeError(f"clip.blocks = {stage.blocks}: the {name} tower has {len(side.blocks)}")
    last = [parameter for block in side.blocks[-stage.blocks :] for parameter in block.parameters()]
    return last + side.ends + side.projection


def _add_lora(clip: Clip, sides: dict[str, Side], stage: ClipRecipe) -> PeftModel:
    """A LoRA on every linear layer of these towers' blocks."""
    from peft import LoraConfig, get_peft_model

    blocks = [block for side in sides.values() for block in side.blocks]
    split_attention(blocks)
    inside = {id(module) for block in blocks for module in block.modules()}
    targets = set()
    for name, module in clip.towers.named_modules():
        if id(module) in inside and hasattr(module, "in_proj_weight"):
            raise RecipeError(
                f"clip.train = 'lora': {name} has fused weights of a kind that is not supported"
            )
        if id(module) in inside and isinstance(module, nn.Linear):
            targets.add(re.sub(r"\b\d+\b", r"\\d+", re.escape(name)))
    # a pattern of whole names: in a list, the names of a text tower would fit the ends of the image tower's
    config = LoraConfig(r=stage.rank, lora_alpha=stage.alpha, target_modules="|".join(sorted(targets)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 calls transformers 5 by an older name
        lora = get_peft_model(clip.towers, config)
    lora.peft_config["default"].base_model_name_or_path = stage.base or stage.start
    return lora


def still_modules(towers: Towers) -> list[nn.Module]:
    """The modules of which nothing is trained: their dropout must be off as in use."""
    found = []
    for module in towers.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            found.append(module)
    return found


def batch_norms(towers: Towers) -> list[nn.Module]:
    """The batch norms of the towers, as ResNets have them."""
    return [module for module in towers.modules() if isinstance(module, BatchNorm)]


def save(clip: Clip, lora: PeftModel | None, folder: Path) -> None:
    """Write the clip folder, a LoRA merged into it, and the LoRA alone beside it in peft's layout."""
    if lora is None:
        return clip.save(folder)
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (folder / ADAPTER).mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(lora, save_embedding_layers=False)
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(state, folder / ADAPTER / "adapter_model.safetensors", metadata={"format": "pt"})
    lora.peft_config["default"].save_pretrained(folder / ADAPTER)
    merged = copy.deepcopy(lora).merge_and_unload()
    fuse_attention(merged)
    trained, clip.towers = clip.towers, merged
    try:
        clip.save(folder)
    finally:
        clip.towers = trained
    return None
