"""What `brainclip anomaly` does: one scan against healthy people, as a map, p-values and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel import Nifti1Image

from atlas.facts import Facts
from atlas.slices import PLANES
from atlas.volume import as_stored
from brainclip.anomaly.calibration import Calibrator, of_people
from brainclip.anomaly.covariates import covariates, joined
from brainclip.anomaly.features import Healthy
from brainclip.anomaly.local import Reconstruction
from brainclip.anomaly.methods import features
from brainclip.anomaly.pictures import brain_box, sheet
from brainclip.anomaly.reference import KINDS, read_reference
from brainclip.anomaly.scan import Prepared, as_volume
from brainclip.errors import BrainclipError
from brainclip.model import BrainCLIP

MAP = "cohort z"
HIGH = 6.0  # deviations from healthy people that are shown brightest
BY_DECODER = "decoder"
MAPS = (MAP, BY_DECODER)
SHOWN = 6


@dataclass(frozen=True)
class Found:
    """What is unlike healthy people in a scan.

    heat: on the scan's own grid (RAS+). scores and p: of the whole scan by detector, higher scores are less
    normal. facts, images, maps, slice_p: of all slices looked at; slice_p (N,) by the detector of the map.
    source, people: the healthy people it was compared with, and how many of them p is from. likeness: of
    each contrast, the mean cosine of the slices' embeddings with captions of their plane and that contrast.
    """

    heat: Nifti1Image
    scores: dict[str, float]
    p: dict[str, float]
    facts: list[Facts]
    images: np.ndarray
    maps: np.ndarray
    slice_p: np.ndarray
    source: str
    people: int
    likeness: dict[str, float]

    def warnings(self, modality: str) -> list[str]:
        """A sentence where the scan looks like another contrast: then all of it is unlike healthy people."""
        like = max(self.likeness, key=self.likeness.__getitem__)
        if like == modality or modality not in self.likeness:
            return []
        return [f"the scan looks like {like}, not {modality}; if it is, say --modality {like}"]

    def said(self, name: str) -> str:
        """A detector's p in words: with few healthy people it cannot be small."""
        least = 1 / (1 + self.people)
        lowest = f", the lowest that {self.people} people can give" if self.p[name] < least + 1e-9 else ""
        return f"{name} p {self.p[name]:.3f}{lowest}"

    def rows(self) -> list[int]:
        """Numbers of the SHOWN most abnormal slices, none next to one that is shown already."""
        chosen: list[int] = []
        order = np.lexsort((-_top(self.maps), self.slice_p))
        for i in order:
            one = self.facts[i]
            near = [
                j
                for j in chosen
                if self.facts[j].plane == one.plane
                and abs(float(self.facts[j].position_mm or 0) - float(one.position_mm or 0)) < 8
            ]
            if not near:
                chosen.append(int(i))
            if len(chosen) == SHOWN:
                break
        return chosen


def look(
    model: BrainCLIP,
    reference: Path,
    scan: Prepared,
    *,
    planes: tuple[str, ...] = PLANES,
    every_mm: float = 3.0,
    by: str = MAP,
) -> Found:
    """Compare a scan with the healthy people of a reference.

    by: whose maps; the decoder's are residuals in grey levels, without deviations of healthy people. The map
    of a scan is the mean of the planes' maps. A detector's score of a scan is the mean over planes of its
    score in deviations from held-out healthy people, and p that of such means of these people.
    """
    if by not in MAPS:
        raise BrainclipError(f"map {by!r}: possible are {', '.join(MAPS)}")
    volumes, parts, likenesses = [], [], []
    contrasts = list(model.card["modalities"])
    told: dict[str, list[np.ndarray]] = {name: [] for name in KINDS}  # a plane: healthy people, then the scan
    for plane in planes:
        group = read_reference(reference, model, scan.modality, plane)
        images, facts = scan.slices(plane, every_mm)
        known = covariates(facts)
        slice_p = np.ones(len(images))
        captions = model.embed_text([f"{plane} {contrast} slice" for contrast in contrasts])
        seen = {kind: features(model, kind, images) for kind in ("pixels", "embedding")}
        likenesses.append(seen["embedding"] @ np.asarray(captions).T)
        for name, (kind, _) in KINDS.items():
            found = -group.detectors[name].score_samples(joined(known, seen[kind]))
            healthy, _ = group.of_people(name)
            own, _ = of_people(found, np.zeros(len(found)))
            told[name].append(Calibrator().fit(healthy).transform(np.append(healthy, own)))
            if name == MAP:
                slice_p = group.calibrator(name).p_values(found)
        detector = group.detectors[MAP]
        if by == BY_DECODER:
            adapter = group.source if group.source in model.adapters else None
            remake = Healthy(model, plane, scan.modality, strengths=(0.5,), adapter=adapter)
            detector = Reconstruction(remake).fit(joined(known[:1], images[:1].reshape(1, -1)))
        maps = detector.maps(joined(known, seen["pixels"]))
        volumes.append(as_volume(maps, facts, scan.geometry))
        parts.append((facts, images, maps, slice_p))
    means = {name: np.mean(values, 0) for name, values in told.items()}
    return Found(
        heat=scan.back(np.mean(volumes, 0)),
        scores={name: float(values[-1]) for name, values in means.items()},
        p={name: float(Calibrator().fit(v[:-1]).p_values(v[-1:])[0]) for name, v in means.items()},
        facts=[one for part in parts for one in part[0]],
        images=np.concatenate([part[1] for part in parts]),
        maps=np.concatenate([part[2] for part in parts]),
        slice_p=np.concatenate([part[3] for part in parts]),
        source=group.source,
        people=len(means[MAP]) - 1,
        likeness=dict(zip(contrasts, np.concatenate(likenesses).mean(0).tolist(), strict=True)),
    )


def on_grid_of(path: Path, found: Found, *, by: str = MAP) -> Nifti1Image:
    """The map in the voxel order of the scan's file; its header says what it is."""
    heat = as_stored(found.heat, path)
    heat.header.set_xyzt_units("mm")
    heat.header["descrip"] = f"brainclip anomaly, {by}, against {found.source}; not for diagnosis"[:79]
    return heat


def picture(found: Found, title: str, path: Path, *, by: str = MAP) -> None:
    """Write the PNG: scores and p-values, and the most abnormal slices with their heat."""
    shown = found.rows()
    crop = brain_box(found.images[shown])
    top = HIGH if by == MAP else max(0.05, float(np.percentile(found.maps, 99.9)))
    rows = []
    for i in shown:
        one = found.facts[i]
        label = f"{one.modality} {one.plane} {one.position_mm:+.0f} mm, p {found.slice_p[i]:.3f}"
        image = found.images[i][crop]
        rows.append((label, image, np.zeros(image.shape, dtype=bool), [found.maps[i][crop]]))
    unit = "deviations" if by == MAP else "of the grey scale"
    lines = [
        f"{title} against {found.people} healthy people of {found.source}",
        *[f"score {found.scores[name]:.1f}: {found.said(name)}" for name in found.scores],
        "Scanner and preparation that are not theirs raise scores, too.",
        f"The {len(rows)} most abnormal of {len(found.facts)} slices; their p is not corrected for that.",
        f"From red at {top / 2:.2g} to yellow at {top:.2g} {unit}. Subject's left at image left.",
        "For research, not for diagnosis.",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = sheet(rows, [by], "\n".join(lines), [[top]] * len(rows))
    drawn.quantize(256).save(path, optimize=True)


def _top(maps: np.ndarray) -> np.ndarray:
    return np.asarray(maps.reshape(len(maps), -1).max(1))
