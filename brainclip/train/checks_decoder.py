"""What can be said of [decoder], [adapter.<name>] and [inversion.<name>] before anything is read."""

from __future__ import annotations

import re
from dataclasses import replace

from brainclip.config import DecoderRecipe, Recipe
from brainclip.errors import RecipeError
from brainclip.schedules import FLOW, SCHEDULE, check_schedule, check_weights

WAYS = ("full", "projection")
TOKEN = re.compile(r"<[a-z0-9]+(-[a-z0-9]+)*>")
OF_A_BASE = {"train": "full", "project": True, "text": False, "size": 0}
COARSE = 4  # the network of expected latents begins with a quarter of their sides
NORM_GROUPS = 8  # of that network


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
    if stage.sampling_steps > SCHEDULE["num_train_timesteps"]:
        raise RecipeError(
            f"decoder.sampling_steps = {stage.sampling_steps}: at most {SCHEDULE['num_train_timesteps']}"
        )
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
    if not (stage.base or stage.start):
        check_mini(stage, recipe.size, 0 if recipe.vae.base else recipe.vae.patch)


def check_mini(stage: DecoderRecipe, size: int, factor: int) -> None:
    """RecipeError for a decoder of mini whose sizes do not divide. size: pixels along a side of a slice;
    factor: how many times smaller the latents are, 0: not known yet."""
    channels = list(stage.channels)
    if not channels or any(width % stage.groups for width in channels):
        raise RecipeError(
            f"decoder.channels = {channels}: give one or more, multiples of decoder.groups = {stage.groups}"
        )
    if stage.expected_width % NORM_GROUPS:
        raise RecipeError(
            f"decoder.expected_width = {stage.expected_width}: give a multiple of {NORM_GROUPS}"
        )
    halved = max(COARSE, 2 ** (len(channels) - 1))
    if factor and size % (factor * halved):
        raise RecipeError(
            f"slices of {size} pixels: a decoder of {len(channels)} channels over latents {factor} times "
            f"smaller takes multiples of {factor * halved}"
        )


def check_adapter(recipe: Recipe, name: str) -> None:
    """RecipeError for an unknown [adapter.<name>], or one that its decoder cannot take."""
    from atlas.slices import MODALITIES

    if name not in recipe.adapter:
        known = ", ".join(recipe.adapter) or "none"
        raise RecipeError(f"recipe {recipe.name!r} has no table [adapter.{name}]; it has: {known}")
    stage, decoder = recipe.adapter[name], recipe.decoder
    if not stage.targets:
        raise RecipeError(f"adapter.{name}.targets is empty; give for example ['cross-attention']")
    for modality in stage.modalities:
        if modality not in MODALITIES:
            raise RecipeError(
                f"adapter.{name}.modalities: {modality!r}; possible are {', '.join(MODALITIES)}"
            )
    if stage.text and not decoder.start and not decoder.text:
        raise RecipeError(
            f"adapter.{name}.text = true: this decoder has no text path; leave it out, or train "
            "the decoder with a Stable Diffusion as base and decoder.text = true"
        )
    if decoder.objective or not (decoder.base or decoder.start):
        check_weights(stage, decoder.objective or FLOW)


def check_inversion(recipe: Recipe, name: str) -> None:
    """RecipeError for an unknown [inversion.<name>], or one whose token cannot be one."""
    if name not in recipe.inversion:
        known = ", ".join(recipe.inversion) or "none"
        raise RecipeError(f"recipe {recipe.name!r} has no table [inversion.{name}]; it has: {known}")
    stage, decoder = recipe.inversion[name], recipe.decoder
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
    if not decoder.start and not decoder.text:
        raise RecipeError(
            f"inversion.{name}: this decoder has no text path; train one with a Stable Diffusion as base "
            "and decoder.text = true"
        )
    if decoder.objective or not (decoder.base or decoder.start):
        check_weights(stage, decoder.objective or FLOW)
