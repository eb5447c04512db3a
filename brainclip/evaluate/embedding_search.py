"""Search of held-out people: slices alike to a slice, and slices with the structures a sentence asks for."""

from __future__ import annotations

from typing import Any

import numpy as np

from brainclip.embedding.classes import meanings
from brainclip.embedding.readings import Readings
from brainclip.embedding.rows import Cohort
from brainclip.evaluate.embedding_facts import drawn
from brainclip.evaluate.figures import average, spearman
from brainclip.evaluate.retrieval import KS, chance, recall
from brainclip.model import BrainCLIP

POOL = 1000
NEAR_MM = 4.5  # a slice found is at the same place: the next one in a folder cut every 3 mm, or the same
SEEN = {  # levels at which the lateral ventricles are seen in every person
    "axial": ("thalamus", "lateral ventricles", "corona radiata"),
    "coronal": ("caudate heads", "frontal horns", "hippocampus", "atria of the lateral ventricles"),
}
TOP = 10
ASKED = {"lateral ventricles": "enlarged"}


def slice_to_slice(cohort: Cohort, split: str) -> dict[str, Any]:
    """R@1, 5, 10 among the slices of other people: is one of the same plane and contrast, and within NEAR_MM,
    among the nearest; and how far the nearest of the same plane is, mm (sagittal: in its distance from the
    midline, for left and right look alike)."""
    rows = drawn(cohort, split, POOL)
    part = cohort.take(rows)
    columns = part.columns
    others = columns["subject"][:, None] != columns["subject"][None]
    same = (columns["plane"][:, None] == columns["plane"]) & (
        columns["contrast"][:, None] == columns["contrast"]
    )
    far = np.abs(columns["position_mm"][:, None] - columns["position_mm"][None])
    truth = same & (far <= NEAR_MM) & others
    scores = np.where(others, part.embeddings @ part.embeddings.T, -np.inf)
    answered = truth.any(1)
    people = columns["subject"]
    figures: dict[str, Any] = {"pool": len(rows)}
    for k in KS:
        hits = recall(scores, truth, k)[answered].astype(float)
        figures[f"slice_to_slice_r{k}"] = average(hits, people[answered])
        figures[f"slice_to_slice_r{k}"]["chance"] = round(chance(truth[answered], k), 4)
    first = scores.argmax(1)
    of_plane = np.take_along_axis(same, first[:, None], axis=1)[:, 0]
    place = columns["position_mm"].astype(float)
    place = np.where(columns["plane"] == "sagittal", np.abs(place), place)
    distance = np.abs(place - place[first])
    figures["nearest_off_mm"] = average(distance[of_plane], people[of_plane])
    return figures


def ventricle_search(
    model: BrainCLIP, cohort: Cohort, split: str, readings: Readings
) -> dict[str, dict[str, Any]]:
    """ "plane contrast" -> what "enlarged lateral ventricles" finds among slices of that plane and contrast
    that show them: Spearman's correlation of its score with the percentile of the ventricles for the age, the
    same with the score of "small" taken off, and with the size read from the embedding (Readings); the mean
    percentile of the TOP found each way, beside that of all."""
    figures: dict[str, dict[str, Any]] = {}
    contrasts = sorted(set(cohort.columns["contrast"]))
    for plane, levels in SEEN.items():
        for contrast in contrasts:
            kept = np.flatnonzero(
                (cohort.columns["split"] == split)
                & (cohort.columns["plane"] == plane)
                & (cohort.columns["contrast"] == contrast)
                & np.isin(cohort.columns["level"].astype(str), levels)
                & (cohort.columns["percentiles"] != "")
            )
            size = np.array(
                [cohort.facts(int(row)).percentiles.get("lateral ventricles", np.nan) for row in kept]
            )
            kept, size = kept[np.isfinite(size)], size[np.isfinite(size)]
            if len(kept) < 2 * TOP:
                continue
            asked = [
                {"plane": plane, "modality": contrast, "sizes": {"lateral ventricles": word}}
                for word in ("enlarged", "small")
            ]
            large, small = (cohort.embeddings[kept] @ meanings(model.clip, asked).numpy().T).T
            people = cohort.columns["subject"][kept]
            read = readings.scores(ASKED, cohort.columns, kept, cohort.embeddings[kept])
            figures[f"{plane} {contrast}"] = {"all": round(float(size.mean()), 1)}
            for name, score in (("caption", large), ("against_small", large - small), ("read", read)):
                known = np.isfinite(score)
                first = np.argsort(-score[known])[:TOP]
                figures[f"{plane} {contrast}"][name] = {
                    "order": spearman(score[known], size[known], people[known]),
                    "top": average(size[known][first]),
                }
    return figures
