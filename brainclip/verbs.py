"""What each verb of the command line does: the parsed arguments in, one line of result out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from brainclip.errors import BrainclipError

SLICE_FILES = (".png", ".nii", ".nii.gz")


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


def _report(asked: argparse.Namespace) -> str:
    from brainclip.config import load_recipe

    recipe = load_recipe(asked.recipe, asked.overrides)
    if asked.dry_run:
        return f"clip: would write {Path(recipe.folder) / 'clip' / 'report.md'}"
    from brainclip.evaluate.clip_report import report_clip

    return f"clip: {report_clip(recipe)}"


def adapters(texts: Sequence[str] | None) -> str | dict[str, float] | None:
    """What "ixi:0.7" "clinic:0.5", or "auto", "none" or nothing at all, ask for, as generate() takes it."""
    if not texts or list(texts) in (["auto"], ["none"]):
        return None if texts and texts[0] == "none" else "auto"
    weights: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition(":")
        try:
            weight = float(number or 1)
        except ValueError:
            raise BrainclipError(f"--adapter {text!r}: expected a name and a weight, as in ixi:0.7") from None
        if name in ("", "auto", "none") or name in weights:
            raise BrainclipError(f"--adapter {text!r}: expected one adapter's name, each of them once")
        weights[name] = weight
    return weights


def generate(asked: argparse.Namespace) -> str:
    names = numbered(asked.out, len(asked.prompts) * asked.n)
    from brainclip.model import load

    model = load(asked.model)
    if asked.dry_run:
        for prompt in asked.prompts:
            _warn(model.warnings(model.read(prompt)[0]))
        return f"generate: would write {_listed(names)} with {model.name}"
    pictures = model.generate(
        asked.prompts,
        n=asked.n,
        seed=asked.seed,
        steps=asked.steps,
        guidance=asked.guidance,
        adapter=adapters(asked.adapter),
        candidates=asked.candidates,
    )
    _warn([warning for picture in pictures for warning in picture.warnings])
    for picture, name in zip(pictures, names, strict=True):
        picture.save(name)
    places = sorted({f"{picture.plane} {picture.position_mm:+.0f} mm" for picture in pictures})
    return f"generate: {_listed(names)} ({', '.join(places)}; synthetic, {model.name}, seed {asked.seed})"


def export(asked: argparse.Namespace) -> str:
    if asked.out.suffix != ".safetensors":
        raise BrainclipError(f"{asked.out}: an adapter is exported as .safetensors")
    if asked.dry_run:
        return f"export: would write {asked.out} in the form of {asked.form}"
    from brainclip.lora_files import export_adapter, projection_beside

    layers = export_adapter(asked.folder, asked.out, asked.form)
    beside = projection_beside(asked.out)
    also = f"; the projection of the image embedding is {beside}" if beside.is_file() else ""
    return f"export: {asked.out} ({layers} layers, {asked.form}{also})"


def import_(asked: argparse.Namespace) -> str:
    if asked.dry_run:
        return f"import: would write {asked.folder}"
    from brainclip.lora_files import import_adapter

    return f"import: {asked.folder} ({import_adapter(asked.file, asked.folder)} layers)"


def merge(asked: argparse.Namespace) -> str:
    weights = adapters(asked.adapter)
    if not isinstance(weights, dict):
        raise BrainclipError("merge needs names of adapters, such as --adapter ixi:0.7 --adapter clinic:0.5")
    if asked.dry_run:
        return f"merge: would write {asked.out} with {', '.join(weights)}"
    from brainclip.merge import merge_adapters
    from brainclip.model import load

    merged = load(merge_adapters(load(asked.model), weights, asked.out))
    said = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
    return f"merge: {asked.out} ({merged.name}, with {said})"


def numbered(out: Path, count: int) -> list[Path]:
    """A file name per picture, numbered before the ending. BrainclipError when the ending is no picture's."""
    ending = next((ending for ending in (".nii.gz", ".nii", ".png") if out.name.endswith(ending)), None)
    stem = out.name.removesuffix(ending or "")
    if not ending or not stem:
        raise BrainclipError(f"--out {out}: a picture is saved as .png, .nii or .nii.gz")
    return [out] if count == 1 else [out.with_name(f"{stem}-{k}{ending}") for k in range(count)]


