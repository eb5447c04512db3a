"""Verbs: how good a model is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from brainclip.commands.arguments import AddVerb, add_overrides, add_recipe, at_least_one, share
from brainclip.errors import BrainclipError


def add_verbs(verb: AddVerb) -> None:
    evaluate_verb = verb("evaluate", evaluate, "measure a trained model and write the report")
    evaluate_verb.add_argument("recipe", type=Path, metavar="RECIPE")
    evaluate_verb.add_argument(
        "--out", type=Path, help="folder to write; default: evaluate/ in the recipe's folder"
    )
    evaluate_verb.add_argument(
        "--prompts", type=at_least_one, default=200, help="prompts of the adherence test (200)"
    )
    evaluate_verb.add_argument(
        "--split", choices=("validation", "test"), default="test", help="held-out subjects (test)"
    )
    add_overrides(evaluate_verb)

    anatomy_verb = verb(
        "anatomy", anatomy, "train the segmenter and compare tissues, ageing and outlines of pictures"
    )
    add_recipe(anatomy_verb, "recipes/mini_age.toml")
    anatomy_verb.add_argument(
        "--model", default="", help="name or folder; default: model/ in the recipe's folder"
    )
    anatomy_verb.add_argument(
        "--split", choices=("validation", "test"), default="test", help="held-out subjects (test)"
    )

    degradation_verb = verb(
        "degradation",
        degradation,
        "try whether distances of features follow the quality of real slices",
    )
    add_recipe(degradation_verb, "recipes/degradation.toml")

    memorisation_verb = verb(
        "memorisation", memorisation, "check whether generated slices are copies of training slices"
    )
    add_recipe(memorisation_verb, "recipes/memorisation.toml")

    downstream_verb = verb(
        "downstream", downstream, "try whether generated slices help to train classifiers of real ones"
    )
    add_recipe(downstream_verb, "recipes/downstream.toml")

    steps_verb = verb(
        "steps", steps, "time pixel-space models and the latent chain over sampler steps, and compare them"
    )
    add_recipe(steps_verb, "recipes/steps.toml")

    push_verb = verb("push", push, "check a model for copies of training slices and upload it to a hub")
    add_recipe(push_verb, "recipes/memorisation.toml")
    push_verb.add_argument("hub_id", metavar="HUB_ID", help="such as lab/model")
    push_verb.add_argument("--private", action="store_true", help="for members of the hub id's owner alone")
    push_verb.add_argument(
        "--force", action="store_true", help="push although the pictures seem to be copies"
    )

    kit_verb = verb(
        "reader-kit", reader_kit, "mix generated and real slices for raters who cannot tell which"
    )
    kit_verb.add_argument(
        "out", type=Path, metavar="KIT", help="folder for the raters: pictures, form, instructions"
    )
    kit_verb.add_argument(
        "--made", nargs="+", required=True, metavar="NAME=FOLDER", help="a group of pictures from `generate`"
    )
    kit_verb.add_argument(
        "--real", type=Path, required=True, metavar="PAIRS", help="folder of pairs for the controls"
    )
    kit_verb.add_argument(
        "--split", choices=("validation", "test"), default="test", help="of the controls (test)"
    )
    kit_verb.add_argument("--n", type=at_least_one, default=20, help="pictures of each group (20)")
    kit_verb.add_argument(
        "--controls", type=at_least_one, help="real slices; default: as many as a group has"
    )
    kit_verb.add_argument(
        "--phase",
        type=int,
        choices=(1, 2),
        default=1,
        help="1: realism 1-5; 2: realism and agreement 1-3 (1)",
    )
    kit_verb.add_argument(
        "--key", type=Path, help="what each picture is; default: KIT-key.json beside the kit"
    )
    kit_verb.add_argument(
        "--shares", type=share, nargs=2, metavar="SHARE", help="say how many pictures tell these two apart"
    )
    kit_verb.add_argument("--seed", type=int, default=0)

    scored_verb = verb("reader-score", reader_score, "good shares and agreement of raters from filled forms")
    scored_verb.add_argument("key", type=Path, metavar="KEY", help="that reader-kit has written")
    scored_verb.add_argument(
        "forms", type=Path, nargs="+", metavar="FORM", help="filled CSV, NAME.csv of each rater"
    )
    scored_verb.add_argument("--out", type=Path, required=True, help="folder to write")
    scored_verb.add_argument("--note", default="", help="printed on the report and its figures")

    counts_verb = verb("reader-counts", reader_counts, "tables of a published reader study from its counts")
    add_recipe(counts_verb, "recipes/reader_counts.toml")
    counts_verb.add_argument("--out", type=Path, required=True, help="folder to write")


def evaluate(asked: argparse.Namespace) -> str:
    from brainclip.evaluate import evaluate as run

    return run(
        asked.recipe,
        overrides=asked.overrides,
        out=asked.out,
        prompts=asked.prompts,
        split=asked.split,
        dry_run=asked.dry_run,
    )


def anatomy(asked: argparse.Namespace) -> str:
    from brainclip.evaluate.anatomy import run_anatomy

    return run_anatomy(
        asked.recipe, asked.overrides, split=asked.split, model=asked.model, dry_run=asked.dry_run
    )


def degradation(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.degradation import DegradationRecipe, run_degradation

    recipe = read_recipe(DegradationRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        return f"degradation: would degrade {recipe.slices} slices in {recipe.folder}"
    report = run_degradation(recipe)
    scores = ", ".join(
        f"{name} {found['score']:.0%}, {found['paired']:.0%}" for name, found in report.items()
    )
    return f"degradation: {recipe.folder}/degradation.md (grades beyond the floor, told in pairs: {scores})"


def memorisation(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.memorisation_study import (
        MemorisationRecipe,
        check_memorisation,
        run_memorisation,
    )

    recipe = read_recipe(MemorisationRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        check_memorisation(recipe)
        checks = ", ".join(recipe.check)
        return f"memorisation: would check {checks} of {recipe.model} in {recipe.folder}"
    report = run_memorisation(recipe)
    found = ", ".join(
        f"{name} {'passes' if check['verdict']['passes'] else 'FAILS'}: {check['details']['copies']} copies, "
        f"{check['details']['beyond']['value']:.2%} of {check['pictures']} pictures beyond the threshold"
        for name, check in report["checks"].items()
    )
    return f"memorisation: {recipe.folder}/report.md ({found})"


def downstream(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.downstream.recipe import DownstreamRecipe, check

    recipe = read_recipe(DownstreamRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        check(recipe)
        runs = len(recipe.seeds) * sum(len(recipe.arms_of(name)) for name in recipe.task)
        return f"downstream: would train {runs} classifiers for {', '.join(recipe.task)} in {recipe.folder}"
    from brainclip.evaluate.downstream.study import run_downstream

    report = run_downstream(recipe)
    closed = [
        f"{name} {row['gap']['value']:+.3f}"
        + ("" if row["closed"]["value"] is None else f", closed {row['closed']['value']:.0%} by {arm}")
        for name, part in report["tasks"].items()
        for arm, row in part["gaps"].items()
    ]
    return (
        f"downstream: {recipe.folder}/report.md (gap of half the people: {'; '.join(closed) or 'not asked'})"
    )


def steps(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.steps import StepsRecipe, check_steps, run_steps

    recipe = read_recipe(StepsRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        check_steps(recipe)
        return f"steps: would time {', '.join(recipe.chain)} in {recipe.folder}"
    report = run_steps(recipe)
    taken = ", ".join(f"{name} {found['per_step_ms']:.3g}" for name, found in report["chains"].items())
    return f"steps: {recipe.folder}/report.md (ms a step: {taken})"


def push(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.memorisation_study import MemorisationRecipe, check_memorisation
    from brainclip.evaluate.push import push as run

    recipe = read_recipe(MemorisationRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        check_memorisation(recipe)
        checks = ", ".join(recipe.check)
        return f"push: would check {checks} and upload {recipe.model} to {asked.hub_id}"
    return f"push: {run(recipe, asked.hub_id, private=asked.private, force=asked.force)}"


def reader_kit(asked: argparse.Namespace) -> str:
    from brainclip.data import PairDataset
    from brainclip.evaluate.pictures import MadePicture, made_pictures
    from brainclip.evaluate.reader import choose, make_kit
    from brainclip.evaluate.reader_tables import pictures_needed

    folders = {}
    for text in asked.made:
        name, equals, folder = text.partition("=")
        if not equals or not name or name in folders:
            raise BrainclipError(f"--made {text!r}: expected NAME=FOLDER, each name once")
        folders[name] = Path(folder)
    made: dict[str, Sequence[MadePicture]] = {name: made_pictures(path) for name, path in folders.items()}
    real = PairDataset([asked.real], asked.split)
    controls = asked.n if asked.controls is None else asked.controls
    shown = choose(made, real, each=asked.n, controls=controls, seed=asked.seed)
    key = asked.key or asked.out.with_name(f"{asked.out.name}-key.json")
    line = f"{len(shown)} pictures, of which {controls} real; key {key}"
    if asked.shares:
        needed = pictures_needed(*asked.shares)
        line += f"; {needed or 'no number'} a group tell {asked.shares[0]:g} from {asked.shares[1]:g}"
    if asked.dry_run:
        return f"reader-kit: would write {asked.out} ({line})"
    make_kit(shown, asked.out, key, phase=asked.phase, seed=asked.seed)
    return f"reader-kit: {asked.out} ({line})"


def reader_score(asked: argparse.Namespace) -> str:
    from brainclip.evaluate.reader import read_forms, read_key
    from brainclip.evaluate.reader_tables import write_score

    if asked.dry_run:
        forms = read_forms(read_key(asked.key), asked.forms)
        return f"reader-score: would write {asked.out} from the forms of {', '.join(forms)}"
    report = write_score(asked.key, asked.forms, asked.out, note=asked.note)
    shares = ", ".join(
        f"{scale} {group} {row['good']['value']:.2f}"
        for scale, part in report["scales"].items()
        for group, row in part["groups"].items()
    )
    return f"reader-score: {asked.out}/report.md (good: {shares})"


def reader_counts(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.reader_counts import CountsRecipe, write_counts

    recipe = read_recipe(CountsRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        return f"reader-counts: would write {asked.out} from the counts of {', '.join(recipe.group)}"
    report = write_counts(recipe, asked.out)
    shares = ", ".join(f"{name} {row['good']['value']:.4f}" for name, row in report["groups"].items())
    return f"reader-counts: {asked.out}/report.md ({shares})"
