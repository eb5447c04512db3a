"""Realism: generated pictures beside held-out slices, and those beside slices of other people: three parts of
the evaluation, each of all contrasts together and of each apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from brainclip.evaluate.distribution import LEAST, distribution
from brainclip.evaluate.features import Extractor, FeatureFolder
from brainclip.evaluate.grey import compare_ratios, grey_levels, histograms, tissue_ratios
from brainclip.evaluate.matched import Matched
from brainclip.evaluate.radiomics import radiomic_texture
from brainclip.evaluate.texture import FEATURES, compare_texture, texture

SETS = ("made", "real", "floor")
Rows = dict[str, np.ndarray]  # of each set


def _groups(matched: Matched) -> Iterator[tuple[str, Rows]]:
    """Names, "all" and each contrast, with the rows of each set; none with less than 8 slices of a set."""
    contrasts = list(dict.fromkeys(matched.made.modality))
    for name in ("all", *contrasts):
        rows = {
            kind: np.flatnonzero((getattr(matched, kind).modality == name) | (name == "all")) for kind in SETS
        }
        if min(map(len, rows.values())) >= LEAST:
            yield str(name), rows


def _people(matched: Matched, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Subjects of the real slices and of those of the floor."""
    real, floor = matched.real.subjects, matched.floor.subjects
    assert real is not None and floor is not None
    return real[rows["real"]], floor[rows["floor"]]


def distributions(matched: Matched, extractors: Sequence[Extractor], folder: FeatureFolder) -> dict[str, Any]:
    """Extractor -> hash of its weights and, by group, `distribution` of "made" and of "floor". Features are
    kept in `folder`."""
    result: dict[str, Any] = {}
    for extractor in extractors:
        seen = {kind: folder.features(extractor, getattr(matched, kind).images) for kind in SETS}
        groups = {}
        for name, rows in _groups(matched):
            people, others = _people(matched, rows)
            made, real, floor = (seen[kind][rows[kind]] for kind in SETS)
            groups[name] = {
                "made": distribution(real, made, people),
                "floor": distribution(real, floor, people, made_subjects=others),
            }
        result[extractor.name] = {"hash": extractor.hash, "groups": groups}
    return result


def greys(matched: Matched) -> dict[str, Any]:
    """By group `grey_levels` of "made" and of "floor"; of a contrast its tissue "ratios" as well, "floor"
    there the share of the floor's slices in the real range."""
    shares = {kind: histograms(getattr(matched, kind).images) for kind in SETS}
    result: dict[str, Any] = {}
    for name, rows in _groups(matched):
        people, others = _people(matched, rows)
        made, real, floor = (shares[kind][rows[kind]] for kind in SETS)
        result[name] = {
            "made": grey_levels(real, made, people),
            "floor": grey_levels(real, floor, people, others),
        }
        if name == "all":
            continue
        found = {kind: tissue_ratios(getattr(matched, kind).images[rows[kind]], name) for kind in SETS}
        result[name]["ratios"] = {
            ratio: compare_ratios(found["real"][ratio], found["made"][ratio], people)
            | {"floor": compare_ratios(found["real"][ratio], found["floor"][ratio], people)["inside"]}
            for ratio in found["made"]
        }
    return result


def textures(matched: Matched) -> dict[str, Any]:
    """By group `compare_texture` of "made" and of "floor"."""
    return _textures(matched, {kind: texture(getattr(matched, kind).images) for kind in SETS}, FEATURES)


def radiomics(matched: Matched) -> dict[str, Any]:
    """The same with the features of pyradiomics."""
    found = {kind: radiomic_texture(getattr(matched, kind).images) for kind in SETS}
    return _textures(matched, {kind: rows for kind, (rows, _) in found.items()}, found["real"][1])


def _textures(matched: Matched, seen: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    result = {}
    for name, rows in _groups(matched):
        people, others = _people(matched, rows)
        made, real, floor = (seen[kind][rows[kind]] for kind in SETS)
        result[name] = {
            "made": compare_texture(real, made, people, names=names),
            "floor": compare_texture(real, floor, people, others, names=names),
        }
    return result
