"""Similarity: how pictures lie among real slices in the space of a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import cloud, intervals, shades
from brainclip.evaluate.sections.words import said, told_apart

KINDS = {"made": "generated with held-out", "real": "held-out with those of other people"}
FLOORS = (
    "The floor is the mark for the classifier, not 0.5: the networks were trained on its people, "
    "and matching slices lie at slightly other places."
)
NO_UMAP = "No UMAP: umap-learn is not installed; `pip install brainclip[umap]` adds it."


def section(report: dict[str, Any]) -> Section | None:
    """Of each network cosines by facts, neighbours, classifier, places on a plane; tables of the first."""
    part = report["similarity"]
    if not part:
        return None
    blocks: list[Table | Picture | str] = []
    for number, (name, found) in enumerate(part.items()):
        by = f"{name} {found['hash']}"
        means = {"equal facts": found["equal"]}
        means |= {f"another {facet}": figures for facet, figures in found["other"].items()}
        plotted = {row: {KINDS[kind]: figures[kind] for kind in KINDS} for row, figures in means.items()}
        caption = (
            f"Mean cosine in the standardised features of {by}: pairs with equal facts, and with one other"
        )
        blocks += [
            Picture(f"plots/cosines_{name}.svg", caption, intervals(plotted, f"cosine by {name}")),
            Table(
                [f"mean cosine by {by}", *KINDS.values()],
                [[row, *(figures[kind] for kind in KINDS)] for row, figures in means.items()],
                folded=True,
            ),
            Table(
                [
                    f"nearest held-out slice by {by} has the same",
                    "of a generated one",
                    "of another held-out person's",
                ],
                [
                    [facet, *(found["nearest"][kind][facet] for kind in KINDS)]
                    for facet in found["nearest"]["made"]
                ],
            ),
            Table(
                [f"told from held-out slices by {by}", "generated", "slices of other people (floor)"],
                [
                    [key, *(found["classifier"][kind][key] for kind in ("made", "floor"))]
                    for key in ("auc", "accuracy")
                ],
            ),
            *_places(name, found),
            *(_tables(name, found) if number == 0 else ()),
        ]
    blocks.append(Picture("neighbours.png", "Pictures beside the held-out slice nearest to them by the CLIP"))
    blocks.append(FLOORS)
    if any(found["umap"] is None for found in part.values()):
        blocks.append(NO_UMAP)
    sentences = [_sentence(name, found) for name, found in part.items()]
    return Section("similarity", "Among held-out slices, by their facts", " ".join(sentences), blocks)


def _places(name: str, found: dict[str, Any]) -> list[Picture]:
    """Clouds of generated and held-out slices, coloured by contrast."""
    pictures = []
    for method in ("pca", "umap"):
        if (places := found[method]) is None:
            continue
        sets = [
            (text, np.array(places[kind]), np.array(found["modality"][kind]))
            for kind, text in (("made", "generated"), ("real", "held-out"))
        ]
        variance = [f", {share:.0%} of variance" for share in places.get("variance", ())] or ["", ""]
        axes = tuple(f"{method.upper()} {k + 1}{text}" for k, text in enumerate(variance))
        what = f"{method.upper()} of the features of {name} {found['hash']}: generated filled, held-out open"
        pictures.append(Picture(f"plots/{method}_{name}.svg", what, cloud(sets, (axes[0], axes[1]))))
    return pictures


def _tables(name: str, found: dict[str, Any]) -> list[Picture]:
    """Mean cosines by the values of each facet."""
    pictures = []
    for facet, part in found["tables"].items():
        tables = {KINDS[kind]: np.array(part[kind], dtype=float) for kind in KINDS}
        known = np.concatenate([values[np.isfinite(values)] for values in tables.values()])
        if not len(known):
            continue
        limits = (float(known.min()), float(known.max()) + 1e-6)
        svg = shades(tables, part["values"], part["values"], form="{:.2f}", limits=limits)
        caption = f"Mean cosine by {facet} in the features of {name}, the other facts equal"
        pictures.append(Picture(f"plots/similarity_{facet}.svg", caption, svg))
    return pictures


def _sentence(name: str, found: dict[str, Any]) -> str:
    made, real = found["equal"]["made"], found["equal"]["real"]
    words = {1: "nearer than", 0: "as near, within the intervals, as", -1: "less near than"}
    auc = found["classifier"]["made"]["auc"]
    told = (
        ""
        if auc["value"] is None
        else " A classifier that has not seen the person tells them from held-out slices with an AUC of "
        f"{said(auc)} (training slices of other people {said(found['classifier']['floor']['auc'])})."
    )
    return (
        f"By {name} pictures are to held-out slices of equal facts {words[told_apart(made, real)]} slices of "
        f"other held-out people are (cosine {said(made)}, held-out {said(real)}).{told}"
    )
