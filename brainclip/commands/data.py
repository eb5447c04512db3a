"""Verbs: scans and simulated brains to pairs, and what pairs hold."""

from __future__ import annotations

import argparse
from pathlib import Path

from brainclip.commands.arguments import AddVerb, above_zero, add_overrides, add_recipe, at_least_one, share
from brainclip.errors import BrainclipError

STRIPPERS = ("network", "mri_synthstrip", "hd-bet")  # atlas.strip.METHODS, which would cost an import


def add_verbs(verb: AddVerb) -> None:
    simulate_verb = verb(
        "simulate", simulate, "write a cohort of simulated healthy brains as NIfTI with true labels"
    )
    simulate_verb.add_argument("out", type=Path, metavar="OUT", help="folder to write, BIDS layout")
    simulate_verb.add_argument("--subjects", type=at_least_one, default=8)
    simulate_verb.add_argument(
        "--spacing", type=above_zero, default=1.5, metavar="MM", help="voxel size (1.5)"
    )
    simulate_verb.add_argument("--seed", type=int, default=0)
    simulate_verb.add_argument(
        "--anatomies", type=Path, metavar="DIR", help="whole-head label maps to start from as well"
    )
    simulate_verb.add_argument("--workers", type=at_least_one, default=2)

    pairs_verb = verb(
        "pairs", pairs, "cut scans into slices with captions, by a source and a folder or by a recipe"
    )
    pairs_verb.add_argument(
        "source",
        metavar="SOURCE|RECIPE",
        help="oasis1, oasis2, oasis3, ixi, hcp, bids, folder, simulated, or a recipe (.toml)",
    )
    pairs_verb.add_argument(
        "input", type=Path, nargs="?", metavar="INPUT", help="folder of scans (not with a recipe)"
    )
    pairs_verb.add_argument("--out", type=Path, help="folder to write (not with a recipe)")
    pairs_verb.add_argument("--size", type=at_least_one, default=192, help="pixels along a side (192)")
    pairs_verb.add_argument("--spacing", type=above_zero, default=1.0, metavar="MM", help="pixel size (1.0)")
    pairs_verb.add_argument(
        "--every", type=above_zero, default=4.0, metavar="MM", help="distance between slices (4.0)"
    )
    pairs_verb.add_argument(
        "--masks", type=Path, metavar="DIR", help="brain masks or label maps beside the scans"
    )
    pairs_verb.add_argument(
        "--modalities", nargs="+", metavar="NAME", help="only these contrasts (T1 T2 PD FLAIR)"
    )
    pairs_verb.add_argument("--limit", type=at_least_one, metavar="N", help="only the first N subjects")
    pairs_verb.add_argument(
        "--keep",
        nargs="+",
        default=(),
        metavar="VALUE",
        help="who stays besides the healthy: values of the data set's health column (0.5), blank, or all",
    )
    pairs_verb.add_argument(
        "--linear", action="store_true", help="affine registration only: faster, labels less exact"
    )
    pairs_verb.add_argument(
        "--strip",
        choices=STRIPPERS,
        default="network",
        help="brain extraction of whole heads that come without a mask (network, bundled)",
    )
    pairs_verb.add_argument(
        "--denoise", action="store_true", help="less noise (non-local means): slower, smoother"
    )
    pairs_verb.add_argument(
        "--least-similarity",
        type=share,
        default=0.025,
        metavar="SHARE",
        help="of a visit to the template, below which it is set aside and listed (0.025)",
    )
    pairs_verb.add_argument(
        "--least-overlap",
        type=share,
        default=0.9,
        metavar="SHARE",
        help="of a visit's brain with the template's, likewise (0.9)",
    )
    pairs_verb.add_argument("--seed", type=int, default=0)
    pairs_verb.add_argument("--workers", type=at_least_one, default=2, help="processes on this machine (2)")
    pairs_verb.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run on Dask: its scheduler's address; without one, --workers processes on this machine",
    )
    pairs_verb.add_argument(
        "--shards", action="store_true", help="write OUT/shards as well: WebDataset tar files of the pairs"
    )
    add_overrides(pairs_verb)

    strip_verb = verb(
        "strip", strip, "mask the brain of a head, or train the network that does (by a recipe)"
    )
    strip_verb.add_argument("input", type=Path, metavar="VOLUME|RECIPE", help="a volume, or a recipe (.toml)")
    strip_verb.add_argument("--out", type=Path, help="mask to write, .nii or .nii.gz (not with a recipe)")
    strip_verb.add_argument("--picture", type=Path, help="picture (.png) of the outline to write")
    strip_verb.add_argument("--method", choices=STRIPPERS, default="network", help="(network, bundled)")
    strip_verb.add_argument(
        "--weights", type=Path, help="weight file of the network; default: the bundled one"
    )
    strip_verb.add_argument(
        "--split", choices=("validation", "test"), help="measure a trained recipe on held-out heads instead"
    )
    add_overrides(strip_verb)

    qc_verb = verb("qc", qc, "write a page to look a folder of pairs over, the doubtful cases first")
    qc_verb.add_argument("folder", type=Path, metavar="FOLDER", help="that `brainclip pairs` has written")
    qc_verb.add_argument("--out", type=Path, metavar="X.html", help="default: FOLDER/qc.html")

    agreement_verb = verb(
        "agreement", agreement, "compare labels and captions with an independent segmentation"
    )
    add_recipe(agreement_verb, "recipes/agreement.toml")

    captions_verb = verb(
        "captions", captions, "count the words of captions, and the terms of a prompt in them"
    )
    captions_verb.add_argument(
        "folder", type=Path, metavar="PAIRS", help="that `brainclip pairs` has written"
    )
    captions_verb.add_argument("--prompt", default="", help="count its terms, too")
    captions_verb.add_argument("--split", choices=("train", "validation", "test"), default="train")
    captions_verb.add_argument("--out", type=Path, help="folder to write; default: PAIRS/statistics")


