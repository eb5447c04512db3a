"""The numbers of a recipe: what each may be, by its key."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from brainclip.errors import RecipeError

ABOVE_0 = {"clip_norm", "spacing_mm", "every_mm"}
SHARES = {
    *("mirror", "alike", "whiten", "caption_dropout", "embedding_dropout", "pyramid_noise"),
    *("least_similarity", "least_overlap"),
}
FROM_0 = {
    *("slices", "steps", "warmup", "decay", "weight_decay", "piece", "sample_every", "seed", "limit", "size"),
    *("rotate_degrees", "scale", "shift_mm", "elastic_mm"),
    *("age", "noise", "min_snr", "offset_noise", "rate", "text_rate", "blocks"),
}
FROM_1 = {
    *("subjects", "people", "workers", "batch", "save_every", "sampling_steps", "timesteps", "candidates"),
    *("rank", "alpha", "tokens", "vectors", "layers", "heads", "head_width", "groups", "width", "image_size"),
    *("embedding", "patch", "vision_width", "vision_layers", "text_width", "text_layers"),
    *("latents", "widths", "crop", "basis_slices", "channels", "expected_width"),
}
# what a tokenizer of bytes with its four marks needs; start, end and a token
LEAST = dict.fromkeys(FROM_0, 0) | dict.fromkeys(FROM_1, 1) | {"vocabulary": 260, "context": 3}


def check_numbers(where: str, table: Any) -> None:
    """RecipeError for a number of a recipe's table, a dataclass, that no run can be made of.

    where: what the table is called in messages.
    """
    for name, value in vars(table).items():
        place = f"{where}.{name}" if where else name
        if dataclasses.is_dataclass(value):
            check_numbers(place, value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check(place, name, value, number)


def _check(place: str, name: str, value: Any, number: float) -> None:
    shown = list(value) if isinstance(value, tuple) else value
    if not math.isfinite(number) and (name, number) != ("clip_norm", math.inf):  # which clips nothing
        raise RecipeError(f"{place} = {shown}: give a finite number")
    if name in ABOVE_0 and number <= 0:
        raise RecipeError(f"{place} = {shown}: give a number above 0")
    if name in SHARES and not 0 <= number <= 1:
        raise RecipeError(f"{place} = {shown}: it is a share, from 0 to 1")
    if name == "ema" and not 0 <= number < 1:
        raise RecipeError(f"{place} = {shown}: give a number from 0 (no average of weights) to below 1")
    if number < LEAST.get(name, -math.inf):
        raise RecipeError(f"{place} = {shown}: give {LEAST[name]} or more")
