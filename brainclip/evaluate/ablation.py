"""Ablation: ways to make the decoder at equal budget, over seeds, and what its embedding may come from.

Each variant and seed is a run folder of its own, into which the parent's finished stages are linked. A second
call goes on with what is missing; report.json and report.md at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from atlas.prompt import read_prompt
from brainclip.config import Recipe, as_dict, load_recipe
from brainclip.data import PairDataset, training_data
from brainclip.errors import RecipeError
from brainclip.evaluate.adherence import scores
from brainclip.evaluate.distribution import distribution
from brainclip.evaluate.embeddings import baseline_embeddings, prior_samples
from brainclip.evaluate.judge import Judge
from brainclip.evaluate.prompts import Asked, prompts
from brainclip.evaluate.wanted import wanted_of
from brainclip.model import BrainCLIP, load
from brainclip.prior import nearest_to
from brainclip.train.assemble import assemble
from brainclip.train.checks import check_stage
from brainclip.train.decoder import train_adapter, train_decoder
from brainclip.weights import read_json, write_json

LINKED = ("pairs", "clip", "vae", "prior", "judge", "embeddings")
LEFT = ("adapters", "samples", "state.pt", "log.jsonl", "run.json")  # of the parent's decoder
EMBEDDINGS = (
    *("prior_sample", "prior_nearest_of_8", "prior_mean_of_8"),
    *("ridge", "nearest_neighbour", "text_embedding", "mean_embedding"),
)
ADHERED, APART = ("plane", "position", "age_error"), ("fid", "kid", "vendi")
HEADS = {
    "plane": "plane right",
    "position": "within 8 mm",
    "age_error": "age error, years",
    "fid": "FID",
    "kid": "KID",
    "vendi": "diversity (Vendi)",
}
SEED = 15
NEAREST = 4  # held-out slices, each of another subject, beside a picture
REAL = "training slices"  # the row that shows what the figures can be


@dataclass(frozen=True)
class Variant:
    """One way to a picture. set: changes of the recipe, as --set takes them. adapter: train this adapter over
    the parent's decoder, instead of a decoder. embedding: what the decoder is given, one of EMBEDDINGS;
    whoever names it trains nothing and uses the parent's model as it is."""

    set: tuple[str, ...] = ()
    adapter: str = ""
    embedding: str = ""


@dataclass(frozen=True)
class AblationRecipe:
    """recipe, parent: a recipe, and the run folder that it made. common: changes for all variants. seeds: of
    the trainings, and of the pictures. prompts: pictures of each run, of these contrasts, beside as many
    slices of the pairs `real` and the split."""

    folder: str = "runs/ablation"
    recipe: str = "recipes/mini_age.toml"
    parent: str = "runs/mini-age"
    common: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    prompts: int = 120
    modalities: tuple[str, ...] = ("T1",)
    split: str = "validation"
    real: str = "ixi"
    variant: dict[str, Variant] = field(default_factory=dict)


def check_ablation(recipe: AblationRecipe) -> None:
    """RecipeError for variants that no run can be made of."""
    if not (recipe.variant and recipe.seeds and recipe.prompts > 0):
        raise RecipeError("an ablation needs a [variant.<name>], seeds and 1 prompt or more")
    for name, variant in recipe.variant.items():
        if variant.embedding and (variant.embedding not in EMBEDDINGS or variant.adapter or variant.set):
            raise RecipeError(
                f"variant {name!r}: embedding = {variant.embedding!r} stands alone and is one of "
                f"{', '.join(EMBEDDINGS)}"
            )
        if not variant.embedding:
            made = _recipe(recipe, variant, Path(recipe.folder) / name, recipe.seeds[0])
            check_stage(made, "decoder", adapter=variant.adapter or None)


