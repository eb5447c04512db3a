"""Similarity: are pictures near, in a network's space, to real slices of the same facts, and not to others?

Cosines of features that are standardised by the real slices: 0 for what is as alike as any two slices. They
are held against those of real slices of different people, which is as near as a picture should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainclip.evaluate.adherence import NEAR_MM
from brainclip.evaluate.classifier import classifier_test
from brainclip.evaluate.facets import FACETS, TABLES, alike, differing, facet_table, names_of
from brainclip.evaluate.features import Extractor, FeatureFolder
from brainclip.evaluate.figures import Figure, bootstrap, proportion, rounded, two_sample
from brainclip.evaluate.matched import Matched, Slices
from brainclip.evaluate.sheet import pair_cell, save_sheet
from brainclip.evaluate.wanted import Wanted

SETS = ("made", "real", "floor")
SEED = 33
DRAWS = 200
CELLS = 12  # pairs in the sheet of nearest neighbours
TITLE = (
    "Of each pair, left: the held-out slice nearest to the picture in the CLIP's features; right: generated "
    "(synthetic). Evenly from the picture that is nearest to the one that is farthest."
)


def similarities(matched: Matched, extractors: Sequence[Extractor], folder: FeatureFolder) -> dict[str, Any]:
    """Extractor -> hash of its weights, and `similarity` in its features."""
    result = {}
    for extractor in extractors:
        seen = {kind: folder.features(extractor, getattr(matched, kind).images) for kind in SETS}
        result[extractor.name] = {"hash": extractor.hash} | similarity(matched, seen)
    return result


def similarity(matched: Matched, features: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Figures of features (N, D) of each set of `matched`. "made" are pictures beside held-out slices, "real"
    held-out slices beside those of other people.

    equal: mean cosine of pairs with equal facts; other: of pairs that differ in one facet alone; nearest: how
    often the nearest held-out slice has the same plane, contrast, place; neighbours: rows of pictures and of
    their nearest held-out slices with the cosine, from the nearest to the farthest; tables: mean cosines by
    values of each facet; classifier: `classifier_test` of pictures and of the floor; pca, umap: points.
    """
    mean, spread = features["real"].mean(0), features["real"].std(0)
    scaled = {kind: (x - mean) / np.maximum(spread, 1e-6) for kind, x in features.items()}
    cosines = {kind: cosine(scaled[kind], scaled["real"]) for kind in ("made", "real")}
    wanted = {kind: getattr(matched, kind).wanted for kind in ("made", "real")}
    real, floor = wanted["real"], matched.floor.wanted

    def means(allowed: Mapping[str, np.ndarray]) -> dict[str, Figure]:
        return {kind: pair_mean(cosines[kind], allowed[kind], wanted[kind], real) for kind in cosines}

    return {
        "equal": means({kind: alike(wanted[kind], real) for kind in wanted}),
        "other": {
            facet: means({kind: differing(facet, wanted[kind], real) for kind in wanted}) for facet in FACETS
        },
        "nearest": {kind: nearest_facts(cosines[kind], wanted[kind], real) for kind in cosines},
        "neighbours": _neighbours(cosines["made"]),
        "tables": {
            facet: {"values": list(names_of(facet))}
            | {kind: facet_table(facet, cosines[kind], wanted[kind], real) for kind in cosines}
            for facet in TABLES
        },
        "classifier": {
            "made": classifier_test(features["real"], features["made"], real.subject),
            "floor": classifier_test(features["real"], features["floor"], real.subject, floor.subject),
        },
        "modality": {kind: [str(name) for name in wanted[kind].modality] for kind in wanted},
        "pca": _pca(scaled),
        "umap": _umap(scaled),
    }


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) cosines of the rows of (N, D) and (M, D)."""
    units = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (first, second))
    return np.asarray(next(units) @ next(units).T)


def _strangers(rows: Wanted, columns: Wanted) -> np.ndarray:
    """(N, M) bool: pairs of different people; a picture is nobody's."""
    if rows.subject is None or columns.subject is None:
        return np.ones((len(rows.plane), len(columns.plane)), dtype=bool)
    return np.asarray(rows.subject[:, None] != columns.subject)


