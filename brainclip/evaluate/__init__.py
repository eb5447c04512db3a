"""Evaluation of a trained recipe by a judge and by measures of its parts, with times and contact sheets."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainclip.config import Recipe, as_dict, load_recipe
from brainclip.errors import BrainclipError
from brainclip.train.checks import check_stage
from brainclip.weights import hash_file, read_json

if TYPE_CHECKING:
    from brainclip.data import PairDataset
    from brainclip.model import BrainCLIP

SPLITS = ("validation", "test")


def evaluate(
    recipe_path: Path | str,
    *,
    overrides: list[str] | tuple[str, ...] = (),
    out: Path | str | None = None,
    prompts: int = 200,
    split: str = "test",
    timed: bool = True,
    dry_run: bool = False,
) -> str:
    """A line of result of <folder>/model on a held-out split. Trains the judge first if it is not there.

    Writes report.json, report.md, report.html (with all pictures in it), contact_sheet.png, misses.png,
    adapter_<name>.png and plots/ into `out` (<folder>/evaluate). Each finished part and each picture is kept,
    so a stopped evaluation goes on where it was. split: "validation" to choose by, "test" to report. timed:
    False leaves out the times of pictures, which take a minute. RecipeError for a faulty recipe, WeightsError
    and PairsError for what is not yet made.
    """
    recipe = load_recipe(recipe_path, overrides)
    if split not in SPLITS:
        raise BrainclipError(f"split {split!r}; a model is evaluated on: {', '.join(SPLITS)}")
    if prompts < 1:
        raise BrainclipError(f"{prompts} prompts; at least one is needed")
    check_stage(recipe, "judge")
    if recipe.evaluate.radiomics:
        from brainclip.evaluate.radiomics import check_radiomics

        check_radiomics()
    if recipe.segmenter.mix:
        check_stage(recipe, "segmenter")
    folder = Path(out) if out is not None else Path(recipe.folder) / "evaluate"
    if dry_run:
        judge = json.dumps(as_dict(recipe.judge))
        return f"evaluate: would write {folder} on the {split} split with {prompts} prompts; judge {judge}"
    return _evaluate(recipe, folder, prompts, split, timed)


def _evaluate(recipe: Recipe, folder: Path, prompts: int, split: str, timed: bool) -> str:
    from brainclip.data import PairDataset, training_data
    from brainclip.evaluate.adherence import adherence, compare_adapters, judge_scores, seeds_of
    from brainclip.evaluate.anatomy import anatomy
    from brainclip.evaluate.embeddings import embeddings
    from brainclip.evaluate.features import FILES, FeatureFolder, extractors
    from brainclip.evaluate.judge import Judge, train_judge
    from brainclip.evaluate.matched import Matched, match
    from brainclip.evaluate.memorisation_study import memorised
    from brainclip.evaluate.parts import Parts
    from brainclip.evaluate.pictures import code_hash, generated, identity, tables_of
    from brainclip.evaluate.prompts import prompts as evaluation_prompts
    from brainclip.evaluate.realism import distributions, greys, radiomics, textures
    from brainclip.evaluate.reconstruction import reconstruction
    from brainclip.evaluate.report import write_report
    from brainclip.evaluate.retrieval import retrieval
    from brainclip.evaluate.similarity import neighbour_sheet, similarities
    from brainclip.evaluate.timing import timing
    from brainclip.evaluate.zero_shot import zero_shot
    from brainclip.model import load

    model = load(Path(recipe.folder) / "model")
    data = PairDataset([recipe.pairs_folder(name) for name in recipe.pairs], split)
    train_judge(recipe)
    judge = Judge.load(Path(recipe.folder) / "judge")
    made_by, pictures, code = identity(model), folder / "pictures", code_hash()
    judged_by = [made_by, judge.hash, data.hash, split, prompts]
    asked = evaluation_prompts(prompts, modalities=model.card["modalities"])
    files = [hash_file(Path(path)) if (path := getattr(recipe.evaluate, name)) else "" for name in FILES]

    part, seen = Parts(folder / "parts", code), FeatureFolder(folder / "features")
    networks = extractors(model.clip, judge, recipe.evaluate)

    def adhered() -> dict[str, Any]:
        return adherence(model, judge, recipe, data, asked, pictures)

    def compared() -> dict[str, Any]:
        return compare_adapters(model, judge, recipe, data, pictures, n=max(1, prompts // 4))

    def embedded() -> dict[str, Any]:
        return embeddings(
            model, data, training_data(recipe, recipe.prior), Path(recipe.folder) / "embeddings"
        )

    def reconstructed() -> dict[str, Any]:
        return reconstruction(model.decoder, data)

    @cache
    def matched() -> Matched:
        made = generated(model, [row.text for row in asked], seeds_of(asked), pictures)
        folders = [[recipe.pairs_folder(n) for n in tables_of(recipe, name)] for name in made.adapters]
        return match(made.images, asked, folders, data, PairDataset(data.folders, "train"))

    def distributed() -> dict[str, Any]:
        return distributions(matched(), networks, seen)

    def compared_by_facts() -> dict[str, Any]:
        return similarities(matched(), networks, seen)

    report: dict[str, Any] = {
        "model": model.name,
        "clip": model.clip.hash,
        "split": split,
        "slices": {f.name: int((data.folder_of == k).sum()) for k, f in enumerate(data.folders)},
        "subjects": {f.name: data.datasets[k]["subjects"][split] for k, f in enumerate(data.folders)},
        "simulated": [f.name for k, f in enumerate(data.folders) if data.datasets[k]["synthetic"]],
        "pairs": data.hash,
        "interval": "95 %: Wilson or bootstrap; over subjects for held-out slices; of times the extremes",
        "judge": {
            "hash": judge.hash,
            "trained_on": list(recipe.judge.mix),
            "note": "sagittal positions are judged as the distance from the midline",
        }
        | part("judge", [judge.hash, data.hash, split], lambda: judge_scores(judge, data)),
        "adherence": part("adherence", judged_by, adhered),
        "adapters": part("adapters", judged_by, compared),
        "distribution": part("distribution", [*judged_by, files], distributed),
        "similarity": part("similarity", [*judged_by, files], compared_by_facts),
        "grey": part("grey", judged_by, lambda: greys(matched())),
        "texture": part("texture", judged_by, lambda: textures(matched())),
        "radiomics": part("radiomics", judged_by, lambda: radiomics(matched()))
        if recipe.evaluate.radiomics
        else {},
        "memorisation": memorised(Path(recipe.evaluate.memorisation), model.name, folder)
        if recipe.evaluate.memorisation
        else {},
        "retrieval": part("retrieval", [made_by, data.hash, split], lambda: retrieval(model.clip, data)),
        "zero_shot": part("zero_shot", [made_by, data.hash, split], lambda: zero_shot(model.clip, data)),
        "embeddings": part("embeddings", [made_by, data.hash, split, recipe.prior.mix], embedded),
        "reconstruction": part("reconstruction", [made_by, data.hash, split], reconstructed),
    }
    if recipe.segmenter.mix:
        labelled = PairDataset([recipe.pairs_folder(name) for name in recipe.segmenter.mix], split)
        inputs = [made_by, labelled.hash, split, as_dict(recipe.segmenter)]
        report["anatomy"] = part("anatomy", inputs, lambda: anatomy(model, recipe, labelled, folder))
    if timed:
        report["timing"] = part("timing", [made_by], lambda: timing(model))
    _sheets(model, recipe, data, report["adherence"]["records"], folder)
    near, sets = report["similarity"]["clip"]["neighbours"], matched()
    neighbour_sheet(near, sets.made, sets.real, [row.text for row in asked], folder / "neighbours.png")
    report |= {"parts": part.times, "features": seen.times}
    write_report(report, folder)
    found = report["adherence"]["generated"]
    names = ("plane", "contrast", "position", "age_order")
    line = ", ".join(f"{name} {found[name]['value']}" for name in names)
    cold = f"; cold picture {report['timing']['cold']['seconds']['value']:.1f} s" if timed else ""
    return f"evaluate: {folder / 'report.json'} ({line}; {prompts} prompts{cold})"


def _sheets(
    model: BrainCLIP, recipe: Recipe, data: PairDataset, records: list[dict[str, Any]], folder: Path
) -> None:
    """contact_sheet.png, misses.png (up to 24 pictures that the judge refused) and adapter_<name>.png."""
    from brainclip.evaluate.prompts import Asked
    from brainclip.evaluate.sheet import contact_sheet, sheet_prompts

    contact_sheet(model, recipe, data, folder / "contact_sheet.png", folder / "pictures")
    missed = [record for record in records if record["missed"]][:24]
    (folder / "misses.png").unlink(missing_ok=True)
    if missed:
        asked, seeds = [Asked(**record["asked"]) for record in missed], [record["seed"] for record in missed]
        path = folder / "misses.png"
        contact_sheet(model, recipe, data, path, folder / "pictures", asked=asked, seeds=seeds)
    for name in model.adapters:
        card = read_json(model.folder / "decoder" / "adapters" / name / "adapter.json")
        asked = sheet_prompts(card["modalities"])
        path = folder / f"adapter_{name}.png"
        contact_sheet(model, recipe, data, path, folder / "pictures", asked=asked, adapter=name)