def run_ablation(recipe: AblationRecipe) -> dict[str, Any]:
    """Variant -> figure -> one value a seed; report.json and report.md in the recipe's folder.

    RecipeError for an unknown embedding or adapter, and for a folder made with another recipe.
    """
    folder, parent = Path(recipe.folder), Path(recipe.parent)
    check_ablation(recipe)
    if not (parent / "model" / "brainclip.json").is_file():
        raise RecipeError(
            f"{parent}: no finished run of {recipe.recipe} (no model/brainclip.json); make it first"
        )
    (parent / "embeddings").mkdir(exist_ok=True)
    asked = as_dict(recipe) | {"folder": ""}
    if (folder / "recipe.json").exists() and read_json(folder / "recipe.json") != asked:
        raise RecipeError(f"{folder}: made with another recipe; remove it or set another folder")
    write_json(folder / "recipe.json", asked)
    wanted = prompts(recipe.prompts, modalities=recipe.modalities)
    rows = []
    for seed in recipe.seeds:  # so that every variant has one seed before any has two
        for name, variant in recipe.variant.items():
            run = folder / f"{name}-{seed}"
            if not (run / "figures.json").is_file():
                found = _figures(recipe, parent, run, variant, seed, wanted)
                write_json(run / "figures.json", found)
            rows.append({"variant": name, "seed": seed} | read_json(run / "figures.json"))
    report: dict[str, dict[str, list[Any]]] = {
        name: {key: [row[key] for row in rows if row["variant"] == name] for key in (*ADHERED, *APART)}
        for name in recipe.variant
    }
    report[REAL] = _of_training_slices(recipe, parent, wanted)
    write_json(folder / "report.json", report)
    (folder / "report.md").write_text(as_markdown(report, recipe), encoding="utf-8")
    return report


def _figures(
    recipe: AblationRecipe, parent: Path, run: Path, variant: Variant, seed: int, asked: Sequence[Asked]
) -> dict[str, float]:
    """The figures of one run: trained if it has to be, and its pictures judged."""
    if variant.embedding:
        model = load(parent / "model")
    else:
        model = load(_trained(recipe, parent, run, variant, seed))
    path = run / "pictures.npy"
    if not path.is_file():
        run.mkdir(parents=True, exist_ok=True)
        np.save(path, _pictures(recipe, parent, model, variant, seed, asked))
    images = torch.from_numpy(np.load(path))[:, None]
    real = PairDataset([parent / "pairs" / recipe.real], recipe.split)
    return figures(Judge.load(parent / "judge"), images, asked, real)


def _of_training_slices(
    recipe: AblationRecipe, parent: Path, asked: Sequence[Asked]
) -> dict[str, list[float]]:
    """The same figures of real training slices, one at each prompt's place, of subjects drawn at random."""
    training = PairDataset([parent / "pairs" / recipe.real], "train")
    real = PairDataset([parent / "pairs" / recipe.real], recipe.split)
    draw = np.random.default_rng(SEED)
    rows = [draw.choice(nearest_places(training, [row], each=8 * NEAREST)) for row in asked]
    facts = [training.pairs[row].facts for row in rows]
    as_asked = [replace(row, age=fact.known.get("age")) for row, fact in zip(asked, facts, strict=True)]
    found = figures(Judge.load(parent / "judge"), training.images(rows), as_asked, real)
    return {key: [value] for key, value in found.items()}


def _trained(recipe: AblationRecipe, parent: Path, run: Path, variant: Variant, seed: int) -> Path:
    """The model folder of a variant's training with this seed."""
    run.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        if not (run / name).exists():
            (run / name).symlink_to((parent / name).resolve(), target_is_directory=True)
    made = _recipe(recipe, variant, run, seed)
    if variant.adapter:
        if not (run / "decoder" / "contract.json").is_file():
            left = shutil.ignore_patterns(*LEFT)
            shutil.copytree(parent / "decoder", run / "decoder", ignore=left, dirs_exist_ok=True)
        train_adapter(made, variant.adapter)
    else:
        train_decoder(made)
    return assemble(made)


def _recipe(recipe: AblationRecipe, variant: Variant, run: Path, seed: int) -> Recipe:
    """The recipe of a variant's training with this seed."""
    stage = f"adapter.{variant.adapter}" if variant.adapter else "decoder"
    changes = [*recipe.common, *variant.set, f"folder={run}", f"{stage}.seed={seed}"]
    return load_recipe(recipe.recipe, changes)


