"""Verbs: slices and volumes into the embedding space, and what was measured of it."""

from __future__ import annotations

import argparse
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from brainclip.commands.arguments import (
    CONTRASTS,
    FILES,
    SPLITS,
    AddVerb,
    above_zero,
    add_model,
    add_recipe,
    at_least_one,
    check_text,
    warn,
)
from brainclip.errors import BrainclipError

STRIPPERS = ("network", "mri_synthstrip", "hd-bet")


def add_verbs(verb: AddVerb) -> None:
    embed_verb = verb("embed", embed, "embed texts, slices and volumes, or a whole folder of scans or pairs")
    embed_verb.add_argument(
        "inputs",
        nargs="+",
        metavar="TEXT|FILE|FOLDER",
        help="a file is a .png or NIfTI slice, or a NIfTI volume",
    )
    embed_verb.add_argument(
        "--out",
        type=Path,
        required=True,
        help="x.npz of texts and files: embeddings (B, D), inputs, kinds, planes, positions_mm (B,); "
        "x.parquet of a folder, a row for each slice",
    )
    embed_verb.add_argument(
        "--source", default="folder", help="layout of a folder of scans, as for `brainclip pairs` (folder)"
    )
    embed_verb.add_argument("--masks", type=Path, metavar="DIR", help="brain masks beside a folder of scans")
    embed_verb.add_argument(
        "--split", nargs="+", choices=SPLITS, default=[], help="of a folder of pairs; default: all"
    )
    embed_verb.add_argument("--limit", type=at_least_one, metavar="N", help="only the first N visits")
    embed_verb.add_argument(
        "--workers", type=at_least_one, default=1, help="processes that prepare scans (1)"
    )
    _add_input(embed_verb)

    report_verb = verb(
        "embed-report",
        embed_report,
        "measure classes, search, captions, brain age and speed on held-out people",
    )
    add_recipe(report_verb, "recipes/embedding.toml")


def _add_input(verb: argparse.ArgumentParser) -> None:
    """What says how files are read."""
    add_model(verb)
    verb.add_argument("--contrast", choices=CONTRASTS, help="of files whose name does not say it")
    verb.add_argument(
        "--every", type=above_zero, default=6.0, metavar="MM", help="distance of a volume's slices (6.0)"
    )
    verb.add_argument(
        "--strip", choices=STRIPPERS, default="network", help="brain extraction of whole heads (network)"
    )
    verb.add_argument("--device", help="such as cuda; default: cpu")


def embed(asked: argparse.Namespace) -> str:
    if len(asked.inputs) == 1 and asked.inputs[0].strip() and Path(asked.inputs[0]).is_dir():
        return _embed_folder(asked)
    for text in asked.inputs:
        check_text(text)
    if asked.out.suffix != ".npz":
        raise BrainclipError(
            f"--out {asked.out}: embeddings are saved as .npz, those of a folder as .parquet"
        )
    kinds = ["file" if text.lower().endswith(FILES) else "text" for text in asked.inputs]
    for text, kind in zip(asked.inputs, kinds, strict=True):
        if kind == "file" and not Path(text).is_file():
            raise BrainclipError(f"{text}: no such file")
    from brainclip.model import load

    model = load(asked.model)
    counts = f"{kinds.count('text')} texts and {kinds.count('file')} files"
    if asked.dry_run:
        return f"embed: would embed {counts} with {model.name} into {asked.out}"
    import numpy as np

    from brainclip.embedding.embedded import embed as embed_files

    parts, rows = [], []
    for kind, some in groupby(zip(kinds, asked.inputs, strict=True), key=itemgetter(0)):
        inputs = [one for _, one in some]
        if kind == "text":
            parts.append(model.embed_text(inputs).numpy())
            rows += [(text, "text", "", np.nan) for text in inputs]
            continue
        found = embed_files(
            inputs,
            model=model,
            contrast=asked.contrast,
            every_mm=asked.every,
            strip=asked.strip,
            device=asked.device,
            progress=True,
        )
        warn(found.warnings)
        parts.append(found.embeddings.numpy())
        given = {str(Path(text)): text for text in inputs}
        for one in found.samples:
            place = one.facts.position_mm
            rows.append(
                (given[one.source], "image", one.facts.plane or "", np.nan if place is None else place)
            )
    made = np.concatenate(parts)
    sources, row_kinds, planes, places = zip(*rows, strict=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = asked.out.with_name(f".{asked.out.name}.tmp")
    with unfinished.open("wb") as file:
        np.savez(
            file,
            embeddings=made,
            inputs=np.array(sources),
            kinds=np.array(row_kinds),
            planes=np.array(planes),
            positions_mm=np.array(places, dtype=np.float32),
            model=np.array(model.name),
        )
    unfinished.replace(asked.out)
    return f"embed: {asked.out} ({counts}, {len(made)} rows of {made.shape[1]} numbers, {model.name})"


def _embed_folder(asked: argparse.Namespace) -> str:
    from brainclip.embedding.cohort import embed_folder
    from brainclip.model import load

    model = load(asked.model)
    counts = embed_folder(
        Path(asked.inputs[0]),
        asked.out,
        model=model,
        source=asked.source,
        masks=asked.masks,
        every_mm=asked.every,
        strip=asked.strip,
        splits=asked.split,
        limit=asked.limit,
        workers=asked.workers,
        device=asked.device,
        dry_run=asked.dry_run,
    )
    if asked.dry_run:
        return f"embed: would embed {counts['units']} visits with {model.name} into {asked.out}"
    already = "already complete, " if counts.get("already") else ""
    return (
        f"embed: {asked.out} ({already}{counts['slices']} slices of {counts['people']} people, "
        f"{counts['left_out']} scans left out, {model.name})"
    )


def embed_report(asked: argparse.Namespace) -> str:
    from brainclip.config import read_recipe
    from brainclip.evaluate.embedding_study import EmbeddingRecipe, run_embedding_study

    recipe = read_recipe(EmbeddingRecipe, asked.recipe, asked.overrides)
    if asked.dry_run:
        return f"embed-report: would measure {recipe.model} on {', '.join(recipe.pairs)} in {recipe.folder}"
    return f"embed-report: {run_embedding_study(recipe)}"
