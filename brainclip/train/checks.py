"""What can be said of a recipe before anything heavy is imported or read."""

from __future__ import annotations

import re
from dataclasses import replace

from brainclip.config import Recipe
from brainclip.errors import RecipeError
from brainclip.schedules import FLOW, check_schedule, check_weights

WAYS = ("full", "projection")
TOKEN = re.compile(r"<[a-z0-9]+(-[a-z0-9]+)*>")
OF_A_BASE = {"train": "full", "project": True, "text": False, "size": 0}


def check_decoder(recipe: Recipe) -> None:
    """RecipeError for what contradicts itself in [decoder] and, where a base needs it, in [vae]."""
    stage = recipe.decoder
    if stage.base and stage.start:
        raise RecipeError(
            f"decoder.base = {stage.base!r} and decoder.start = {stage.start!r}: a run begins with a "
            "published base or goes on from a decoder of an earlier run; give one of them"
        )
    if stage.train not in WAYS:
        raise RecipeError(f"decoder.train = {stage.train!r}: possible are {', '.join(WAYS)}")
    for key, usual in OF_A_BASE.items():
        if getattr(stage, key) != usual and not (stage.base or stage.start):
            raise RecipeError(
                f"decoder.{key} = {getattr(stage, key)!r}: mini has no such choice; give a base as well"
            )
    if stage.tokens < 1:
        raise RecipeError(f"decoder.tokens = {stage.tokens}: the image embedding needs 1 or more")
    if recipe.vae.base and recipe.vae.train == "all" and stage.train == "projection":
        raise RecipeError(
            "vae.train = 'all' changes the latents that the base's UNet knows, and decoder.train = "
            "'projection' leaves it as it is; give vae.train = 'decoder' or decoder.train = 'full'"
        )
    if stage.objective or not (stage.base or stage.start):
        check_schedule(stage, stage.objective or FLOW)
        check_weights(stage, stage.objective or FLOW)
    else:  # what the base predicts stands in its folder; the names of samplers can be read now
        check_schedule(replace(stage, zero_terminal_snr=False), "epsilon")


def check_inversion(recipe: Recipe, name: str) -> None:
    """RecipeError for an unknown [inversion.<name>], or one whose token cannot be one."""
    if name not in recipe.inversion:
        known = ", ".join(recipe.inversion) or "none"
        raise RecipeError(f"recipe {recipe.name!r} has no table [inversion.{name}]; it has: {known}")
    stage = recipe.inversion[name]
    if not TOKEN.fullmatch(stage.token):
        raise RecipeError(
            f"inversion.{name}.token = {stage.token!r}: a new token is written as <clinic> or <clinic-2>, in "
            "small letters, digits and hyphens"
        )
    same = [
        other for other, table in recipe.inversion.items() if table.token == stage.token and other != name
    ]
    if same:
        raise RecipeError(
            f"inversion.{name}.token = {stage.token!r}: [inversion.{same[0]}] has the same; give each its own"
        )
    if stage.vectors < 1:
        raise RecipeError(f"inversion.{name}.vectors = {stage.vectors}: a token needs 1 or more")
