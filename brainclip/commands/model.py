"""Verbs: what a finished model does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from brainclip.commands.arguments import AddVerb, at_least_one, warn
from brainclip.errors import BrainclipError

FORMS = ("diffusers", "kohya")  # of brainclip.lora_files


def add_verbs(verb: AddVerb) -> None:
    generate_verb = verb("generate", generate, "make pictures from prompts")
    generate_verb.add_argument("prompts", nargs="+", metavar="PROMPT")
    generate_verb.add_argument(
        "--out",
        type=Path,
        required=True,
        help="x.png, x.nii or x.nii.gz; several become x-0.png, x-1.png ...",
    )
    generate_verb.add_argument("--n", type=at_least_one, default=1, help="pictures per prompt (1)")
    generate_verb.add_argument("--seed", type=int, default=0, help="of the first picture of each prompt (0)")
    generate_verb.add_argument("--steps", type=at_least_one, help="of the decoder; default: the model's own")
    generate_verb.add_argument("--guidance", type=float, help="of the decoder; default: the model's own")
    generate_verb.add_argument(
        "--adapter",
        action="append",
        metavar="NAME[:WEIGHT]",
        help="auto, none or an adapter's name (auto); several, each with its weight, are added up",
    )
    generate_verb.add_argument(
        "--candidates",
        type=at_least_one,
        help="embeddings drawn for a picture, the nearest to the text decoded; default: the model's own",
    )
    generate_verb.add_argument("--model", default="mini", help="mini, a model folder or a hub id (mini)")

    merge_verb = verb("merge", merge, "write a copy of a model with adapters merged into its decoder")
    merge_verb.add_argument("model", metavar="MODEL", help="mini, a model folder or a hub id")
    merge_verb.add_argument("out", type=Path, metavar="OUT", help="model folder to write")
    merge_verb.add_argument(
        "--adapter", action="append", metavar="NAME[:WEIGHT]", help="to merge; several add up"
    )

    export_verb = verb("export", export, "write an adapter as one file that other programs read")
    export_verb.add_argument(
        "folder", type=Path, metavar="FOLDER", help="of the adapter: DECODER/adapters/NAME"
    )
    export_verb.add_argument("out", type=Path, metavar="X.safetensors")
    export_verb.add_argument(
        "--form", choices=FORMS, default="diffusers", help="of diffusers' pipelines, or of kohya's sd-scripts"
    )

    into_verb = verb("import", import_, "make an adapter of a file that other programs have written")
    into_verb.add_argument(
        "file", type=Path, metavar="X.safetensors", help="in the form of diffusers or of kohya"
    )
    into_verb.add_argument("folder", type=Path, metavar="FOLDER", help="to write: DECODER/adapters/NAME")


def generate(asked: argparse.Namespace) -> str:
    names = numbered(asked.out, len(asked.prompts) * asked.n)
    from brainclip.model import load

    model = load(asked.model)
    if asked.dry_run:
        for prompt in asked.prompts:
            warn(model.warnings(model.read(prompt)[0]))
        return f"generate: would write {listed(names)} with {model.name}"
    pictures = model.generate(
        asked.prompts,
        n=asked.n,
        seed=asked.seed,
        steps=asked.steps,
        guidance=asked.guidance,
        adapter=adapters(asked.adapter),
        candidates=asked.candidates,
    )
    warn([warning for picture in pictures for warning in picture.warnings])
    for picture, name in zip(pictures, names, strict=True):
        picture.save(name)
    places = sorted({f"{picture.plane} {picture.position_mm:+.0f} mm" for picture in pictures})
    return f"generate: {listed(names)} ({', '.join(places)}; synthetic, {model.name}, seed {asked.seed})"


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


def numbered(out: Path, count: int) -> list[Path]:
    """A file name per picture, numbered before the ending. BrainclipError when the ending is no picture's."""
    ending = next((ending for ending in (".nii.gz", ".nii", ".png") if out.name.endswith(ending)), None)
    stem = out.name.removesuffix(ending or "")
    if not ending or not stem:
        raise BrainclipError(f"--out {out}: a picture is saved as .png, .nii or .nii.gz")
    return [out] if count == 1 else [out.with_name(f"{stem}-{k}{ending}") for k in range(count)]


def listed(names: list[Path]) -> str:
    """File names in a line: the first and the last."""
    return str(names[0]) if len(names) == 1 else f"{names[0]} ... {names[-1].name}, {len(names)} pictures"