def simulate(asked: argparse.Namespace) -> str:
    if asked.dry_run:
        return f"simulate: would write {asked.subjects} subjects at {asked.spacing:g} mm to {asked.out}"
    from atlas.simulate import write_cohort

    write_cohort(
        asked.out,
        subjects=asked.subjects,
        spacing_mm=asked.spacing,
        seed=asked.seed,
        anatomies=asked.anatomies,
        workers=asked.workers,
    )
    return f"simulate: {asked.out} ({asked.subjects} subjects at {asked.spacing:g} mm)"


def pairs(asked: argparse.Namespace) -> str:
    if asked.source.endswith(".toml"):
        from brainclip.train import run_stage

        if asked.input or asked.out:
            raise BrainclipError(
                f"{asked.source}: a recipe names its own folders; leave INPUT and --out away"
            )
        if asked.dask or asked.shards:
            raise BrainclipError(
                f"{asked.source}: a recipe says this in its pairs tables; instead of --dask or --shards give "
                "--set pairs.NAME.dask=local or pairs.NAME.shards=true"
            )
        return run_stage("pairs", Path(asked.source), overrides=asked.overrides, dry_run=asked.dry_run)
    if asked.input is None or asked.out is None:
        raise BrainclipError("pairs needs a recipe (.toml), or a source, a folder of scans and --out")
    from atlas.pairs import write_pairs
    from atlas.slices import Geometry

    summary = write_pairs(
        asked.source,
        asked.input,
        asked.out,
        geometry=Geometry(asked.size, asked.spacing),
        every_mm=asked.every,
        masks=asked.masks,
        modalities=asked.modalities,
        limit=asked.limit,
        keep=asked.keep,
        nonlinear=not asked.linear,
        strip=asked.strip,
        denoise=asked.denoise,
        least_similarity=asked.least_similarity,
        least_overlap=asked.least_overlap,
        seed=asked.seed,
        workers=asked.workers,
        dask=asked.dask,
        shards=asked.shards,
        dry_run=asked.dry_run,
    )
    counted = ("subjects", "scans", "pairs", "rejected")  # a finished folder counts subjects by split
    counts = ", ".join(f"{summary[key]} {key}" for key in counted if isinstance(summary.get(key), int))
    return f"pairs: {'would write ' if asked.dry_run else ''}{asked.out} ({counts})"


