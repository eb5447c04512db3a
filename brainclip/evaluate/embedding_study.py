"""Study of the embedding space on held-out people: classes, search, captions, brain age, speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from atlas.files import write_whole
from brainclip.config import as_dict
from brainclip.data import PairDataset
from brainclip.embedding.cohort import embed_folder
from brainclip.embedding.embedded import geometry_of
from brainclip.embedding.fingerprint import Fingerprint
from brainclip.embedding.index import Index, query_of
from brainclip.embedding.readings import Readings, fit, seen_between
from brainclip.embedding.rows import Cohort, read_cohort, together
from brainclip.embedding.sheet import save_sheet, search_sheet
from brainclip.errors import RecipeError
from brainclip.evaluate import (
    brain_age,
    embedding_facts,
    embedding_memory,
    embedding_search,
    embedding_speed,
    fingerprint_study,
)
from brainclip.evaluate.embedding_report import markdown, reliability_panels
from brainclip.evaluate.plots import reliability
from brainclip.evaluate.retrieval import retrieval
from brainclip.model import BrainCLIP, load
from brainclip.picture import read_slice, write
from brainclip.weights import read_json, write_json

STRUCTURES = ("lateral ventricles", "hippocampi")  # whose size is read from embeddings


@dataclass(frozen=True)
class EmbeddingRecipe:
    """A model, and folders of pairs with people that it was not trained on."""

    folder: str = "runs/embedding"
    model: str = "mini"
    pairs: dict[str, str] = field(default_factory=lambda: {"ixi": "runs/mini/pairs/ixi"})  # name -> folder
    age: str = "ixi"  # the pairs of which brain age is read ...
    contrast: str = "T1"  # ... in this contrast
    heads: str = ""  # IXI's whole heads (.nii.gz), for the fingerprint and memory; empty: neither
    masks: str = ""  # their brain masks
    visits: int = 32  # heads that are embedded to measure memory
    files: int = 512  # slices that speed is measured on
    searches: dict[str, str] = field(  # sentence -> the pairs in which it looks
        default_factory=lambda: {"coronal T1, enlarged ventricles": "ixi"}
    )
    like: str = "ixi"  # the pairs of which a test slice is the query of a last search


def run_embedding_study(recipe: EmbeddingRecipe) -> str:
    """Where the report is, and its first figures. What was measured before is kept in the folder, a JSON file
    for each part; remove one to measure it again.

    RecipeError for a name of pairs that is not there; PairsError and WeightsError for what cannot be read.
    """
    for name in (recipe.age, recipe.like, *recipe.searches.values()):
        if name not in recipe.pairs:
            raise RecipeError(f"{name!r} is none of the pairs: {', '.join(recipe.pairs)}")
    folder, model = Path(recipe.folder), load(recipe.model)
    cohorts = {}
    for name, pairs in recipe.pairs.items():
        path = folder / f"{name}.parquet"
        embed_folder(Path(pairs), path, model=model)
        cohorts[name] = read_cohort(path)
    parts: dict[str, Callable[[], Any]] = {
        "classes": lambda: {
            name: embedding_facts.class_figures(model, cohort, "test") for name, cohort in cohorts.items()
        },
        "retrieval": lambda: _retrieval(recipe, model, cohorts),
        "captions": lambda: _captions(model, cohorts, folder),
        "fingerprint": lambda: _fingerprint(recipe, model, folder),
        "age": lambda: brain_age.brain_age(cohorts[recipe.age], recipe.contrast),
        "searches": lambda: _searches(recipe, model, folder),
        "speed": lambda: embedding_speed.speed(model, _files(recipe)),
        "memory": lambda: _memory(recipe),
    }
    report: dict[str, Any] = {"model": model.name, "recipe": as_dict(recipe)}
    report["counts"] = {name: _counts(cohort) for name, cohort in cohorts.items()}
    for name, measure in tqdm(parts.items(), desc="embed-report", unit="part"):
        path = folder / f"{name}.json"
        if not path.is_file():
            write_json(path, {"found": measure()})
        report[name] = read_json(path)["found"]
    write_json(folder / "report.json", report)
    write_whole(folder / "embedding" / "README.md", markdown(report))
    panels = reliability(reliability_panels(report["captions"]))
    write(folder / "embedding" / "reliability.svg", panels)
    error, speed = report["age"]["test"]["error"]["value"], report["speed"]["brainclip"]["times"][0]
    return f"{folder}/embedding/README.md (brain age {error:.1f} years off, {speed:.1f} times a plain loop)"


def _counts(cohort: Cohort) -> dict[str, list[int]]:
    """Split -> people and slices."""
    split, subject = cohort.columns["split"], cohort.columns["subject"]
    return {
        name: [len(set(subject[split == name])), int((split == name).sum())]
        for name in ("train", "validation", "test")
    }


def _retrieval(recipe: EmbeddingRecipe, model: BrainCLIP, cohorts: dict[str, Cohort]) -> dict[str, Any]:
    """Sentence to slice and back, slice to slice, search for the size of the ventricles, on test people."""
    found = {}
    readings = _readings(recipe, cohorts)
    readings.save(Path(recipe.folder) / "known" / f"{model.clip.hash}.safetensors")
    for name, cohort in cohorts.items():
        data = PairDataset([Path(recipe.pairs[name])], "test")
        pair = next(iter(retrieval(model.clip, data).values()))
        found[name] = pair | {
            key: value
            for key, value in embedding_search.slice_to_slice(cohort, "test").items()
            if key != "pool"
        }
        found[name]["ventricles"] = embedding_search.ventricle_search(model, cohort, "test", readings)
    return found


def _readings(recipe: EmbeddingRecipe, cohorts: dict[str, Cohort]) -> Readings:
    """Sizes of STRUCTURES read from embeddings, learned from the training people of all pairs."""
    facts = [
        pair.facts for pairs in recipe.pairs.values() for pair in PairDataset([Path(pairs)], "train").pairs
    ]
    train = [cohort.take(cohort.columns["split"] == "train") for cohort in cohorts.values()]
    return fit(together(train), seen_between(facts, STRUCTURES), STRUCTURES)


def _train_index(cohorts: dict[str, Cohort], folder: Path, name: str) -> Index:
    """The index of a cohort's training people, made once."""
    place = folder / f"{name}-index"
    if not (place / "index.json").is_file():
        Index.build(folder / f"{name}.parquet", place)
    return Index(place)


