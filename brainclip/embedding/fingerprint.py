"""Does a slice look like the training data? Contrast, orientation, window, and place in MNI152.

A slice is laid on cells of 6 mm and compared with the mean training slices of every plane, place and
contrast, as it is and turned. What training-like slices of other people hardly ever do is warned of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from atlas.facts import Facts
from atlas.slices import Geometry
from brainclip.embedding.samples import Sample
from brainclip.errors import BrainclipError, WeightsError

KNOWN = Path(__file__).parent / "known" / "fingerprint.npz"
CELL_MM = 6.0
SIDE = 32  # cells along a side: 192 mm
NEAR_MM = 12.0  # of the position that is said, templates are compared
FEWEST = 5  # slices of a template
MANY = 40  # slices of a kind whose grey values are described
ALIKE = 0.05  # less likeness than the best: a contrast that it may be
QUANTILES = (5, 25, 50, 75, 95)
CLASSES = (60, 150)  # cells of brain that part small, middle and large slices: 22 and 54 cm2
BRIGHT = 0.999  # grey from which a pixel counts as white
TOGETHER = 32  # slices compared at a time
ALARM = 0.0025  # share of held-out training-like slices beyond each limit, in each size class

# measure -> which of its ends are unusual, and what it says
CHECKS: dict[str, tuple[bool, bool, str]] = {
    "turned": (False, True, "orientation"),
    "overlap": (True, False, "place"),
    "shift_mm": (False, True, "place"),
    "area": (True, True, "place"),
    "background": (False, True, "place"),
    "grey": (False, True, "window"),
    "white": (False, True, "window"),
    "likeness": (True, False, "contrast"),
    "other_contrast": (False, True, "contrast"),
}
SENTENCES = {
    "orientation": "looks turned or flipped: the front (axial) or the top must be up, the subject's left at "
    "image left (which this check cannot see in axial and coronal slices)",
    "place": "does not lie where a brain registered to MNI152 lies, or shows more than the brain; embed the "
    "volume it is from, which is then stripped and registered",
    "window": "is darker, brighter or flatter than training slices of its kind; embed the volume it is from, "
    "or window it as atlas.slices.window does",
    "contrast": "looks like none of the contrasts of the training data (T1, T2, PD, FLAIR), or not like the "
    "one that was said",
}


@dataclass(frozen=True)
class Fingerprint:
    """templates, occupancy: (M, SIDE * SIDE) mean grey value and share of brain of each plane, place (plane,
    position_mm: (M,)) and contrast (M,). limits: measure -> (least, most) of training-like slices of each of
    the size classes of CLASSES, for small slices vary more. tones: "contrast plane class" -> mean (Q,) and
    inverse covariance (Q, Q) of the QUANTILES of the grey values above 0."""

    templates: np.ndarray
    occupancy: np.ndarray
    plane: np.ndarray
    position_mm: np.ndarray
    contrast: np.ndarray
    limits: Mapping[str, np.ndarray]  # (classes, 2)
    tones: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def load(cls, path: Path = KNOWN) -> Fingerprint:
        """The bundled one, or that of a file. WeightsError where it cannot be read."""
        try:
            with np.load(path) as file:
                found = {name: file[name] for name in file.files}
            return cls(
                found["templates"].astype(np.float32) / 255,
                found["occupancy"].astype(np.float32) / 255,
                found["plane"],
                found["position_mm"],
                found["contrast"],
                dict(zip(found["names"].tolist(), found["limits"], strict=True)),
                {
                    name: (mean, inverse)
                    for name, mean, inverse in zip(
                        found["tone_names"].tolist(), found["tone_means"], found["tone_inverses"], strict=True
                    )
                },
            )
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(f"{path}: no fingerprint that can be read ({error})") from None

    def save(self, path: Path) -> None:
        """Write what load() reads, grey values in 8 bits."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            templates=np.round(self.templates * 255).astype(np.uint8),
            occupancy=np.round(self.occupancy * 255).astype(np.uint8),
            plane=self.plane,
            position_mm=self.position_mm.astype(np.float32),
            contrast=self.contrast,
            names=np.array(list(self.limits)),
            limits=np.array(list(self.limits.values()), dtype=np.float32),  # (measures, classes, 2)
            tone_names=np.array(list(self.tones)),
            tone_means=np.array([mean for mean, _ in self.tones.values()], dtype=np.float32),
            tone_inverses=np.array([inverse for _, inverse in self.tones.values()], dtype=np.float32),
        )

    def measures(self, pixels: np.ndarray, facts: Sequence[Facts]) -> dict[str, np.ndarray]:
        """The measures of CHECKS, (N,) each, of slices (N, H, W) in [0, 1]; facts: what is said of them."""
        starts = range(0, len(pixels), TOGETHER)
        parts = [self._measured(pixels[i : i + TOGETHER], facts[i : i + TOGETHER]) for i in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in CHECKS}

    def found(self, pixels: np.ndarray, facts: Sequence[Facts]) -> list[tuple[str, ...]]:
        """For each slice what is unusual, of SENTENCES: () for one that looks like the training data."""
        measured, classes = self.measures(pixels, facts), size_classes(pixels)
        said = []
        for row, size in enumerate(classes):
            beyond = {
                CHECKS[name][2]
                for name, values in measured.items()
                if not self.limits[name][size][0] <= values[row] <= self.limits[name][size][1]
            }
            # a turned brain also lies elsewhere and looks like no contrast: the first cause is said
            said.append(("orientation",) if "orientation" in beyond else tuple(sorted(beyond)))
        return said

    def warnings(self, samples: Sequence[Sample]) -> list[str]:
        """A sentence for each kind of doubt about each source, such as a file."""
        told: dict[tuple[str, str], int] = {}
        counts: dict[str, int] = {}
        found = self.found(np.stack([one.pixels for one in samples]), [one.facts for one in samples])
        for one, kinds in zip(samples, found, strict=True):
            counts[one.source] = counts.get(one.source, 0) + 1
            for kind in kinds:
                told[one.source, kind] = told.get((one.source, kind), 0) + 1
        return [
            f"{source}: {f'{n} of {counts[source]} slices: ' if counts[source] > 1 else ''}{SENTENCES[kind]}"
            for (source, kind), n in told.items()
        ]

    def _measured(self, pixels: np.ndarray, facts: Sequence[Facts]) -> dict[str, np.ndarray]:
        """The measures of a few slices, which are compared at once."""
        grey, cover = (cells.reshape(len(pixels), -1) for cells in on_cells(pixels))  # (N, SIDE * SIDE)
        allowed = np.stack([self._allowed(fact) for fact in facts])  # (N, M)
        same, turned = self._likenesses(grey)
        own = np.where(allowed, same, -1.0)
        best, most = own.argmax(1), own.max(1)
        weights = self.occupancy[best]
        area, outside = cover.sum(1), weights < 0.01
        by_contrast = {
            str(name): own[:, self.contrast == name].max(1) for name in np.unique(self.contrast)
        }  # (N,) each
        said = np.array([by_contrast.get(str(fact.modality), most)[row] for row, fact in enumerate(facts)])
        away = _centres(cover) - _centres(weights)
        return {
            "turned": np.where(allowed, turned, -1.0).max(1) - most,
            "overlap": 2 * np.minimum(weights, cover).sum(1) / np.maximum(1e-9, weights.sum(1) + area),
            "shift_mm": np.linalg.norm(away, axis=1) * CELL_MM,
            "area": np.log(np.maximum(area, 1e-3) / weights.sum(1)),
            "background": (grey * outside).sum(1) / np.maximum(1, outside.sum(1)),
            "grey": self._strangeness(pixels, facts, self.plane[best], by_contrast),
            "white": (pixels >= BRIGHT).sum((1, 2)) / np.maximum(1, (pixels > 0).sum((1, 2))),
            "likeness": most,
            "other_contrast": most - said,
        }

    def _strangeness(
        self,
        pixels: np.ndarray,
        facts: Sequence[Facts],
        planes: np.ndarray,
        by_contrast: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        """(N,) Mahalanobis distance of the grey values of slices from those of their kind, where none is said
        the nearest of the contrasts that they may be; 0 for a kind that is not described."""
        most = np.max(list(by_contrast.values()), axis=0)
        found = np.zeros(len(pixels))
        for row, size in enumerate(size_classes(pixels)):
            said = str(facts[row].modality)
            alike = [name for name, likes in by_contrast.items() if likes[row] >= most[row] - ALIKE]
            kinds = [f"{name} {planes[row]} {size}" for name in ([said] if said in by_contrast else alike)]
            if all(kind in self.tones for kind in kinds):
                tones = tones_of(pixels[row])
                far = [(tones - self.tones[kind][0], self.tones[kind][1]) for kind in kinds]
                found[row] = min(float(np.sqrt(off @ inverse @ off)) for off, inverse in far)
        return found

    def _allowed(self, facts: Facts) -> np.ndarray:
        """(M,) the templates that agree with the plane and position said, or all."""
        allowed = np.ones(len(self.plane), dtype=bool)
        if facts.plane is not None:
            allowed &= self.plane == facts.plane
            if facts.position_mm is not None:
                near = np.abs(self.position_mm - facts.position_mm) <= NEAR_MM
                allowed &= near if (allowed & near).any() else True
        return allowed

    @cached_property
    def _unit_templates(self) -> np.ndarray:
        """(SIDE * SIDE, M) templates with mean 0 and length 1."""
        return np.ascontiguousarray(_unit(self.templates).T)

    def _likenesses(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, M) correlations with the templates of slices (N, SIDE * SIDE) as they are, and the best of
        their turned versions.

        Of the mirror image only sagittal templates tell: left and right of a head look alike.
        """
        cells = _unit(grey).reshape(-1, SIDE, SIDE)
        versions = [np.rot90(cells, k, axes=(1, 2)) for k in range(4)]
        versions += [version[:, :, ::-1] for version in versions]
        likeness = np.stack([version.reshape(len(grey), -1) @ self._unit_templates for version in versions])
        likeness[4][:, self.plane != "sagittal"] = -1.0  # (8, N, M)
        return likeness[0], likeness[1:].max(0)


def doubts(samples: Sequence[Sample], geometry: Geometry) -> list[str]:
    """What the bundled Fingerprint says of slices; of a geometry that does not show 192 mm, that it is not
    checked."""
    shown_mm = geometry.size * geometry.spacing_mm
    if abs(shown_mm - SIDE * CELL_MM) > CELL_MM:
        return [f"slices of {shown_mm:g} mm are not checked; the training data has {SIDE * CELL_MM:g} mm"]
    return _bundled().warnings(samples)


@lru_cache(maxsize=1)
def _bundled() -> Fingerprint:
    return Fingerprint.load()


def fit(
    train: Sequence[tuple[np.ndarray, Facts]] | Any, held_out: Sequence[tuple[np.ndarray, Facts]] | Any
) -> Fingerprint:
    """A Fingerprint of training slices, its limits from those of other people.

    train, held_out: iterables of (pixels (H, W) in [0, 1], facts with plane, position_mm and modality).
    """
    sums: dict[tuple[str, float, str], list[Any]] = {}
    kinds: dict[str, list[np.ndarray]] = {}
    for pixels, facts in train:
        grey, cover = on_cells(pixels)
        place = round(float(facts.position_mm or 0) / CELL_MM) * CELL_MM
        found = sums.setdefault((str(facts.plane), place, str(facts.modality)), [0, 0.0, 0.0])
        found[0] += 1
        found[1] = found[1] + grey.ravel()
        found[2] = found[2] + cover.ravel()
        kind = f"{facts.modality} {facts.plane} {size_classes(pixels[None])[0]}"
        kinds.setdefault(kind, []).append(tones_of(pixels))
    names = sorted(name for name, found in sums.items() if found[0] >= FEWEST)
    if not names:
        raise BrainclipError(f"a fingerprint needs {FEWEST} training slices of the same place")
    made = Fingerprint(
        np.stack([sums[name][1] / sums[name][0] for name in names]).astype(np.float32),
        np.stack([sums[name][2] / sums[name][0] for name in names]).astype(np.float32),
        np.array([name[0] for name in names]),
        np.array([name[1] for name in names]),
        np.array([name[2] for name in names]),
        {},
        {kind: _described(np.stack(rows)) for kind, rows in sorted(kinds.items()) if len(rows) >= MANY},
    )
    rows = list(held_out)
    whole = np.stack([pixels for pixels, _ in rows])
    measured, classes = made.measures(whole, [facts for _, facts in rows]), size_classes(whole)
    limits = {}
    for name, ends in CHECKS.items():
        limits[name] = np.tile((-np.inf, np.inf), (len(CLASSES) + 1, 1))
        for size in np.unique(classes):
            usual = np.quantile(measured[name][classes == size], (ALARM, 1 - ALARM))
            limits[name][size] = np.where(ends[:2], usual, limits[name][size])
    return replace(made, limits=limits)


def _described(tones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (Q,) and inverse covariance (Q, Q) of tones (N, Q); 0.01 of grey is the least deviation."""
    covariance = np.cov(tones.T) + np.eye(tones.shape[1]) * 1e-4
    return tones.mean(0), np.linalg.inv(covariance)


def tones_of(pixels: np.ndarray) -> np.ndarray:
    """(Q,) the QUANTILES of the grey values above 0 of a slice, as np.percentile has them; 0 where there are
    none."""
    inside = np.sort(pixels[pixels > 0])  # with five quantiles a sort is faster than np.percentile
    if not inside.size:
        return np.zeros(len(QUANTILES))
    at = np.array(QUANTILES) / 100 * (inside.size - 1)
    low = np.floor(at).astype(int)
    values = inside[np.stack([low, np.minimum(low + 1, inside.size - 1)])].astype(float)
    return np.asarray(values[0] + (at - low) * (values[1] - values[0]))


def on_cells(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(grey, cover), both (..., SIDE, SIDE): mean grey and share of pixels above 0 of each cell of slices
    (..., H, W)."""
    size = pixels.shape[-1]
    edges = np.linspace(0, size, SIDE + 1).round().astype(int)
    along = np.arange(size)
    inside = (along >= edges[:-1, None]) & (along < edges[1:, None])  # (SIDE, size)
    mean = (inside / inside.sum(1, keepdims=True)).astype(np.float32)
    grey, above = pixels.astype(np.float32, copy=False), (pixels > 0).astype(np.float32)
    return mean @ grey @ mean.T, mean @ above @ mean.T


def size_classes(pixels: np.ndarray) -> np.ndarray:
    """(N,) size class of slices (N, H, W), by the cells that their pixels above 0 fill."""
    cells = (pixels > 0).mean(axis=(1, 2)) * SIDE**2
    return np.digitize(cells, CLASSES)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1, so that their products are correlations."""
    centred = rows - rows.mean(1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9))


def _centres(weights: np.ndarray) -> np.ndarray:
    """(N, 2) centres of weights (N, SIDE * SIDE), in cells."""
    total = np.maximum(weights.sum(1), 1e-9)[:, None]
    grid = weights.reshape(-1, SIDE, SIDE)
    along = np.arange(SIDE)
    return np.stack([grid.sum(2) @ along, grid.sum(1) @ along], axis=1) / total
