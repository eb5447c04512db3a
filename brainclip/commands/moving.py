"""Verbs: moves in the space of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from brainclip.commands.arguments import AddVerb, above_zero, add_recipe, at_least_one, share, warn
from brainclip.commands.model import listed, numbered

PARTS = ("ageing", "sizes", "stacks", "markers")  # brainclip.moving_study.study.PARTS
KINDS = ("tumour", "sclerosis", "infarct", "atrophy")  # atlas.lesions.KINDS, which would cost an import
SLICE = "picture that brainclip has made (.png, .nii or .nii.gz), or another slice with --prompt"


def add_verbs(verb: AddVerb) -> None:
    trajectory_verb = verb("trajectory", trajectory, "draw one synthetic person at several ages")
    trajectory_verb.add_argument("prompt", metavar="PROMPT")
    trajectory_verb.add_argument(
        "--age", type=float, nargs=2, default=(30, 80), metavar="YEARS", help="first and last (30 80)"
    )
    trajectory_verb.add_argument("--steps", type=at_least_one, default=6, help="pictures (6)")
    trajectory_verb.add_argument("--seed", type=int, default=0)
    trajectory_verb.add_argument(
        "--by",
        choices=("prior", "text"),
        default="prior",
        help="what the age moves: what the prior draws, or the captions' own embeddings (prior)",
    )
    _add_out(trajectory_verb, "a strip: x.png, or x.gif in time", several=True)

    vary_verb = verb("vary", vary, "draw what a picture shows again with other noise")
    vary_verb.add_argument("picture", type=Path, metavar="SLICE", help=SLICE)
    vary_verb.add_argument("--n", type=at_least_one, default=4, help="pictures (4)")
    vary_verb.add_argument(
        "--amount", type=share, default=0.0, help="of the way to another person, 0 to 1 (0)"
    )
    vary_verb.add_argument("--seed", type=int, help="of the first; default: the one after the picture's")
    _add_prompt(vary_verb)
    _add_out(vary_verb, "x.png, x.nii or x.nii.gz, numbered before the ending")

    interpolate_verb = verb("interpolate", interpolate, "draw the way from one picture to another")
    interpolate_verb.add_argument("first", type=Path, metavar="SLICE", help=SLICE.split(",")[0])
    interpolate_verb.add_argument("second", type=Path, metavar="SLICE")
    interpolate_verb.add_argument(
        "--steps", type=at_least_one, default=5, help="pictures, with both ends (5)"
    )
    _add_out(interpolate_verb, "a strip: x.png, or x.gif in time", several=True)

    edit_verb = verb("edit", edit, "draw a picture so that further words are true of it")
    edit_verb.add_argument("picture", type=Path, metavar="SLICE", help=SLICE)
    edit_verb.add_argument("words", metavar="WORDS", help="such as 'with larger ventricles'")
    edit_verb.add_argument(
        "--amount", type=float, default=1.0, help="of the change: 1 as captions have it, 2 twice that (1)"
    )
    edit_verb.add_argument(
        "--strength", type=share, default=1.0, help="below 1, more of the picture itself is kept (1)"
    )
    edit_verb.add_argument(
        "--directions",
        type=Path,
        metavar="FILE",
        help="of sizes, fitted by `brainclip moving`; default: the model's",
    )
    _add_prompt(edit_verb)
    _add_out(edit_verb, "x.png, x.nii or x.nii.gz")

    redraw_verb = verb("redraw", redraw, "draw a prompt, beginning with a picture (image to image)")
    redraw_verb.add_argument("picture", type=Path, metavar="SLICE", help="any slice, .png, .nii or .nii.gz")
    redraw_verb.add_argument("prompt", metavar="PROMPT")
    redraw_verb.add_argument(
        "--strength", type=share, default=0.5, help="share of the steps: 0 the picture, 1 the prompt (0.5)"
    )
    redraw_verb.add_argument("--seed", type=int, help="default: the picture's")
    _add_out(redraw_verb, "x.png, x.nii or x.nii.gz")

    inpaint_verb = verb("inpaint", inpaint, "draw the inside of a mask anew")
    inpaint_verb.add_argument("picture", type=Path, metavar="SLICE", help=SLICE)
    inpaint_verb.add_argument("mask", type=Path, metavar="MASK", help="white where to draw, of the same size")
    inpaint_verb.add_argument("--seed", type=int, help="default: the picture's")
    _add_prompt(inpaint_verb, "what to draw there; default: what the picture shows")
    _add_out(inpaint_verb, "x.png, x.nii or x.nii.gz")

    mark_verb = verb("mark", mark, "put a simulated lesion into a healthy synthetic slice, with its mask")
    mark_verb.add_argument("picture", type=Path, metavar="SLICE", help=SLICE)
    mark_verb.add_argument("kind", choices=KINDS)
    mark_verb.add_argument(
        "--size",
        type=above_zero,
        nargs="+",
        default=[20.0],
        metavar="MM",
        help="several: a sequence in time (20)",
    )
    mark_verb.add_argument(
        "--at", type=float, nargs=3, metavar=("X", "Y", "Z"), help="MNI mm; default: by the seed"
    )
    mark_verb.add_argument("--contrast", type=float, default=1.0, help="1: as such lesions show (1)")
    mark_verb.add_argument("--seed", type=int, default=0, help="of place and shape")
    _add_prompt(mark_verb)
    _add_out(mark_verb, "x.png, x.nii or x.nii.gz; masks are written beside, x_mask.png")

    stack_verb = verb("stack", stack, "draw consecutive slices of one synthetic person as a volume")
    stack_verb.add_argument("prompt", metavar="PROMPT", help="with the plane to draw in")
    stack_verb.add_argument("--from", type=float, dest="from_mm", metavar="MM", help="default: all that was")
    stack_verb.add_argument("--to", type=float, dest="to_mm", metavar="MM", help="trained")
    stack_verb.add_argument("--every", type=above_zero, metavar="MM", help="default: a pixel")
    stack_verb.add_argument("--seed", type=int, default=0)
    _add_out(stack_verb, "x.nii or x.nii.gz")

    study_verb = verb("moving", moving, "measure the moves: ageing, sizes, stacks, markers on real patients")
    add_recipe(study_verb, "recipes/moving.toml")
    study_verb.add_argument("--part", action="append", choices=PARTS, help="this alone; several add up (all)")


def _add_prompt(verb: argparse.ArgumentParser, text: str = "what a slice shows that does not say so") -> None:
    verb.add_argument("--prompt", help=text)


def _add_out(verb: argparse.ArgumentParser, text: str, *, several: bool = False) -> None:
    verb.add_argument("--out", type=Path, required=True, help=text)
    if several:
        verb.add_argument(
            "--slices", type=Path, help="the pictures as well, x.png, x.nii or x.nii.gz, numbered"
        )
    verb.add_argument("--model", default="mini", help="mini, a model folder or a hub id (mini)")


def trajectory(asked: argparse.Namespace) -> str:
    from brainclip.moving.changes import trajectory as run
    from brainclip.moving.strips import check_strip, save_strip

    check_strip(asked.out)
    names = numbered(asked.slices, asked.steps) if asked.slices else []
    what = f"{asked.steps} ages from {asked.age[0]:g} to {asked.age[1]:g} years"
    if asked.dry_run:
        return f"trajectory: would write {asked.out}, {what}"
    made = run(
        asked.prompt, age=asked.age, steps=asked.steps, seed=asked.seed, by=asked.by, model=asked.model
    )
    warn([warning for picture in made for warning in picture.warnings])
    for picture, name in zip(made, names, strict=False):
        picture.save(name)
    save_strip(made, [f"{picture.settings['move']['age']} years" for picture in made], asked.out)
    return f"trajectory: {asked.out} ({what}; synthetic, {made[0].model}, seed {asked.seed})"


def vary(asked: argparse.Namespace) -> str:
    from brainclip.moving.changes import vary as run

    names = numbered(asked.out, asked.n)
    if asked.dry_run:
        return f"vary: would write {listed(names)}"
    made = run(
        asked.picture,
        n=asked.n,
        amount=asked.amount,
        seed=asked.seed,
        prompt=asked.prompt,
        model=asked.model,
    )
    for picture, name in zip(made, names, strict=True):
        picture.save(name)
    return f"vary: {listed(names)} (synthetic, {made[0].model}, seeds {made[0].seed} to {made[-1].seed})"


def interpolate(asked: argparse.Namespace) -> str:
    from brainclip.moving.changes import interpolate as run
    from brainclip.moving.strips import check_strip, save_strip

    check_strip(asked.out)
    names = numbered(asked.slices, asked.steps) if asked.slices else []
    if asked.dry_run:
        return f"interpolate: would write {asked.out}, {asked.steps} pictures"
    made = run(asked.first, asked.second, steps=asked.steps, model=asked.model)
    for picture, name in zip(made, names, strict=False):
        picture.save(name)
    save_strip(made, [f"{picture.settings['move']['share']:.0%} of the way" for picture in made], asked.out)
    return f"interpolate: {asked.out} ({asked.steps} pictures; synthetic, {made[0].model})"


def edit(asked: argparse.Namespace) -> str:
    from brainclip.moving.changes import edit as run

    numbered(asked.out, 1)
    if asked.dry_run:
        return f"edit: would write {asked.out}"
    made = run(
        asked.picture,
        asked.words,
        amount=asked.amount,
        strength=asked.strength,
        prompt=asked.prompt,
        directions=asked.directions,
        model=asked.model,
    )
    warn(made.warnings)
    return f"edit: {made.save(asked.out)} ({asked.words}; synthetic, {made.model})"


def redraw(asked: argparse.Namespace) -> str:
    from brainclip.moving.redraw import redraw as run

    numbered(asked.out, 1)
    if asked.dry_run:
        return f"redraw: would write {asked.out}"
    made = run(asked.picture, asked.prompt, strength=asked.strength, seed=asked.seed, model=asked.model)
    warn(made.warnings)
    return f"redraw: {made.save(asked.out)} (strength {asked.strength:g}; synthetic, {made.model})"


def inpaint(asked: argparse.Namespace) -> str:
    from brainclip.moving.redraw import inpaint as run

    numbered(asked.out, 1)
    if asked.dry_run:
        return f"inpaint: would write {asked.out}"
    made = run(asked.picture, asked.mask, prompt=asked.prompt, seed=asked.seed, model=asked.model)
    area = made.settings["move"]["mm2"]
    return f"inpaint: {made.save(asked.out)} ({area:.0f} mm2 drawn anew; synthetic there, {made.model})"


def mark(asked: argparse.Namespace) -> str:
    from brainclip.moving.markers import mark as run

    names = numbered(asked.out, len(asked.size))
    if asked.dry_run:
        return f"mark: would write {listed(names)}"
    made = run(
        asked.picture,
        asked.kind,
        size_mm=asked.size,
        at_mm=None if asked.at is None else tuple(asked.at),
        contrast=asked.contrast,
        seed=asked.seed,
        prompt=asked.prompt,
        model=asked.model,
    )
    for marked, name in zip(made, names, strict=True):
        marked.save(name)
    areas = ", ".join(f"{marked.mask.sum() * marked.picture.spacing_mm**2:.0f}" for marked in made)
    return f"mark: {listed(names)} (simulated {asked.kind}, {areas} mm2; masks beside)"


def stack(asked: argparse.Namespace) -> str:
    from atlas.volume import check_ending
    from brainclip.moving.stacks import stack as run

    check_ending(asked.out)
    if asked.dry_run:
        return f"stack: would write {asked.out}"
    made = run(
        asked.prompt,
        from_mm=asked.from_mm,
        to_mm=asked.to_mm,
        every_mm=asked.every,
        seed=asked.seed,
        model=asked.model,
    )
    warn(made.pictures[0].warnings)
    places = [picture.position_mm for picture in made.pictures]
    return (
        f"stack: {made.save(asked.out)} ({len(places)} {made.pictures[0].plane} slices from "
        f"{places[0]:+.0f} to {places[-1]:+.0f} mm; synthetic, {made.pictures[0].model}, seed {asked.seed})"
    )


def moving(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.moving_study.recipe import MovingRecipe

    recipe, parts = read_recipe(MovingRecipe, asked.recipe, asked.overrides), tuple(asked.part or PARTS)
    recipe.check()
    if asked.dry_run:
        return f"moving: would measure {', '.join(parts)} of {recipe.model} in {recipe.folder}"
    from brainclip.moving_study.study import run_moving

    run_moving(recipe, parts)
    return f"moving: {recipe.folder}/report/README.md ({', '.join(parts)})"
