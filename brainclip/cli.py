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

from brainclip import verbs
from brainclip.errors import BrainclipError

STRIPPERS = ("network", "mri_synthstrip", "hd-bet")  # atlas.strip.METHODS, which would cost an import
FORMS = ("diffusers", "kohya")  # of brainclip.lora_files


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    try:
        asked = parser().parse_args(argv)
        line = asked.call(asked)
        if line:  # none in the further processes of a training run
            print(line)
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
    added = top.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, call: Any, summary: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = added.add_parser(name, help=summary, description=summary)
        made.add_argument(
            "--dry-run", action="store_true", help="check everything, say what would be done, do nothing"
        )
        made.set_defaults(call=call)
        return made

    simulate = verb(
        "simulate", verbs.simulate, "write a cohort of simulated healthy brains as NIfTI with true labels"
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
        "pairs", verbs.pairs, "cut scans into slices with captions, by a source and a folder or by a recipe"
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
        "--denoise", action="store_true", help="less noise (non-local means): slower, smoother"
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

    strip = verb(
        "strip", verbs.strip, "mask the brain of a head, or train the network that does (by a recipe)"
    )
    strip.add_argument("input", type=Path, metavar="VOLUME|RECIPE", help="a volume, or a recipe (.toml)")
    strip.add_argument("--out", type=Path, help="mask to write, .nii or .nii.gz (not with a recipe)")
    strip.add_argument("--picture", type=Path, help="picture (.png) of the outline to write")
    strip.add_argument("--method", choices=STRIPPERS, default="network", help="(network, bundled)")
    strip.add_argument("--weights", type=Path, help="weight file of the network; default: the bundled one")
    strip.add_argument(
        "--split", choices=("validation", "test"), help="measure a trained recipe on held-out heads instead"
    )
    _add_overrides(strip)

    qc = verb("qc", verbs.qc, "write a page to look a folder of pairs over, the doubtful cases first")
    qc.add_argument("folder", type=Path, metavar="FOLDER", help="that `brainclip pairs` has written")
    qc.add_argument("--out", type=Path, metavar="X.html", help="default: FOLDER/qc.html")

    agreement = verb(
        "agreement", verbs.agreement, "compare labels and captions with an independent segmentation"
    )
    agreement.add_argument("recipe", type=Path, metavar="RECIPE", help="such as recipes/agreement.toml")
    _add_overrides(agreement)

    ablation = verb("ablation", verbs.ablation, "train variants of a decoder and compare their pictures")
    ablation.add_argument("recipe", type=Path, metavar="RECIPE", help="such as recipes/ablation.toml")
    _add_overrides(ablation)

    degradation = verb(
        "degradation",
        verbs.degradation,
        "try whether distances of features follow the quality of real slices",
    )
    degradation.add_argument("recipe", type=Path, metavar="RECIPE", help="such as recipes/degradation.toml")
    _add_overrides(degradation)

    memorisation = verb(
        "memorisation", verbs.memorisation, "check whether generated slices are copies of training slices"
    )
    memorisation.add_argument("recipe", type=Path, metavar="RECIPE", help="such as recipes/memorisation.toml")
    _add_overrides(memorisation)

    for stage, summary in {
        "clip": "train CLIP on pairs",
        "vae": "train the autoencoder",
        "prior": "train the prior, text embedding to image embedding",
        "decoder": "train the decoder, image embedding to picture, or one of its adapters or new tokens",
        "pixel": "train an unconditional diffusion model of slices, for comparison",
    }.items():
        trained = verb(stage, verbs.train, summary)
        trained.add_argument(
            "recipe", type=Path, metavar="RECIPE", help="a TOML file such as recipes/tiny.toml"
        )
        trained.set_defaults(stage=stage, adapter=None, inversion=None, report=False)
        _add_overrides(trained)
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

    generate = verb("generate", verbs.generate, "make pictures from prompts")
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
        "--adapter",
        action="append",
        metavar="NAME[:WEIGHT]",
        help="auto, none or an adapter's name (auto); several, each with its weight, are added up",
    )
    generate.add_argument(
        "--candidates",
        type=_at_least_one,
        help="embeddings drawn for a picture, the nearest to the text decoded; default: the model's own",
    )
    generate.add_argument("--model", default="mini", help="mini, a model folder or a hub id (mini)")

    export = verb("export", verbs.export, "write an adapter as one file that other programs read")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="of the adapter: DECODER/adapters/NAME")
    export.add_argument("out", type=Path, metavar="X.safetensors")
    export.add_argument(
        "--form", choices=FORMS, default="diffusers", help="of diffusers' pipelines, or of kohya's sd-scripts"
    )

    into = verb("import", verbs.import_, "make an adapter of a file that other programs have written")
    into.add_argument("file", type=Path, metavar="X.safetensors", help="in the form of diffusers or of kohya")
    into.add_argument("folder", type=Path, metavar="FOLDER", help="to write: DECODER/adapters/NAME")

    merge = verb("merge", verbs.merge, "write a copy of a model with adapters merged into its decoder")
    merge.add_argument("model", metavar="MODEL", help="mini, a model folder or a hub id")
    merge.add_argument("out", type=Path, metavar="OUT", help="model folder to write")
    merge.add_argument("--adapter", action="append", metavar="NAME[:WEIGHT]", help="to merge; several add up")

    embed = verb("embed", verbs.embed, "embed texts and slices")
    embed.add_argument(
        "inputs", nargs="+", metavar="TEXT|FILE", help="a file is a .png, .nii or .nii.gz slice"
    )
    embed.add_argument(
        "--out", type=Path, required=True, help="x.npz with arrays embeddings (B, D), inputs and kinds (B,)"
    )
    embed.add_argument("--model", default="mini", help="mini, a model folder or a hub id (mini)")

    evaluate = verb("evaluate", verbs.evaluate, "measure a trained model and write the report")
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

    captions = verb(
        "captions", verbs.captions, "count the words of captions, and the terms of a prompt in them"
    )
    captions.add_argument("folder", type=Path, metavar="PAIRS", help="that `brainclip pairs` has written")
    captions.add_argument("--prompt", default="", help="count its terms, too")
    captions.add_argument("--split", choices=("train", "validation", "test"), default="train")
    captions.add_argument("--out", type=Path, help="folder to write; default: PAIRS/statistics")

    kit = verb(
        "reader-kit", verbs.reader_kit, "mix generated and real slices for raters who cannot tell which"
    )
    kit.add_argument(
        "out", type=Path, metavar="KIT", help="folder for the raters: pictures, form, instructions"
    )
    kit.add_argument(
        "--made", nargs="+", required=True, metavar="NAME=FOLDER", help="a group of pictures from `generate`"
    )
    kit.add_argument(
        "--real", type=Path, required=True, metavar="PAIRS", help="folder of pairs for the controls"
    )
    kit.add_argument("--split", choices=("validation", "test"), default="test", help="of the controls (test)")
    kit.add_argument("--n", type=_at_least_one, default=20, help="pictures of each group (20)")
    kit.add_argument("--controls", type=_at_least_one, help="real slices; default: as many as a group has")
    kit.add_argument(
        "--phase",
        type=int,
        choices=(1, 2),
        default=1,
        help="1: realism 1-5; 2: realism and agreement 1-3 (1)",
    )
    kit.add_argument("--key", type=Path, help="what each picture is; default: KIT-key.json beside the kit")
    kit.add_argument(
        "--shares", type=_share, nargs=2, metavar="SHARE", help="say how many pictures tell these two apart"
    )
    kit.add_argument("--seed", type=int, default=0)

    scored = verb("reader-score", verbs.reader_score, "good shares and agreement of raters from filled forms")
    scored.add_argument("key", type=Path, metavar="KEY", help="that reader-kit has written")
    scored.add_argument(
        "forms", type=Path, nargs="+", metavar="FORM", help="filled CSV, NAME.csv of each rater"
    )
    scored.add_argument("--out", type=Path, required=True, help="folder to write")
    scored.add_argument("--note", default="", help="printed on the report and its figures")
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


if __name__ == "__main__":
    sys.exit(main())
