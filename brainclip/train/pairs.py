"""Stage pairs of a recipe: simulate the cohort if a table asks for it, then write every pairs folder."""

from __future__ import annotations

from pathlib import Path

from atlas.pairs import write_pairs
from atlas.simulate import write_cohort
from atlas.slices import Geometry
from brainclip.config import Recipe
from brainclip.train.checks import check_pairs


def make_pairs(recipe: Recipe) -> str:
    """A line of result; <folder>/pairs/<name> is written for each [pairs.<name>] table."""
    check_pairs(recipe)
    lines = []
    for name, table in recipe.pairs.items():
        scans = table.input
        if not scans:
            cohort = Path(recipe.folder) / "cohort"
            simulate = recipe.simulate
            write_cohort(
                cohort,
                subjects=simulate.subjects,
                spacing_mm=simulate.spacing_mm,
                seed=simulate.seed,
                anatomies=Path(simulate.anatomies) if simulate.anatomies else None,
                workers=simulate.workers,
            )
            scans = str(cohort)
        summary = write_pairs(
            table.source,
            Path(scans),
            recipe.pairs_folder(name),
            geometry=Geometry(recipe.size, recipe.spacing_mm),
            every_mm=table.every_mm,
            seed=table.seed,
            workers=table.workers,
            masks=Path(table.masks) if table.masks else None,
            modalities=table.modalities or None,
            limit=table.limit or None,
            keep=table.keep,
            nonlinear=table.nonlinear,
            strip=table.strip,
            denoise=table.denoise,
            least_similarity=table.least_similarity,
            least_overlap=table.least_overlap,
            dask=table.dask or None,
            shards=table.shards,
        )
        lines.append(f"{name} {summary['pairs']} pairs, {summary['rejected']} rejected")
    return f"pairs: {Path(recipe.folder) / 'pairs'}: " + "; ".join(lines)