def _pictures(
    recipe: AblationRecipe,
    parent: Path,
    model: BrainCLIP,
    variant: Variant,
    seed: int,
    asked: Sequence[Asked],
) -> np.ndarray:
    """(N, H, W) slices for the prompts: of the variant's adapter, or of the base; of the parent's model those
    that it would make."""
    seeds = [seed * len(asked) + k for k in range(len(asked))]
    read = [read_prompt(row.text) for row in asked]
    captions = [model.caption(prompt, k) for prompt, k in zip(read, seeds, strict=True)]
    settings = model.card["generate"]
    if variant.embedding:
        made = load_recipe(recipe.recipe, [f"folder={parent}"])
        kept = Path(recipe.folder) / f"embeddings-{seed}.safetensors"  # the variants of a seed share them
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file(_embeddings(made, model, captions), kept)
        embeddings = load_file(kept)
        chosen, adapters = (
            embeddings[variant.embedding],
            [model.adapter_for(prompt, "auto") for prompt in read],
        )
    else:
        with torch.inference_mode():
            chosen = model.prior.sample(
                model.clip,
                captions,
                seeds,
                steps=settings["prior_steps"],
                guidance=settings["prior_guidance"],
                age_guidance=settings.get("prior_age_guidance"),
            )
        adapters = [{variant.adapter: 1.0} if variant.adapter else {}] * len(asked)
    return model.decode(chosen, seeds, captions, adapters=adapters)


@torch.no_grad()
def _embeddings(made: Recipe, model: BrainCLIP, captions: Sequence[str]) -> dict[str, Tensor]:
    """(N, D) image embeddings for the captions, by each of EMBEDDINGS."""
    text = model.embed_text(captions)
    training = training_data(made, made.prior)
    samples = prior_samples(model, captions)
    found = {
        "prior_sample": samples[0],
        "prior_nearest_of_8": nearest_to(text, samples),
        "prior_mean_of_8": samples.mean(0),
    }
    found |= baseline_embeddings(model.clip, training, Path(made.folder) / "embeddings", text)[0]
    return {name: functional.normalize(rows, dim=1).contiguous() for name, rows in found.items()}


def figures(judge: Judge, images: Tensor, asked: Sequence[Asked], real: PairDataset) -> dict[str, float]:
    """What the judge says of pictures (N, 1, H, W) for the prompts, and how far they are, in its features,
    from the slices of `real` that are nearest to each prompt."""
    found = scores(judge.verdicts(images), wanted_of(asked))
    rows = nearest_places(real, asked, each=NEAREST)
    people = np.array([real.pairs[row].subject for row in rows])
    apart = distribution(features(judge, real.images(rows)), features(judge, images), people)
    adhered = {key: float(found[key]["value"]) for key in ADHERED}
    return adhered | {key: float(apart[key]["value"]) for key in APART}


@torch.no_grad()
def features(judge: Judge, images: Tensor) -> np.ndarray:
    """(N, D) the judge's last layer before its answers."""
    parts = [judge.features(images[i : i + 256]) for i in range(0, len(images), 256)]
    return torch.cat(parts).numpy()


def nearest_places(data: PairDataset, asked: Sequence[Asked], *, each: int) -> np.ndarray:
    """Rows of the slices of plane and contrast nearest to each prompt's place, each of another subject."""
    chosen: list[int] = []
    for row in asked:
        same = [
            (abs(float(pair.facts.position_mm or 0) - row.position_mm), index)
            for index, pair in enumerate(data.pairs)
            if (pair.facts.plane, pair.facts.modality) == (row.plane, row.modality)
        ]
        people: set[str] = set()
        for _, index in sorted(same):
            if len(people) < each and data.pairs[index].subject not in people:
                people.add(data.pairs[index].subject)
                chosen.append(index)
    return np.unique(chosen)


def as_markdown(report: dict[str, Any], recipe: AblationRecipe) -> str:
    """The report as a table: mean over the seeds, and the lowest and highest."""
    heads = ["variant", *(HEADS[key] for key in (*ADHERED, *APART))]
    lines = [
        f"# Ablation, {recipe.prompts} prompts ({', '.join(recipe.modalities)}) a run, {recipe.split} split",
        "",
        f"Mean of the seeds {', '.join(map(str, recipe.seeds))} (lowest to highest). FID, KID and diversity "
        f"in the judge's features, against slices of {recipe.real} at the same places.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for name, found in report.items():
        lines.append(f"| {name} | {' | '.join(_shown(found[key]) for key in (*ADHERED, *APART))} |")
    return "\n".join(lines) + "\n"


def _shown(values: Sequence[float]) -> str:
    if min(values) == max(values):
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
