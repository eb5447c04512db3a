"""Optimizers by name; those that are not torch's own come with optional packages."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from brainclip.config import TrainingRecipe
from brainclip.errors import RecipeError

if TYPE_CHECKING:  # so that a recipe can be checked without torch
    import torch
    from torch import nn

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


def check_optimizer(name: str) -> None:
    """RecipeError for an unknown name, and a package that is not installed."""
    if name not in OPTIMIZERS:
        raise RecipeError(f"optimizer = {name!r}: possible are {', '.join(OPTIMIZERS)}")
    if name in OPTIONAL:
        module, _, package, _ = OPTIONAL[name]
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise _missing(name, package)


def _missing(name: str, package: str) -> RecipeError:
    return RecipeError(
        f"optimizer = {name!r} needs the package {package}; pip install {package}, or choose adamw"
    )


def new_optimizer(
    recipe: TrainingRecipe, parameters: Sequence[nn.Parameter], own_rates: Sequence[float | None] = ()
) -> torch.optim.Optimizer:
    """The recipe's optimizer of these parameters; weight decay on matrices alone.

    own_rates: the rate of each parameter where it is not the recipe's, which its group then has as own_rate.
    RecipeError for an unknown name, a package that is not installed, and own rates for an optimizer that has
    one for all. Warns where an optimizer that finds its rate itself is given one much below 1: it would
    hardly move.
    """
    name = recipe.optimizer
    check_optimizer(name)
    rates = list(own_rates) or [None] * len(parameters)
    groups: list[dict[str, Any]] = []
    for own in dict.fromkeys([None, *rates]):
        chosen = [p for p, rate in zip(parameters, rates, strict=True) if rate == own]
        named = {} if own is None else {"own_rate": own}
        groups += [
            {"params": [p for p in chosen if p.ndim > 1], "weight_decay": recipe.weight_decay} | named,
            {"params": [p for p in chosen if p.ndim <= 1], "weight_decay": 0.0} | named,
        ]
    groups = [group for group in groups if group["params"]]
    if name in ADAPTIVE and any("own_rate" in group for group in groups):
        raise RecipeError(
            f"optimizer = {name!r} finds one rate for all that is trained, and this run has several; give "
            "them the same rate, or choose adamw"
        )
    if name == "adamw":
        from torch.optim import AdamW

        return AdamW(groups, lr=recipe.rate, betas=BETAS, fused=True)
    module, kind, package, arguments = OPTIONAL[name]
    try:
        found = getattr(importlib.import_module(module), kind)
    except ImportError:
        raise _missing(name, package) from None
    if name in ADAPTIVE and recipe.rate < 0.1:
        warnings.warn(
            f"optimizer = {name!r} finds its rate itself and multiplies it by rate = {recipe.rate:g}; "
            "give rate = 1.0 unless this is meant",
            stacklevel=2,
        )
    optimizer: torch.optim.Optimizer = found(groups, lr=recipe.rate, **arguments)
    return optimizer
