"""Verbs: what is not as in healthy people."""

from __future__ import annotations

import argparse

from brainclip.commands.arguments import AddVerb, add_recipe


def add_verbs(verb: AddVerb) -> None:
    study_verb = verb(
        "anomaly-study", anomaly_study, "measure detectors of lesions on simulated and real ones"
    )
    add_recipe(study_verb, "recipes/anomaly.toml")


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
    best = write_report(study)
    return f"anomaly-study: {recipe.folder}/report.md ({best})"
