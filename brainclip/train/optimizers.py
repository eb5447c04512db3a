"""Optimizers by name; those that are not torch's own come with optional packages."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from brainclip.config import TrainingRecipe
from brainclip.errors import RecipeError

BETAS = (0.9, 0.99)
# name -> module, class, package to install, arguments beside rate and weight decay
OPTIONAL: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", {"betas": BETAS}),
    "adafactor": (
        "transformers.optimization",
        "Adafactor",
        "transformers",
        {"scale_parameter": False, "relative_step": False, "warmup_init": False},
    ),
    "prodigy": ("prodigyopt", "Prodigy", "prodigyopt", {"betas": BETAS, "decouple": True}),
    "dadaptation": ("dadaptation", "DAdaptAdam", "dadaptation", {"betas": BETAS, "decouple": True}),
}
OPTIMIZERS = ("adamw", *OPTIONAL)
ADAPTIVE = ("prodigy", "dadaptation")  # they find their rate; the recipe's is a factor, 1 as a rule


def new_optimizer(recipe: TrainingRecipe, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimizer of these parameters; weight decay on matrices alone.

    RecipeError for an unknown name or a package that is not installed. Warns where an optimizer that finds
    its rate itself is given one much below 1: it would hardly move.
    """
    name = recipe.optimizer
    if name not in OPTIMIZERS:
        raise RecipeError(f"optimizer = {name!r}: possible are {', '.join(OPTIMIZERS)}")
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate, betas=BETAS, fused=True)
    module, kind, package, arguments = OPTIONAL[name]
    try:
        found = getattr(importlib.import_module(module), kind)
    except ImportError:
        raise RecipeError(
            f"optimizer = {name!r} needs the package {package}; pip install {package}, or choose adamw"
        ) from None
    if name in ADAPTIVE and recipe.rate < 0.1:
        warnings.warn(
            f"optimizer = {name!r} finds its rate itself and multiplies it by rate = {recipe.rate:g}; "
            "give rate = 1.0 unless this is meant",
            stacklevel=2,
        )
    optimizer: torch.optim.Optimizer = found(groups, lr=recipe.rate, **arguments)
    return optimizer
