"""`brainclip VERB ...`: parse, call, print. One line of result on stdout, progress on stderr.

Exit codes: 0 done, 1 our own mistake (with a traceback), 2 the user's mistake or a full disk (one sentence),
130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from brainclip.errors import BrainclipError

SLICE_FILES = (".png", ".nii", ".nii.gz")
STRIPPERS = ("network", "mri_synthstrip", "hd-bet")  # atlas.strip.METHODS, which would cost an import


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    try:
        asked = parser().parse_args(argv)
        print(asked.call(asked))
        return 0
    except BrainclipError as error:
        return _mistake(str(error))
    except KeyboardInterrupt:
        print("brainclip: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _mistake(f"the disk is full{_of(error)}; free some space and run the same command again")
        if error.errno is None:
            raise
        return _mistake(f"{error.strerror}{_of(error)}")


def _of(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


def _mistake(sentence: str) -> int:
    print("brainclip:", " ".join(sentence.split()), file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one sentence, like every other mistake's."""

    def error(self, message: str) -> NoReturn:
        raise BrainclipError(f"{message}; see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """The command line: a sub-parser per verb, whose `call` takes the parsed arguments and returns a line."""
    top = Parser(prog="brainclip", description="From a sentence to a slice of a healthy brain, and back.")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, call: Any, summary: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
        made.add_argument(
            "--dry-run", action="store_true", help="check everything, say what would be done, do nothing"
        )
        made.set_defaults(call=call)
        return made

    simulate = verb(
        "simulate", _simulate, "write a cohort of simulated healthy brains as NIfTI with true labels"
    )
    simulate.add_argument("out", type=Path, metavar="OUT", help="folder to write, BIDS layout")
    simulate.add_argument("--subjects", type=_at_least_one, default=8)
    simulate.add_argument("--spacing", type=_above_zero, default=1.5, metavar="MM", help="voxel size (1.5)")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument(
        "--anatomies", type=Path, metavar="DIR", help="whole-head label maps to start from as well"
    )
    simulate.add_argument("--workers", type=_at_least_one, default=2)

    pairs = verb(
        "pairs", _pairs, "cut scans into slices with captions, by a source and a folder or by a recipe"
    )
    pairs.add_argument(
        "source",
        metavar="SOURCE|RECIPE",
        help="oasis1, oasis2, oasis3, ixi, hcp, bids, folder, simulated, or a recipe (.toml)",
    )
    pairs.add_argument(
        "input", type=Path, nargs="?", metavar="INPUT", help="folder of scans (not with a recipe)"
    )
    pairs.add_argument("--out", type=Path, help="folder to write (not with a recipe)")
    pairs.add_argument("--size", type=_at_least_one, default=192, help="pixels along a side (192)")
    pairs.add_argument("--spacing", type=_above_zero, default=1.0, metavar="MM", help="pixel size (1.0)")
    pairs.add_argument(
        "--every", type=_above_zero, default=4.0, metavar="MM", help="distance between slices (4.0)"
    )
    pairs.add_argument("--masks", type=Path, metavar="DIR", help="brain masks or label maps beside the scans")
    pairs.add_argument(
        "--modalities", nargs="+", metavar="NAME", help="only these contrasts (T1 T2 PD FLAIR)"
    )
    pairs.add_argument("--limit", type=_at_least_one, metavar="N", help="only the first N subjects")
    pairs.add_argument(
        "--keep",
        nargs="+",
        default=(),
        metavar="VALUE",
        help="who stays besides the healthy: values of the data set's health column (0.5), blank, or all",
    )
    pairs.add_argument(
        "--linear", action="store_true", help="affine registration only: faster, labels less exact"
    )
    pairs.add_argument(
        "--strip",
        choices=STRIPPERS,
        default="network",
        help="brain extraction of whole heads that come without a mask (network, bundled)",
    )
    pairs.add_argument(
        "--least-similarity",
        type=_share,
        default=0.025,
        metavar="SHARE",
        help="of a visit to the template, below which it is set aside and listed (0.025)",
    )
    pairs.add_argument(
        "--least-overlap",
        type=_share,
        default=0.9,
        metavar="SHARE",
        help="of a visit's brain with the template's, likewise (0.9)",
    )
    pairs.add_argument("--seed", type=int, default=0)
    pairs.add_argument("--workers", type=_at_least_one, default=2, help="processes on this machine (2)")
    pairs.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run on Dask: its scheduler's address; without one, --workers processes on this machine",
    )
    pairs.add_argument(
        "--shards", action="store_true", help="write OUT/shards as well: WebDataset tar files of the pairs"
    )
    _add_overrides(pairs)

    strip = verb("strip", _strip, "mask the brain of a head, or train the network that does (by a recipe)")
    strip.add_argument("input", type=Path, metavar="VOLUME|RECIPE", help="a volume, or a recipe (.toml)")
    strip.add_argument("--out", type=Path, help="mask to write, .nii or .nii.gz (not with a recipe)")
    strip.add_argument("--picture", type=Path, help="picture (.png) of the outline to write")
    strip.add_argument("--method", choices=STRIPPERS, default="network", help="(network, bundled)")
    strip.add_argument("--weights", type=Path, help="weight file of the network; default: the bundled one")
    strip.add_argument(
        "--split", choices=("validation", "test"), help="measure a trained recipe on held-out heads instead"
    )
    _add_overrides(strip)

    qc = verb("qc", _qc, "write a page to look a folder of pairs over, the doubtful cases first")
    qc.add_argument("folder", type=Path, metavar="FOLDER", help="that `brainclip pairs` has written")
    qc.add_argument("--out", type=Path, metavar="X.html", help="default: FOLDER/qc.html")

    for stage, summary in {
        "clip": "train CLIP on pairs",
        "vae": "train the autoencoder",
        "prior": "train the prior, text embedding to image embedding",
        "decoder": "train the decoder, image embedding to picture, or one of its adapters",
    }.items():
        trained = verb(stage, _train, summary)
        trained.add_argument(
            "recipe", type=Path, metavar="RECIPE", help="a TOML file such as recipes/tiny.toml"
        )
        trained.set_defaults(stage=stage, adapter=None)
        _add_overrides(trained)
        if stage == "decoder":
            trained.add_argument("--adapter", metavar="NAME", help="train the LoRA of [adapter.NAME] instead")

    generate = verb("generate", _generate, "make pictures from prompts")
    generate.add_argument("prompts", nargs="+", metavar="PROMPT")
    generate.add_argument(
        "--out",
        type=Path,
        required=True,
        help="x.png, x.nii or x.nii.gz; several become x-0.png, x-1.png ...",
    )
    generate.add_argument("--n", type=_at_least_one, default=1, help="pictures per prompt (1)")
    generate.add_argument("--seed", type=int, default=0, help="of the first picture of each prompt (0)")
    generate.add_argument("--steps", type=_at_least_one, help="of the decoder; default: the model's own")
    generate.add_argument("--guidance", type=float, help="of the decoder; default: the model's own")
    generate.add_argument(
        "--adapter", default="auto", metavar="NAME", help="auto, none or an adapter's name (auto)"
    )
    generate.add_argument("--model", default="mini", help="mini, a model folder or a hub id (mini)")

    embed = verb("embed", _embed, "embed texts and slices")
    embed.add_argument(
        "inputs", nargs="+", metavar="TEXT|FILE", help="a file is a .png, .nii or .nii.gz slice"
    )
    embed.add_argument(
        "--out", type=Path, required=True, help="x.npz with arrays embeddings (B, D), inputs and kinds (B,)"
    )
    embed.add_argument("--model", default="mini", help="mini, a model folder or a hub id (mini)")

    evaluate = verb("evaluate", _evaluate, "measure a trained model and write the report")
    evaluate.add_argument("recipe", type=Path, metavar="RECIPE")
    evaluate.add_argument(
        "--out", type=Path, help="folder to write; default: evaluate/ in the recipe's folder"
    )
    evaluate.add_argument(
        "--prompts", type=_at_least_one, default=200, help="prompts of the adherence test (200)"
    )
    evaluate.add_argument(
        "--split", choices=("validation", "test"), default="test", help="held-out subjects (test)"
    )
    _add_overrides(evaluate)
    return top


def _add_overrides(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="such as clip.steps=10",
    )


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


_at_least_one.__name__ = "whole number"
_above_zero.__name__ = _share.__name__ = "number"  # argparse says "invalid number value: 'x'"


def _simulate(asked: argparse.Namespace) -> str:
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


def _pairs(asked: argparse.Namespace) -> str:
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
        least_similarity=asked.least_similarity,
        least_overlap=asked.least_overlap,
        seed=asked.seed,
        workers=asked.workers,
        dask=asked.dask,
        shards=asked.shards,
        dry_run=asked.dry_run,
    )
    counts = ", ".join(
        f"{value} {key}" for key, value in summary.items() if isinstance(value, int) and key != "format"
    )
    return f"pairs: {'would write ' if asked.dry_run else ''}{asked.out} ({counts})"


def _strip(asked: argparse.Namespace) -> str:
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
    from atlas.strip import WEIGHTS, brain_mask, check_method
    from atlas.volume import load_volume, save_volume, voxel_sizes

    check_method(asked.method)
    volume = load_volume(asked.input)
    if asked.dry_run:
        return f"strip: would write {asked.out} by {asked.method}"
    mask = brain_mask(volume, method=asked.method, weights=asked.weights or WEIGHTS)
    save_volume(mask, asked.out)
    if asked.picture:
        from brainclip.evaluate.strip import outline

        outline(volume, mask, asked.picture)
    millilitres = mask.get_fdata().sum() * voxel_sizes(mask).prod() / 1000
    return f"strip: {asked.out} ({millilitres:.0f} ml by {asked.method})"


def _qc(asked: argparse.Namespace) -> str:
    from atlas.quality_page import write_quality_page
    from atlas.records import read_dataset

    out = asked.out or asked.folder / "qc.html"
    read_dataset(asked.folder)
    if asked.dry_run:
        return f"qc: would write {out}"
    counts = write_quality_page(asked.folder, out)
    return f"qc: {out} ({counts}, {out.stat().st_size / 1e6:.1f} MB)"


def _train(asked: argparse.Namespace) -> str:
    from brainclip.train import run_stage

    return run_stage(
        asked.stage, asked.recipe, overrides=asked.overrides, dry_run=asked.dry_run, adapter=asked.adapter
    )


def _generate(asked: argparse.Namespace) -> str:
    names = _numbered(asked.out, len(asked.prompts) * asked.n)
    from brainclip.model import load

    model = load(asked.model)
    if asked.dry_run:
        from atlas.prompt import read_prompt

        for prompt in asked.prompts:
            _warn(model.warnings(read_prompt(prompt)))
        return f"generate: would write {_list(names)} with {model.name}"
    pictures = model.generate(
        asked.prompts,
        n=asked.n,
        seed=asked.seed,
        steps=asked.steps,
        guidance=asked.guidance,
        adapter=None if asked.adapter == "none" else asked.adapter,
    )
    _warn([warning for picture in pictures for warning in picture.warnings])
    for picture, name in zip(pictures, names, strict=True):
        picture.save(name)
    places = sorted({f"{picture.plane} {picture.position_mm:+.0f} mm" for picture in pictures})
    return f"generate: {_list(names)} ({', '.join(places)}; synthetic, {model.name}, seed {asked.seed})"


def _numbered(out: Path, count: int) -> list[Path]:
    """A file name per picture, numbered before the ending. BrainclipError when the ending is no picture's."""
    ending = next((ending for ending in (".nii.gz", ".nii", ".png") if out.name.endswith(ending)), None)
    stem = out.name.removesuffix(ending or "")
    if not ending or not stem:
        raise BrainclipError(f"--out {out}: a picture is saved as .png, .nii or .nii.gz")
    return [out] if count == 1 else [out.with_name(f"{stem}-{k}{ending}") for k in range(count)]


def _list(names: list[Path]) -> str:
    return str(names[0]) if len(names) == 1 else f"{names[0]} ... {names[-1].name}, {len(names)} pictures"


def _warn(warnings: Sequence[str]) -> None:
    for warning in dict.fromkeys(warnings):
        print("brainclip: warning:", warning, file=sys.stderr)


def _embed(asked: argparse.Namespace) -> str:
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


def _evaluate(asked: argparse.Namespace) -> str:
    from brainclip.evaluate import evaluate

    return evaluate(
        asked.recipe,
        overrides=asked.overrides,
        out=asked.out,
        prompts=asked.prompts,
        split=asked.split,
        dry_run=asked.dry_run,
    )


if __name__ == "__main__":
    sys.exit(main())
