"""Verbs: what the embedding space knows of a slice: others like it, and what it shows."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brainclip.commands.arguments import (
    CONTRASTS,
    FILES,
    SPLITS,
    AddVerb,
    add_model,
    at_least_one,
    check_text,
    warn,
)
from brainclip.errors import BrainclipError

if TYPE_CHECKING:
    from brainclip.embedding.index import Hit

SHOWN = 3  # hits named on the line of result


def add_verbs(verb: AddVerb) -> None:
    index_verb = verb("index", index, "make a searchable index of embedded slices")
    index_verb.add_argument(
        "input",
        type=Path,
        metavar="X.parquet|PAIRS",
        help="that `brainclip embed` made, or a folder of pairs",
    )
    index_verb.add_argument("--out", type=Path, required=True, metavar="INDEX", help="folder to write")
    index_verb.add_argument("--split", nargs="+", choices=SPLITS, default=[], help="of pairs; default: all")
    index_verb.add_argument("--captions", action="store_true", help="embed the captions, too")
    index_verb.add_argument(
        "--faiss", action="store_true", help="an inverted file as well, for millions of slices; not exact"
    )
    add_model(index_verb)

    search_verb = verb("search", search, "find the slices of an index nearest to a sentence or to a slice")
    search_verb.add_argument("query", metavar="TEXT|FILE", help="a sentence, or a slice")
    search_verb.add_argument("--index", type=Path, required=True, metavar="INDEX")
    search_verb.add_argument("--k", type=at_least_one, default=10, help="results (10)")
    search_verb.add_argument(
        "--strict",
        action="store_true",
        help="only slices whose known facts agree with the sentence: plane, contrast, level, sex, age, sizes",
    )
    search_verb.add_argument("--once", action="store_true", help="only the nearest slice of each person")
    search_verb.add_argument("--captions", action="store_true", help="find captions of the index instead")
    search_verb.add_argument("--out", type=Path, help="x.csv: all results; x.png: the slices found")
    add_model(search_verb)
    search_verb.add_argument("--contrast", choices=CONTRASTS, help="of a slice, where it is known")

    caption_verb = verb("caption", caption, "say what a slice shows, and how sure that is")
    caption_verb.add_argument("input", metavar="FILE", help="a .png or NIfTI slice")
    caption_verb.add_argument(
        "--index", type=Path, metavar="INDEX", help="let its nearest slices vote, in place of captions"
    )
    caption_verb.add_argument("--out", type=Path, metavar="X.json", help="every fact with its confidence")
    add_model(caption_verb)


def index(asked: argparse.Namespace) -> str:
    from brainclip.embedding.cohort import embed_folder
    from brainclip.embedding.index import Index, faiss_module
    from brainclip.model import load

    if asked.faiss:
        faiss_module()  # before minutes of embedding
    model = load(asked.model)
    pairs = asked.input if asked.input.is_dir() else None
    if pairs and not (pairs / "dataset.json").is_file():
        raise BrainclipError(
            f"{pairs}: no folder of pairs; embed scans first: `brainclip embed {pairs} --out x.parquet`"
        )
    if not pairs and not asked.input.is_file():
        raise BrainclipError(
            f"{asked.input}: no such file; `brainclip embed FOLDER --out x.parquet` makes one"
        )
    if asked.dry_run:
        return f"index: would write {asked.out} of {asked.input} with {model.name}"
    cohort = asked.input
    if pairs:
        asked.out.mkdir(parents=True, exist_ok=True)
        cohort = asked.out / "embedded.parquet"
        embed_folder(pairs, cohort, model=model, splits=asked.split)
    made = Index.build(
        cohort, asked.out, pictures=pairs, model=model if asked.captions else None, faiss=asked.faiss
    )
    if pairs:
        cohort.unlink()  # rows.parquet is its copy
    about = made.about
    return (
        f"index: {asked.out} ({about['slices']} slices of {about['people']} people, "
        f"{about['captions']} captions, {about['model']})"
    )


def search(asked: argparse.Namespace) -> str:
    from atlas.facts import Facts
    from brainclip.embedding.index import Index, query_of
    from brainclip.embedding.readings import Readings
    from brainclip.model import load

    if asked.out and asked.out.suffix not in (".csv", ".png"):
        raise BrainclipError(f"--out {asked.out}: results are saved as .csv or .png")
    if asked.captions and asked.out and asked.out.suffix != ".csv":
        raise BrainclipError(f"--out {asked.out}: captions are saved as .csv")
    check_text(asked.query)
    found, model = Index(asked.index), load(asked.model)
    found.check(model)
    pixels, facts = None, None
    if asked.query.lower().endswith(FILES):
        from brainclip.embedding.embedded import embed as embed_files

        made = embed_files(asked.query, model=model, contrast=asked.contrast)
        warn(made.warnings)
        if len(made.samples) != 1:
            raise BrainclipError(f"{asked.query}: a volume; a query is one slice or a sentence")
        query, pixels = made.embeddings[0].numpy(), made.samples[0].pixels
    else:
        query, facts = query_of(model, asked.query)
        warn([f"{word!r} was not understood" for word in model.read(asked.query)[0].unknown])
    if asked.dry_run:
        return f"search: would look through {len(found)} slices of {asked.index}"
    if asked.captions:
        texts = found.captions(query, asked.k)
        if asked.out:
            _write_rows(asked.out, ("score", "caption"), texts)
        return "search: " + "; ".join(f"{text!r} ({score:.3f})" for score, text in texts[:SHOWN])
    sizes = None if facts is None or asked.strict else facts.sizes
    wanted = facts if asked.strict else None
    if facts is not None and not asked.strict:
        kind = Facts(plane=facts.plane, modality=facts.modality)
        there = bool(found.agreeing(kind).any())
        if not there:
            named = " ".join(filter(None, (kind.plane, kind.modality)))
            warn([f"{asked.index} has no {named} slice; these are the nearest of others"])
        elif sizes:  # or large ventricles in another contrast would come first
            wanted = kind
    hits = found.search(
        query,
        asked.k,
        facts=wanted,
        sizes=sizes,
        readings=Readings.load(model) if sizes else None,
        each_person_once=asked.once,
    )
    if not hits:
        raise BrainclipError(f"no slice of {asked.index} agrees with what was asked; leave --strict away")
    if asked.out and asked.out.suffix == ".png":
        from brainclip.embedding.sheet import save_sheet, search_sheet

        save_sheet(search_sheet(found, f"{asked.query}   [{found.about['model']}]", hits, pixels), asked.out)
    elif asked.out:
        names = ("subject", "session", "plane", "position_mm", "contrast", "level", "age", "sex", "file")
        _write_rows(
            asked.out,
            ("score", *names),
            [(f"{hit.score:.4f}", *(hit.columns[name] for name in names)) for hit in hits],
        )
    return f"search: {len(hits)} of {len(found)} slices: {_listed(hits)}"


def caption(asked: argparse.Namespace) -> str:
    from brainclip.embedding.captioning import describe
    from brainclip.embedding.embedded import embed as embed_files
    from brainclip.embedding.index import Index
    from brainclip.model import load

    if asked.out and asked.out.suffix != ".json":
        raise BrainclipError(f"--out {asked.out}: facts are saved as .json")
    if not asked.input.lower().endswith(FILES):
        raise BrainclipError(f"{asked.input}: a slice is a file that ends in {', '.join(FILES)}")
    found = Index(asked.index) if asked.index else None
    model = load(asked.model)
    if asked.dry_run:
        return f"caption: would describe {asked.input} with {model.name}"
    made = embed_files(asked.input, model=model)
    warn(made.warnings)
    if len(made.samples) != 1:
        raise BrainclipError(f"{asked.input}: a volume; a caption is of one slice")
    described = describe(model, made.embeddings[0], index=found)
    if not described.calibrated:
        warn([f"{model.name} was not calibrated, so its confidences are too high or too low"])
    if asked.out:
        from dataclasses import asdict

        from brainclip.weights import write_json

        write_json(asked.out, asdict(described) | {"model": model.name, "file": asked.input})
    sure = ", ".join(f"{one.value} {one.confidence:.0%}" for one in described.answers)
    further = []
    if described.position_mm:
        place = f"{described.position_mm[0]:+.0f} +- {described.position_mm[1]:.0f} mm"
        sagittal = described.answers[0].value == "sagittal"
        further.append(f"{place.removeprefix('+')} from the midline" if sagittal else place)
    further += [f"{described.age[0]:.0f} +- {described.age[1]:.0f} years"] if described.age else []
    return f"caption: {described.text or 'nothing is sure'} ({'; '.join([sure, *further])})"


def _listed(hits: Sequence[Hit]) -> str:
    return "; ".join(str(hit) for hit in hits[:SHOWN]) + (" ..." if len(hits) > SHOWN else "")


def _write_rows(path: Path, names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a .csv whole or not at all."""
    from atlas.files import writing_whole

    with writing_whole(path) as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
