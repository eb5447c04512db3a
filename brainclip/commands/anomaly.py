"""Verbs: what is not as in healthy people."""

from __future__ import annotations

import argparse
from pathlib import Path

from brainclip.commands.arguments import AddVerb, above_zero, add_recipe
from brainclip.commands.model import warn
from brainclip.errors import BrainclipError

ENDINGS = (".nii.gz", ".nii")


def add_verbs(verb: AddVerb) -> None:
    anomaly_verb = verb("anomaly", anomaly, "where a scan is unlike those of healthy people")
    anomaly_verb.add_argument("scan", type=Path, metavar="SCAN", help="a volume, whole head or brain")
    anomaly_verb.add_argument(
        "--reference", type=Path, required=True, help="folder that anomaly-reference has written"
    )
    anomaly_verb.add_argument("--modality", choices=("T1", "T2", "PD", "FLAIR"), default="T1", help="(T1)")
    anomaly_verb.add_argument("--model", default="mini", help="name, folder or hub id (mini)")
    anomaly_verb.add_argument("--mask", type=Path, help="of the brain; default: it is found")
    anomaly_verb.add_argument("--age", type=above_zero, help="years")
    anomaly_verb.add_argument("--sex", choices=("female", "male"))
    anomaly_verb.add_argument(
        "--map", choices=("cohort z", "decoder"), default="cohort z", dest="by", help="whose map (cohort z)"
    )
    anomaly_verb.add_argument(
        "--out", type=Path, help="map to write, .nii.gz; default: SCAN-anomaly.nii.gz here; a PNG beside it"
    )

    reference_verb = verb(
        "anomaly-reference", anomaly_reference, "fit the detectors that `anomaly` compares a scan with"
    )
    add_recipe(reference_verb, "recipes/anomaly.toml")
    reference_verb.add_argument(
        "--out", type=Path, help="folder to write; default: reference/ in the recipe's folder"
    )

    study_verb = verb(
        "anomaly-study", anomaly_study, "measure detectors of lesions on simulated and real ones"
    )
    add_recipe(study_verb, "recipes/anomaly.toml")


def anomaly(asked: argparse.Namespace) -> str:
    from atlas.slices import Geometry
    from atlas.volume import check_ending, save_volume
    from brainclip.anomaly.look import look, on_grid_of, picture
    from brainclip.anomaly.reference import read_reference
    from brainclip.anomaly.scan import prepare
    from brainclip.model import load

    out = asked.out or Path(f"{_stem(asked.scan)}-anomaly.nii.gz")
    check_ending(out)
    if not asked.scan.is_file():
        raise BrainclipError(f"{asked.scan}: no such file")
    if out.resolve() in [path.resolve() for path in (asked.scan, asked.mask) if path]:
        raise BrainclipError(f"--out {out}: is what the map is made of; give another name")
    model = load(asked.model)
    source = read_reference(asked.reference, model, asked.modality, "axial").source
    if asked.dry_run:
        return f"anomaly: would compare {asked.scan} with healthy people of {source} and write {out}"
    geometry = Geometry(model.size, float(model.card["spacing_mm"]))
    scan = prepare(asked.scan, asked.modality, geometry, mask=asked.mask, age=asked.age, sex=asked.sex)
    found = look(model, asked.reference, scan, by=asked.by)
    warn(found.warnings(asked.modality))
    save_volume(on_grid_of(asked.scan, found, by=asked.by), out)
    png = out.with_name(f"{_stem(out)}.png")
    picture(found, asked.scan.name, png, by=asked.by)
    told = "; ".join(found.said(name) for name in found.p)
    return f"anomaly: {out}, {png} ({told}; compared with {found.people} people of {found.source})"


def _stem(path: Path) -> str:
    ending = next((end for end in ENDINGS if path.name.endswith(end)), path.suffix)
    return path.name.removesuffix(ending)


def anomaly_reference(asked: argparse.Namespace) -> str:
    from brainclip.anomaly.recipe import AnomalyRecipe
    from brainclip.anomaly.reference import write_reference
    from brainclip.config import read_recipe

    recipe = read_recipe(AnomalyRecipe, asked.recipe, asked.overrides)
    recipe.check()
    out = asked.out or Path(recipe.folder) / "reference"
    if asked.dry_run:
        return f"anomaly-reference: would fit detectors to {', '.join(recipe.pairs)} and write {out}"
    return f"anomaly-reference: {out} ({write_reference(recipe, out)} files)"


def anomaly_study(asked: argparse.Namespace) -> str:
    from brainclip.anomaly.recipe import AnomalyRecipe
    from brainclip.anomaly.report import write_report
    from brainclip.anomaly.study import Study
    from brainclip.config import read_recipe

    recipe = read_recipe(AnomalyRecipe, asked.recipe, asked.overrides)
    study = Study(recipe)
    if asked.dry_run:
        return f"anomaly-study: would compare {len(study.methods)} detectors in {recipe.folder}"
    study.run()
    return f"anomaly-study: {recipe.folder}/report.md ({write_report(study)})"
