"""Verbs: the training stages, and a study of their variants."""

from __future__ import annotations

import argparse
from pathlib import Path

from brainclip.commands.arguments import AddVerb, add_overrides, add_recipe


def add_verbs(verb: AddVerb) -> None:
    for stage, summary in {
        "clip": "train CLIP on pairs",
        "vae": "train the autoencoder",
        "prior": "train the prior, text embedding to image embedding",
        "decoder": "train the decoder, image embedding to picture, or one of its adapters or new tokens",
        "pixel": "train an unconditional diffusion model of slices, for comparison",
    }.items():
        trained = verb(stage, train, summary)
        trained.add_argument(
            "recipe", type=Path, metavar="RECIPE", help="a TOML file such as recipes/tiny.toml"
        )
        trained.set_defaults(stage=stage, adapter=None, inversion=None, report=False)
        add_overrides(trained)
        if stage == "clip":
            trained.add_argument(
                "--report",
                action="store_true",
                help="measure a finished run on held-out people, before and after, instead",
            )
        if stage == "decoder":
            instead = trained.add_mutually_exclusive_group()
            instead.add_argument("--adapter", metavar="NAME", help="train the LoRA of [adapter.NAME] instead")
            instead.add_argument(
                "--inversion", metavar="NAME", help="train the new token of [inversion.NAME] instead"
            )

    ablation_verb = verb("ablation", ablation, "train variants of a decoder and compare their pictures")
    add_recipe(ablation_verb, "recipes/ablation.toml")


def train(asked: argparse.Namespace) -> str:
    from brainclip.train import run_stage

    if asked.report:
        return _report(asked)
    return run_stage(
        asked.stage,
        asked.recipe,
        overrides=asked.overrides,
        dry_run=asked.dry_run,
        adapter=asked.adapter,
        inversion=asked.inversion,
    )


def ablation(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.ablation import AblationRecipe, check_ablation, run_ablation

    recipe = read_recipe(AblationRecipe, asked.recipe, asked.overrides)
    check_ablation(recipe)
    if asked.dry_run:
        runs = len(recipe.seeds) * len(recipe.variant)
        return f"ablation: would make {runs} runs of {', '.join(recipe.variant)} in {recipe.folder}"
    report = run_ablation(recipe)
    kid = ", ".join(f"{name} {sum(found['kid']) / len(found['kid']):.3f}" for name, found in report.items())
    return f"ablation: {recipe.folder}/report.md (KID: {kid})"


def _report(asked: argparse.Namespace) -> str:
    from brainclip.config import load_recipe
    from brainclip.train.checks import check_stage

    recipe = load_recipe(asked.recipe, asked.overrides)
    check_stage(recipe, "clip")
    if asked.dry_run:
        return f"clip: would write {Path(recipe.folder) / 'clip' / 'report.md'}"
    from brainclip.evaluate.clip_report import report_clip

    return f"clip: {report_clip(recipe)}"
