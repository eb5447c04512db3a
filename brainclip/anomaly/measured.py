"""All figures of a method: of test people, of people from elsewhere, of real scans."""

from __future__ import annotations

from typing import Any

import numpy as np

from brainclip.anomaly.calibration import Calibrator, of_people, uniformity
from brainclip.anomaly.figures import (
    auprc_difference,
    auroc,
    auroc_difference,
    pixel_figures,
    slice_figures,
)
from brainclip.anomaly.methods import BASELINES
from brainclip.anomaly.study import REAL, SPREAD, Scored, Study
from brainclip.evaluate.figures import rounded

Table = dict[str, Any]


def of_method(study: Study, source: str, scored: Scored) -> Table:
    """All figures of one method when cases are compared with the people of one source."""
    own, cases = scored.rows, study.cases
    test = study.rows_where(own, source=source, split="test")
    validation = study.rows_where(own, source=source, split="validation")
    sick = np.array([cases.rows[i].kind != "" for i in own])
    focal = _focal(study, own)
    found: Table = {
        "slices": slice_figures(scored.scores[test], cases.of(own[test])),
        "pixels": None,
        "sweep": {},
    }
    if scored.maps is not None:
        chosen = _pixels(study, scored, validation & focal)["threshold"]
        found["pixels"] = _pixels(study, scored, test & focal, thresholds=chosen)
    for kind, sweep in study.recipe.sweep.items():
        for size, contrast in sweep.settings():
            step = study.rows_where(
                own, source=source, split="test", kind=kind, size_mm=size, contrast=contrast
            )
            if not step.any():
                continue
            both = (test & ~sick) | step
            row: Table = {"auroc": auroc(scored.scores[both], cases.of(own[both]))}
            row["n"] = int(step.sum())
            if scored.maps is not None:
                row["dice"] = _pixels(study, scored, step)["dice"]
            found["sweep"][f"{kind} {size:g} mm, contrast {contrast:g}"] = row
    found["contrasts"] = _contrasts(study, source, scored, test)
    found["calibration"] = _calibration(study, source, scored, test & ~sick)
    found["shift"] = _shift(study, source, scored, test, sick)
    found["real"] = _real(study, scored)
    return found


def _focal(study: Study, rows: np.ndarray) -> np.ndarray:
    """(N,) bool: healthy slices, and those with a lesion that is at a place."""
    return np.array([study.cases.rows[i].kind != SPREAD for i in rows])


def _pixels(study: Study, scored: Scored, chosen: np.ndarray, thresholds: float | None = None) -> Table:
    assert scored.maps is not None
    return pixel_figures(scored.maps[chosen], study.cases.of(scored.rows[chosen]), thresholds=thresholds)


def plainest(study: Study, source: str, told: dict[str, Scored]) -> dict[str, str]:
    """The plain baseline that is best in validation people: in slices by AUROC, in pixels by AUPRC.

    Empty where the study has no baseline.
    """
    values: dict[str, dict[str, float]] = {"slices": {}, "pixels": {}}
    for name in (name for name in told if name in BASELINES):
        scored = told[name]
        own = study.rows_where(scored.rows, source=source, split="validation")
        some = study.cases.of(scored.rows[own])
        values["slices"][name] = auroc(scored.scores[own], some)["value"]
        focal = own & _focal(study, scored.rows)
        values["pixels"][name] = _pixels(study, scored, focal)["auprc"]["value"]
    return {of: max(found, key=found.__getitem__) for of, found in values.items() if found}


def differences(study: Study, source: str, told: dict[str, Scored], plain: dict[str, str]) -> Table:
    """Name of a method -> by how much it is better than the plain baseline in test people: AUROC of slices
    and, of a method with maps, AUPRC of pixels; nothing of the baseline itself."""
    found: Table = {}
    for name, scored in told.items():
        test = study.rows_where(scored.rows, source=source, split="test")
        some, row = study.cases.of(scored.rows[test]), {}
        if name != plain["slices"]:
            row["slices"] = auroc_difference(scored.scores[test], told[plain["slices"]].scores[test], some)
        base = told[plain["pixels"]].maps
        if name != plain["pixels"] and scored.maps is not None and base is not None:
            focal = test & _focal(study, scored.rows)
            where = study.cases.of(scored.rows[focal])
            row["pixels"] = auprc_difference(scored.maps[focal], base[focal], where)
        found[name] = row
    return found