def strip(asked: argparse.Namespace) -> str:
    if asked.input.suffix == ".toml":
        from brainclip.config import read_recipe
        from brainclip.train.strip import StripRecipe, train_strip

        recipe = read_recipe(StripRecipe, asked.input, asked.overrides)
        if asked.dry_run:
            what = "measure" if asked.split else f"train {recipe.steps} steps into"
            return f"strip: would {what} {recipe.folder}"
        if asked.split:
            from brainclip.evaluate.strip import measure_strip

            numbers = measure_strip(recipe, asked.split)
        else:
            numbers = train_strip(recipe)
        found = ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        return f"strip: {recipe.folder} ({found or 'already complete'})"
    if asked.out is None:
        raise BrainclipError("strip needs a volume and --out, or a recipe (.toml)")
    from atlas.errors import VolumeError
    from atlas.sources.scan import NO_ORIENTATION
    from atlas.strip import WEIGHTS, brain_mask, check_method
    from atlas.volume import as_stored, check_ending, has_orientation, load_volume, save_volume, voxel_sizes

    check_method(asked.method)
    check_ending(asked.out)
    if asked.input.resolve() in {path.resolve() for path in (asked.out, asked.picture) if path}:
        raise BrainclipError(f"{asked.input}: would be written over; give another file to write")
    volume = load_volume(asked.input)
    if not has_orientation(asked.input):
        raise VolumeError(f"{asked.input}: {NO_ORIENTATION}")
    if asked.dry_run:
        return f"strip: would write {asked.out} by {asked.method}"
    mask = brain_mask(volume, method=asked.method, weights=asked.weights or WEIGHTS)
    save_volume(as_stored(mask, asked.input), asked.out)
    if asked.picture:
        from brainclip.evaluate.strip import outline

        outline(volume, mask, asked.picture)
    millilitres = mask.get_fdata().sum() * voxel_sizes(mask).prod() / 1000
    return f"strip: {asked.out} ({millilitres:.0f} ml by {asked.method})"


def qc(asked: argparse.Namespace) -> str:
    from atlas.quality_page import write_quality_page
    from atlas.records import read_dataset

    out = asked.out or asked.folder / "qc.html"
    read_dataset(asked.folder)
    if asked.dry_run:
        return f"qc: would write {out}"
    counts = write_quality_page(asked.folder, out)
    return f"qc: {out} ({counts}, {out.stat().st_size / 1e6:.1f} MB)"


def agreement(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.agreement import AgreementRecipe, run_agreement

    recipe = read_recipe(AgreementRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        return f"agreement: would compare {', '.join(recipe.setting)} in {recipe.folder}"
    report = run_agreement(recipe)
    dice = ", ".join(f"{name} {figures['dice'][0]:.3f}" for name, figures in report.items())
    return f"agreement: {recipe.folder}/report.md (mean Dice: {dice})"


def captions(asked: argparse.Namespace) -> str:
    from brainclip.evaluate.caption_statistics import write_caption_statistics

    out = asked.out or asked.folder / "statistics"
    if asked.dry_run:
        return f"captions: would write {out}/captions.md on the {asked.split} split of {asked.folder}"
    found = write_caption_statistics(asked.folder, out, split=asked.split, prompt=asked.prompt)
    unseen = [
        row["term"] for row in found.get("prompt_terms", ()) if not row["count"] and " " not in row["term"]
    ]
    terms = f"; never seen: {', '.join(unseen) or 'no word of the prompt'}" if asked.prompt else ""
    words = found["words"]
    return f"captions: {out}/captions.md ({words['different']} words in {found['captions']} captions{terms})"