def _captions(model: BrainCLIP, cohorts: dict[str, Cohort], folder: Path) -> dict[str, Any]:
    """Each cohort by itself: confidences fitted on validation people, measured on test people; neighbours are
    training people."""
    found: dict[str, Any] = {}
    fitted = {}
    for name, cohort in cohorts.items():
        index = _train_index(cohorts, folder, name).of_split("train")
        fitted[name] = embedding_facts.read_all(model, [cohort], "validation", index)
    together = {
        reader: {
            question: embedding_facts.joined([fitted[name][reader][question] for name in cohorts])
            for question in embedding_facts.WORDS
        }
        for reader in embedding_facts.READERS
    }
    people = ", ".join(f"{_counts(cohort)['validation'][0]} of {name}" for name, cohort in cohorts.items())
    calibration = embedding_facts.calibrated(together, model.clip.hash, f"validation people: {people}")
    calibration.save(folder / "known" / f"{model.clip.hash}.json")
    for name, cohort in cohorts.items():
        index = _train_index(cohorts, folder, name).of_split("train")
        answers = embedding_facts.read_all(model, [cohort], "test", index)
        found[name] = embedding_facts.confidence_figures(answers, calibration) | {
            "whole": embedding_facts.caption_figures(model, cohort, "test", index, calibration)
        }
    return found


