"""What can be said of a recipe before anything heavy is imported or read."""

from __future__ import annotations

import importlib.util
import math
import re

from brainclip.config import ClipRecipe, Recipe, TrainingRecipe
from brainclip.errors import RecipeError
from brainclip.pixel_sizes import TIMESTEPS, check_model
from brainclip.train.checks_decoder import check_adapter, check_decoder, check_inversion
from brainclip.train.optimizers import check_optimizer
from brainclip.train.ranges import check_numbers

PRECISIONS, DEVICES = ("no", "bf16", "fp16"), ("auto", "cpu")
TRACKERS = ("tensorboard", "trackio", "wandb")  # as accelerate names them, and as their packages are called
LOSSES = ("multi-positive", "clip", "siglip")
CLIP_WAYS = ("full", "blocks", "lora", "projection")
PRIOR_WAYS = ("full", "lora")
VAE_WAYS = ("decoder", "all")
NAME = re.compile(r"[A-Za-z0-9_-]+")  # of folders, and of peft's modules, which hold no dot


def check_stage(
    recipe: Recipe, stage: str, *, adapter: str | None = None, inversion: str | None = None
) -> None:
    """RecipeError for a stage that no run can be made of; adapter, inversion: to be trained in the decoder's
    place."""
    for kind in ("pairs", "adapter", "inversion"):
        for name in getattr(recipe, kind):
            if not NAME.fullmatch(name):
                raise RecipeError(f"[{kind}.{name}]: a name is made of letters, digits, - and _")
    if recipe.size < 1:
        raise RecipeError(f"size = {recipe.size}: a slice has 1 pixel or more along a side")
    if not 0 < recipe.spacing_mm < math.inf:
        raise RecipeError(f"spacing_mm = {recipe.spacing_mm}: give a number above 0")
    if stage == "pairs":
        check_pairs(recipe)
    elif adapter is not None:
        check_adapter(recipe, adapter)
        check_training(recipe, f"adapter.{adapter}", recipe.adapter[adapter])
    elif inversion is not None:
        check_inversion(recipe, inversion)
        check_training(recipe, f"inversion.{inversion}", recipe.inversion[inversion])
    else:
        check_training(recipe, stage, getattr(recipe, stage))
        own = {
            "clip": check_clip,
            "vae": check_vae,
            "prior": check_prior,
            "decoder": check_decoder,
            "pixel": check_pixel,
            "judge": check_judge,
            "segmenter": check_segmenter,
        }
        own[stage](recipe)


def check_settings(where: str, stage: TrainingRecipe) -> None:
    """RecipeError for numbers and names that no training has. where: what the table is called in messages."""
    check_numbers(where, stage)
    check_optimizer(stage.optimizer)
    check_trackers(stage.track)
    if stage.precision not in PRECISIONS:
        raise RecipeError(f"{where}.precision = {stage.precision!r}: possible are {', '.join(PRECISIONS)}")
    if stage.device not in DEVICES:
        raise RecipeError(f"{where}.device = {stage.device!r}: possible are {', '.join(DEVICES)}")


def check_training(recipe: Recipe, where: str, stage: TrainingRecipe) -> None:
    """The same, and RecipeError for pairs that are not those of the recipe."""
    check_settings(where, stage)
    shares = stage.mix.values()
    if not stage.mix or not all(0 <= share < math.inf for share in shares) or sum(shares) <= 0:
        raise RecipeError(
            f"{where}.mix = {stage.mix}: give pairs tables with their shares, such as {{ ixi = 1.0 }}"
        )
    for name in stage.mix:
        folder = recipe.pairs_folder(name)
        if (folder / "dataset.json").is_file():
            from atlas.records import read_dataset

            geometry = read_dataset(folder)["geometry"]
            for key in ("size", "spacing_mm"):
                if geometry[key] != getattr(recipe, key):
                    raise RecipeError(
                        f"{folder}: its slices have {key} = {geometry[key]:g}, the recipe says "
                        f"{getattr(recipe, key):g}; change that, or make the pairs anew in another folder"
                    )