def _contrasts(study: Study, source: str, scored: Scored, test: np.ndarray) -> Table:
    """Figures of test people by contrast, where there are several."""
    found: Table = {}
    modalities = study.recipe.modalities[source]
    for modality in modalities if len(modalities) > 1 else ():
        those = test & np.array([study.cases.rows[i].facts.modality == modality for i in scored.rows])
        some = study.cases.of(scored.rows[those])
        found[modality] = {"auroc": auroc(scored.scores[those], some), "n": int(those.sum())}
        if scored.maps is not None:
            focal = those & _focal(study, scored.rows)
            found[modality]["auprc"] = _pixels(study, scored, focal)["auprc"]
    return found


def _calibration(study: Study, source: str, scored: Scored, healthy: np.ndarray) -> Table:
    """p-values of healthy test slices and people against uniform, calibrated on validation people."""
    rows = study.cases
    people = np.array([rows.rows[i].subject for i in scored.rows])
    own = np.array([study.is_healthy(rows.rows[i], source, "validation") for i in scored.rows])
    fitted = Calibrator().fit(of_people(scored.scores[own], people[own])[0])
    whole, _ = of_people(scored.scores[healthy], people[healthy])
    return {
        "slices": uniformity(scored.p[healthy], people[healthy]),
        "people": uniformity(fitted.p_values(whole)),
        "calibrated_on": len(fitted.healthy_),
    }


def _shift(study: Study, source: str, scored: Scored, test: np.ndarray, sick: np.ndarray) -> Table:
    """Median scores: of healthy people of the source and of others, and of lesions; and the share of a
    lesion's score that being from elsewhere makes alone."""
    cases = study.cases
    full = np.array([cases.rows[i].contrast == 1.0 for i in scored.rows])
    lesion = _median(scored.scores[test & sick & full])
    found: Table = {"healthy": _median(scored.scores[test & ~sick]), "lesions": lesion, "elsewhere": {}}
    elsewhere = {(row.source if row.source != REAL else row.subject) for row in cases.rows} - {source}
    for name in sorted(elsewhere):
        those = np.array(
            [
                not cases.rows[i].kind and name in (cases.rows[i].source, cases.rows[i].subject)
                for i in scored.rows
            ]
        )
        if those.any():
            value = _median(scored.scores[those])
            share = None if lesion <= 0 else rounded(value / lesion)
            found["elsewhere"][name] = {"median": value, "share": share, "n": int(those.sum())}
    return found


def _median(values: np.ndarray) -> float:
    return rounded(float(np.median(values))) if len(values) else float("nan")


def _real(study: Study, scored: Scored) -> Table:
    """Of each real scan: slices and pixels, one person each, so without intervals."""
    found: Table = {}
    for name, one in study.recipe.real.items():
        those = study.rows_where(scored.rows, source=REAL, subject=one.subject)
        those &= np.array([study.cases.rows[i].facts.modality == one.modality for i in scored.rows])
        if not those.any():
            continue
        some = study.cases.of(scored.rows[those])
        sick = some.column("kind") != ""
        row: Table = {"slices": len(sick), "lesioned": int(sick.sum())}
        row["median_p"] = {
            "free": _median(scored.p[those][~sick]),
            "lesioned": _median(scored.p[those][sick]),
        }
        row["median_score"] = {
            "free": _median(scored.scores[those][~sick]),
            "lesioned": _median(scored.scores[those][sick]),
        }
        if sick.any():
            row["auroc"] = auroc(scored.scores[those], some)["value"] if not sick.all() else None
            if scored.maps is not None:
                pixels = pixel_figures(scored.maps[those], some)
                row |= {"auprc": pixels["auprc"]["value"], "dice": pixels["dice"]["value"]}
                row["prevalence"] = pixels["prevalence"]
        found[name] = row
    return found
