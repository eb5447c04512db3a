"""Sheets of the study: slices with lesions, real and simulated, beside the maps of every detector."""

from __future__ import annotations

import numpy as np

from brainclip.anomaly.local import BRAIN
from brainclip.anomaly.pictures import brain_box, sheet
from brainclip.anomaly.study import REAL, Scored, Study

BRIGHTEST = 99.9  # percentile of healthy validation people's pixels; colour begins at HIGH
TITLES = {
    "real": "Real scans, of a patient the slice with most lesion, compared with healthy people of the source",
    "simulated": "Simulated lesions, drawn into slices of test people of the source",
}
SCALE_SAID = (
    "Red: above 99 % of the pixels of its healthy validation people, yellow: above 99.9 %.\n"
    "Green: the lesion's outline. Subject's left at image left."
)


def write_sheets(study: Study, source: str) -> list[str]:
    """PNGs of the real scans compared with a source, and of one simulated lesion of each kind."""
    told = {name: study.scored(source, name) for name in study.methods}
    local = {name: one for name, one in told.items() if one.maps is not None}
    if not local:
        return []
    cases, any_rows = study.cases, told[study.methods[0]].rows
    made = []
    for name, chosen in (
        ("real", _real_shown(study, any_rows)),
        ("simulated", _drawn(study, source, any_rows)),
    ):
        if not chosen:
            continue
        crop = brain_box(cases.images[any_rows[list(chosen.values())]])
        rows = []
        for label, number in chosen.items():
            facts = cases.rows[any_rows[number]].facts
            place = f"{facts.modality} {facts.plane} {facts.position_mm:+.0f} mm"
            maps = [_colours(study, source, found, number)[crop] for found in local.values()]
            image, mask = cases.images[any_rows[number]], cases.masks[any_rows[number]]
            rows.append((f"{label}, {place}", image[crop], mask[crop], maps))
        title = f"{TITLES[name]} {source}. {SCALE_SAID}"
        file = f"{source}_{name}.png"
        drawn = sheet(rows, list(local), title, [[2.0] * len(local)] * len(rows))
        drawn.quantize(256).save(study.folder / file, optimize=True)
        made.append(file)
    return made


def _colours(study: Study, source: str, scored: Scored, number: int) -> np.ndarray:
    """(H, W) of one of the rows: 1 where colour begins, 2 where it is brightest; see heat."""
    assert scored.maps is not None
    rows, group = study.cases.rows, study.cases.rows[scored.rows[number]].group
    own = np.array(
        [study.is_healthy(rows[i], source, "validation") and rows[i].group == group for i in scored.rows]
    )
    inside = study.cases.images[scored.rows[own]] > BRAIN
    high = float(np.percentile(scored.maps[own][inside].astype(np.float32), BRIGHTEST))  # in units of HIGH
    return np.asarray(1 + (scored.maps[number].astype(np.float32) - 1) / max(1e-6, high - 1))


def _real_shown(study: Study, any_rows: np.ndarray) -> dict[str, int]:
    """Name of a real scan -> which of these rows is its slice with most lesion, or with most brain."""
    found = {}
    for name, one in study.recipe.real.items():
        those = study.rows_where(any_rows, source=REAL, subject=one.subject)
        those &= np.array([study.cases.rows[i].facts.modality == one.modality for i in any_rows])
        if those.any():
            areas = study.cases.masks[any_rows[those]].sum((1, 2))
            if not areas.any():
                areas = (study.cases.images[any_rows[those]] > 0).sum((1, 2))
            found[name] = int(np.flatnonzero(those)[areas.argmax()])
    return found


def _drawn(study: Study, source: str, any_rows: np.ndarray) -> dict[str, int]:
    """Kind of lesion, at the middle size -> which of these rows is the first one of a test person."""
    found = {}
    for kind, sweep in study.recipe.sweep.items():
        middle = sweep.sizes[len(sweep.sizes) // 2]
        wanted = {"split": "test", "kind": kind, "size_mm": middle, "contrast": 1.0}
        those = np.flatnonzero(study.rows_where(any_rows, source=source, **wanted))
        if len(those):
            found[f"{kind} {middle:g} mm"] = int(those[0])
    return found