def pair_mean(cosines: np.ndarray, allowed: np.ndarray, rows: Wanted, columns: Wanted) -> Figure:
    """Mean of cosines (N, M) over the allowed pairs of different people, with how many "pairs" there are.

    The interval is over people on both sides, pictures being independent. n: rows that are in a pair.
    """
    allowed = allowed & _strangers(rows, columns)
    kept, people = cosines * allowed, columns.subject
    assert people is not None

    def mean(first: np.ndarray, second: np.ndarray) -> float:
        left, right = (
            np.bincount(part, minlength=n) for part, n in zip((first, second), kept.shape, strict=True)
        )
        pairs = left @ allowed @ right
        return float(left @ kept @ right / pairs) if pairs else float("nan")

    if not allowed.any():
        return {"value": None, "low": None, "high": None, "n": 0, "pairs": 0}
    if rows.subject is None:
        figure = two_sample(lambda real, made: mean(made, real), people, len(kept), draws=DRAWS)
    else:
        figure = bootstrap(lambda drawn: mean(drawn, drawn), len(kept), people, centred=True, draws=DRAWS)
    return figure | {"n": int(allowed.any(1).sum()), "pairs": int(allowed.sum())}


def nearest_facts(cosines: np.ndarray, rows: Wanted, columns: Wanted) -> dict[str, Figure]:
    """How often the nearest slice of another person has the same plane, contrast, and place within 8 mm."""
    nearest = np.where(_strangers(rows, columns), cosines, -np.inf).argmax(1)
    plane = rows.plane == columns.plane[nearest]
    place = plane & (np.abs(rows.position_mm - columns.position_mm[nearest]) <= NEAR_MM)
    found = {"plane": plane, "contrast": rows.modality == columns.modality[nearest], "place": place}
    return {name: proportion(hits, rows.subject) for name, hits in found.items()}


def _neighbours(cosines: np.ndarray) -> list[dict[str, Any]]:
    """Of up to 12 pictures, evenly from the one nearest to a held-out slice to the farthest, that slice."""
    nearest, best = cosines.argmax(1), cosines.max(1)
    order = np.argsort(-best)
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(CELLS, len(order))).astype(int))]
    return [{"made": int(k), "real": int(nearest[k]), "cosine": rounded(best[k])} for k in chosen]


def _pca(scaled: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Places on the two axes of largest variance of the real slices, and the shares of variance there."""
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=SEED).fit(scaled["real"])
    places = {kind: pca.transform(scaled[kind]).round(3).tolist() for kind in ("made", "real")}
    return places | {"variance": [rounded(share) for share in pca.explained_variance_ratio_]}


def _umap(scaled: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Places by UMAP of both sets together; None where umap-learn is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    both = np.concatenate([scaled["made"], scaled["real"]])
    places = UMAP(random_state=SEED, n_jobs=1).fit_transform(both).round(3)
    return {"made": places[: len(scaled["made"])].tolist(), "real": places[len(scaled["made"]) :].tolist()}


def neighbour_sheet(
    neighbours: Sequence[Mapping[str, Any]], made: Slices, real: Slices, texts: Sequence[str], path: Path
) -> None:
    """Write pictures beside the held-out slices nearest to them, as `similarity` lists them, as a PNG."""
    assert real.subjects is not None
    cells = []
    for row in neighbours:
        true, picture = real.images[row["real"], 0].numpy(), made.images[row["made"], 0].numpy()
        left, right = f"held-out {real.subjects[row['real']]}", f"generated; cosine {row['cosine']:.2f}"
        cells.append(pair_cell(texts[row["made"]], true, picture, left, right))
    save_sheet(cells, min(4, len(cells)), path, title=TITLE)