def _listed(names: list[Path]) -> str:
    return str(names[0]) if len(names) == 1 else f"{names[0]} ... {names[-1].name}, {len(names)} pictures"


def _warn(warnings: Sequence[str]) -> None:
    for warning in dict.fromkeys(warnings):
        print("brainclip: warning:", warning, file=sys.stderr)


def embed(asked: argparse.Namespace) -> str:
    kinds = ["image" if text.endswith(SLICE_FILES) else "text" for text in asked.inputs]
    if asked.out.suffix != ".npz":
        raise BrainclipError(f"--out {asked.out}: embeddings are saved as .npz")
    for text, kind in zip(asked.inputs, kinds, strict=True):
        if kind == "image" and not Path(text).is_file():
            raise BrainclipError(f"{text}: no such file")
    from brainclip.model import load

    model = load(asked.model)
    counts = f"{kinds.count('text')} texts and {kinds.count('image')} slices"
    if asked.dry_run:
        return f"embed: would embed {counts} with {model.name} into {asked.out}"
    import numpy as np

    texts = [text for text, kind in zip(asked.inputs, kinds, strict=True) if kind == "text"]
    images = [text for text, kind in zip(asked.inputs, kinds, strict=True) if kind == "image"]
    of_texts = iter(model.embed_text(texts).numpy() if texts else ())
    of_images = iter(model.embed_image(images).numpy() if images else ())
    rows = np.stack([next(of_texts if kind == "text" else of_images) for kind in kinds])
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = asked.out.with_name(f".{asked.out.name}.tmp")
    with unfinished.open("wb") as file:
        np.savez(
            file,
            embeddings=rows,
            inputs=np.array(asked.inputs),
            kinds=np.array(kinds),
            model=np.array(model.name),
        )
    unfinished.replace(asked.out)
    return f"embed: {asked.out} ({counts}, {rows.shape[1]} numbers each, {model.name})"


def agreement(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.agreement import AgreementRecipe, run_agreement

    recipe = read_recipe(AgreementRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        return f"agreement: would compare {', '.join(recipe.setting)} in {recipe.folder}"
    report = run_agreement(recipe)
    dice = ", ".join(f"{name} {figures['dice'][0]:.3f}" for name, figures in report.items())
    return f"agreement: {recipe.folder}/report.md (mean Dice: {dice})"


def ablation(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.ablation import AblationRecipe, run_ablation

    recipe = read_recipe(AblationRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        runs = len(recipe.seeds) * len(recipe.variant)
        return f"ablation: would make {runs} runs of {', '.join(recipe.variant)} in {recipe.folder}"
    report = run_ablation(recipe)
    kid = ", ".join(f"{name} {sum(found['kid']) / len(found['kid']):.3f}" for name, found in report.items())
    return f"ablation: {recipe.folder}/report.md (KID: {kid})"


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


def memorisation(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.memorisation_study import MemorisationRecipe, run_memorisation

    recipe = read_recipe(MemorisationRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        checks = ", ".join(recipe.check) or "nothing: the recipe has no [check.NAME]"
        return f"memorisation: would check {checks} of {recipe.model} in {recipe.folder}"
    report = run_memorisation(recipe)
    found = ", ".join(
        f"{name} {'passes' if check['verdict']['passes'] else 'FAILS'}: {check['details']['copies']} copies, "
        f"{check['details']['beyond']['value']:.2%} of {check['pictures']} pictures beyond the threshold"
        for name, check in report["checks"].items()
    )
    return f"memorisation: {recipe.folder}/report.md ({found})"