def _fingerprint(recipe: EmbeddingRecipe, model: BrainCLIP, folder: Path) -> dict[str, Any]:
    """Made of training people, its limits from validation people, its rates on test people."""
    folders = [Path(name) for name in recipe.pairs.values()]
    train, validation = (PairDataset(folders, split) for split in ("train", "validation"))
    made = fingerprint_study.fitted(train, validation)
    made.save(folder / "known" / "fingerprint.npz")
    made = Fingerprint.load(folder / "known" / "fingerprint.npz")
    found: dict[str, Any] = {
        name: fingerprint_study.rates(made, PairDataset([Path(pairs)], "test"))
        for name, pairs in recipe.pairs.items()
    }
    if recipe.heads:
        names = {pair.subject for pair in PairDataset([Path(recipe.pairs[recipe.age])], "test").pairs}
        heads = [path for path in sorted(Path(recipe.heads).glob("*.nii*")) if _person(path) in names]
        found["raw_heads"] = fingerprint_study.raw_heads(made, heads, geometry_of(model))
    return found


def _person(path: Path) -> str:
    return path.name.partition("-")[0]


def _searches(recipe: EmbeddingRecipe, model: BrainCLIP, folder: Path) -> list[dict[str, Any]]:
    """The searches of the recipe among test people, each with a picture; the last one's query is a slice."""
    rows: list[dict[str, Any]] = []
    readings = Readings.read(folder / "known" / f"{model.clip.hash}.safetensors")
    for text, name in recipe.searches.items():
        index = _shown_index(recipe, folder, name, folder / f"{name}-test")
        query, facts = query_of(model, text)
        hits = index.search(query, 10, sizes=facts.sizes, readings=readings, each_person_once=True)
        title = f'"{text}" among the test people of {name}'
        save_sheet(search_sheet(index, f"search {title}", hits), _sheet(folder, rows))
        rows.append({"query": title, "hits": [str(hit) for hit in hits], "slices": len(index)})
    index = _shown_index(recipe, folder, recipe.like, folder / f"{recipe.like}-test")
    row = int(np.random.default_rng(3).integers(len(index)))
    hits = index.search(np.asarray(index.embeddings[row]), len(index))
    person = index.columns["subject"][row]
    others = [hit for hit in hits if hit.columns["subject"] != person][:9]
    name = index.columns["file"][row]
    geometry = geometry_of(model)
    pixels = read_slice(Path(recipe.pairs[recipe.like]) / name, geometry.size, geometry.spacing_mm)
    sheet = search_sheet(index, f"search {name}, slices of other people", others, pixels)
    save_sheet(sheet, _sheet(folder, rows))
    rows.append({"query": name, "hits": [str(hit) for hit in others], "slices": len(index)})
    return rows


def _sheet(folder: Path, rows: list[Any]) -> Path:
    """Where the picture of the next search goes."""
    return folder / "search" / f"{len(rows) + 1}.png"


def _shown_index(recipe: EmbeddingRecipe, folder: Path, name: str, place: Path) -> Index:
    """The index of the test people of some pairs, with pictures, made once."""
    if not (place / "index.json").is_file():
        cohort, pairs = folder / f"{name}-test.parquet", Path(recipe.pairs[name])
        embed_folder(pairs, cohort, model=load(recipe.model), splits=["test"])
        Index.build(cohort, place, pictures=pairs)
    return Index(place)


def _memory(recipe: EmbeddingRecipe) -> dict[str, Any] | None:
    """Of a cohort; None where there are no heads."""
    if not recipe.heads:
        return None
    masks = Path(recipe.masks) if recipe.masks else None
    return embedding_memory.cohort_memory(recipe.model, Path(recipe.heads), "ixi", masks, recipe.visits)


def _files(recipe: EmbeddingRecipe) -> list[Path]:
    """Test slices on disk, for the measure of speed."""
    folder = Path(recipe.pairs[recipe.age])
    files = [folder / pair.file_name for pair in PairDataset([folder], "test").pairs]
    chosen = np.random.default_rng(0).permutation(len(files))[: recipe.files]
    return [files[row] for row in np.sort(chosen)]
