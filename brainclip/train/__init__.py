"""The training stages. run_stage is what the recipes and the command line call."""

from __future__ import annotations

import json
from pathlib import Path

from brainclip.config import Recipe, as_dict, load_recipe
from brainclip.errors import RecipeError
from brainclip.train.checks import check_stage

STAGES = ("pairs", "clip", "vae", "prior", "decoder", "pixel")


def run_stage(
    stage: str,
    recipe_path: Path | str,
    *,
    overrides: list[str] | tuple[str, ...] = (),
    dry_run: bool = False,
    adapter: str | None = None,
    inversion: str | None = None,
) -> str:
    """A line of result of one stage of a recipe. A dry run checks the recipe and says what would be done.

    adapter, inversion: of the decoder, to be trained in its place.
    In a run of several processes (accelerate launch, torchrun) the line is empty in all but the first.
    """
    recipe = load_recipe(recipe_path, overrides)
    if stage not in STAGES:
        raise RecipeError(f"unknown stage {stage!r}; stages: {', '.join(STAGES)}")
    check_stage(recipe, stage, adapter=adapter, inversion=inversion)
    if dry_run:
        table = as_dict(recipe)
        shown = table[stage]
        if adapter or inversion:
            shown = table["adapter"][adapter] if adapter else table["inversion"][inversion]
        return f"{stage}: would write {Path(recipe.folder) / stage} with {json.dumps(shown)}"
    if stage == "pairs":
        from brainclip.train.pairs import make_pairs

        return make_pairs(recipe)
    from accelerate import PartialState

    of_stage = getattr(recipe, stage)
    if adapter or inversion:
        of_stage = recipe.adapter[adapter] if adapter else recipe.inversion[str(inversion)]
    processes = PartialState(cpu=of_stage.device == "cpu")
    numbers = _train(stage, recipe, adapter, inversion)
    if stage == "decoder" and processes.is_main_process:
        from brainclip.train.assemble import assemble

        assemble(recipe)
    processes.wait_for_everyone()
    if not processes.is_main_process:
        return ""
    done = ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
    return f"{adapter or inversion or stage}: {Path(recipe.folder) / stage} ({done or 'already complete'})"


def _train(stage: str, recipe: Recipe, adapter: str | None, inversion: str | None) -> dict[str, float]:
    """Import the stage's module, which imports torch and the models, and train."""
    if stage == "clip":
        from brainclip.train.clip import train_clip

        return train_clip(recipe)
    if stage == "pixel":
        from brainclip.train.pixel import train_pixel

        return train_pixel(recipe)
    if stage == "vae":
        from brainclip.train.vae import train_vae

        return train_vae(recipe)
    if stage == "prior":
        from brainclip.train.prior import train_prior

        return train_prior(recipe)
    if inversion:
        from brainclip.train.inversion import train_inversion

        return train_inversion(recipe, inversion)
    from brainclip.train.decoder import train_adapter, train_decoder

    return train_adapter(recipe, adapter) if adapter else train_decoder(recipe)