def check_trackers(names: tuple[str, ...]) -> None:
    """RecipeError for an unknown tracker and one without its package; accelerate would leave it out
    silently."""
    for name in names:
        if name not in TRACKERS:
            raise RecipeError(f"track = {name!r}: possible are {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise RecipeError(f"track = {name!r} needs the package {name}; pip install {name}")


def check_pairs(recipe: Recipe) -> None:
    """RecipeError for [pairs.<name>] tables and a cohort that cannot be made."""
    from atlas.slices import MODALITIES
    from atlas.sources import SOURCES

    if not recipe.pairs:
        raise RecipeError(f"recipe {recipe.name!r} has no [pairs.<name>] table")
    check_numbers("simulate", recipe.simulate)
    for name, table in recipe.pairs.items():
        check_numbers(f"pairs.{name}", table)
        if table.source not in SOURCES:
            raise RecipeError(f"pairs.{name}.source = {table.source!r}: possible are {', '.join(SOURCES)}")
        for modality in table.modalities:
            if modality not in MODALITIES:
                raise RecipeError(
                    f"pairs.{name}.modalities: {modality!r}; possible are {', '.join(MODALITIES)}"
                )


def check_clip(recipe: Recipe) -> None:
    """RecipeError for settings of [clip] that do not go together."""
    stage = recipe.clip
    check_adaptation(stage)
    if stage.batch < 2:
        raise RecipeError(f"clip.batch = {stage.batch}: a contrastive loss compares 2 pairs or more")
    if stage.base:
        from brainclip.towers.bases import parts_of  # with torch, which a base needs anyway

        parts_of(stage.base)
    if not (stage.base or stage.start):
        _check_towers(stage, stage.image_size or (recipe.size, recipe.size))


def check_adaptation(stage: ClipRecipe) -> None:
    """RecipeError for what is to be trained of which CLIP by which loss, where that cannot be."""
    given = bool(stage.start or stage.base)
    if stage.loss not in LOSSES:
        raise RecipeError(f"clip.loss = {stage.loss!r}: possible are {', '.join(LOSSES)}")
    if len(stage.image_size) not in (0, 2):
        raise RecipeError(f"clip.image_size = {list(stage.image_size)}: give height and width, or nothing")
    if stage.start and stage.base:
        raise RecipeError("clip.start and clip.base: give one of them")
    if stage.train not in CLIP_WAYS or (stage.train != "full" and not given):
        raise RecipeError(
            f"clip.train = {stage.train!r}: possible are {', '.join(CLIP_WAYS)}; all but full need clip.base "
            "or clip.start"
        )
    if stage.train == "blocks" and stage.blocks < 1:
        raise RecipeError(f"clip.blocks = {stage.blocks}: give 1 or more, the last ones of each tower")
    if stage.locked not in ("", "image", "text") or (stage.locked and not given):
        raise RecipeError(
            f"clip.locked = {stage.locked!r}: it is 'image' or 'text', a tower of the folder clip.start or "
            "of clip.base"
        )
    if stage.shard:
        raise RecipeError(
            "clip.shard: towers are not split among processes (their logit scale cannot be); clip.piece and "
            "clip.train = 'lora' take less memory, and several processes share the batch without it"
        )
    if stage.train == "lora" and stage.age:
        raise RecipeError(
            "clip.age changes the image tower's projection, which a LoRA does not hold; use clip.train = "
            "'projection', from the adapted folder as clip.start if need be"
        )
    if stage.train == "lora" and min(stage.rank, stage.alpha) < 1:
        raise RecipeError(f"clip.rank = {stage.rank}, clip.alpha = {stage.alpha}: both must be 1 or more")


def _check_towers(stage: ClipRecipe, size: tuple[int, ...]) -> None:
    """RecipeError for towers from scratch whose sizes do not divide."""
    for key in ("vision_width", "text_width"):
        if getattr(stage, key) % stage.head_width:
            raise RecipeError(
                f"clip.{key} = {getattr(stage, key)}: it must be a multiple of clip.head_width = "
                f"{stage.head_width}"
            )
    if any(side % stage.patch for side in size):
        raise RecipeError(
            f"clip.patch = {stage.patch}: slices of {' x '.join(map(str, size))} pixels are not multiples of "
            "it; give another patch or clip.image_size"
        )


def check_vae(recipe: Recipe) -> None:
    """RecipeError for settings of [vae] that do not go together; with a base its folder says more."""
    stage = recipe.vae
    if stage.base:
        if stage.train not in VAE_WAYS:
            raise RecipeError(f"vae.train = {stage.train!r}: possible are {', '.join(VAE_WAYS)}")
        return
    if stage.train != "decoder":
        raise RecipeError(f"vae.train = {stage.train!r}: our own encoder is not trained; give a base as well")
    levels = 2 ** (len(stage.widths) - 1)
    if not stage.widths or any(width % 8 for width in stage.widths):
        raise RecipeError(f"vae.widths = {list(stage.widths)}: give one or more, multiples of 8")
    if stage.patch % levels:
        raise RecipeError(
            f"vae.patch = {stage.patch}: {len(stage.widths)} vae.widths double the side "
            f"{len(stage.widths) - 1} times, which takes a multiple of {levels}"
        )
    if stage.latents > stage.patch**2:
        raise RecipeError(
            f"vae.latents = {stage.latents}: a patch of {stage.patch} x {stage.patch} pixels has "
            f"{stage.patch**2} components"
        )
    if recipe.size % stage.patch:
        raise RecipeError(f"vae.patch = {stage.patch}: size = {recipe.size} is no multiple of it")
    check_crop(stage.crop, stage.patch, recipe.size)


def check_crop(crop: int, patch: int, size: int) -> None:
    """RecipeError for crops that are not whole patches of a slice."""
    if crop % patch or crop > size:
        raise RecipeError(
            f"vae.crop = {crop}: possible are multiples of {patch} up to the slices' {size} pixels"
        )


def check_prior(recipe: Recipe) -> None:
    """RecipeError for settings of [prior] that do not go together."""
    stage = recipe.prior
    if stage.base and stage.start:
        raise RecipeError(
            f"prior.base = {stage.base!r} and prior.start = {stage.start!r}: a run begins with one of them"
        )
    if stage.train not in PRIOR_WAYS or (stage.train == "lora" and not (stage.base or stage.start)):
        raise RecipeError(
            f"prior.train = {stage.train!r}: it is 'full', or with prior.base or prior.start also 'lora'"
        )
    if not (stage.base or stage.start) and stage.sampling_steps > stage.timesteps:
        raise RecipeError(
            f"prior.sampling_steps = {stage.sampling_steps}: at most the prior.timesteps = {stage.timesteps}"
        )


def check_segmenter(recipe: Recipe) -> None:
    """RecipeError for widths that the slices are too small for, and labels that nothing is known of."""
    from atlas.reference import label_tables

    stage = recipe.segmenter
    if len(stage.channels) < 2 or recipe.size % 2 ** (len(stage.channels) - 1):
        raise RecipeError(
            f"segmenter.channels = {list(stage.channels)}: give two or more, and each after the first halves "
            f"the {recipe.size} pixels of a slice"
        )
    for name, table in stage.labels.items():
        if name not in stage.mix or table not in label_tables():
            raise RecipeError(
                f"segmenter.labels = {stage.labels}: give pairs tables of its mix "
                f"({', '.join(stage.mix)}), each with one of {', '.join(label_tables())}"
            )


def check_judge(recipe: Recipe) -> None:
    """RecipeError for a width that its groups do not divide."""
    if recipe.judge.width % 8:
        raise RecipeError(f"judge.width = {recipe.judge.width}; it should be a multiple of 8")


def check_pixel(recipe: Recipe) -> None:
    """RecipeError for an unknown model, or one that the slices do not fit."""
    check_model(recipe.pixel.model, recipe.size)
    if recipe.pixel.sampling_steps > TIMESTEPS:
        raise RecipeError(f"pixel.sampling_steps = {recipe.pixel.sampling_steps}: at most {TIMESTEPS}")
