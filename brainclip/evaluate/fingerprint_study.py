"""Study of the fingerprint: which slices prepared otherwise it catches, and how often it alarms wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from atlas.facts import Facts
from atlas.slices import MODALITIES, Geometry, show, working_grid
from atlas.volume import load_volume, resample
from brainclip.data import PairDataset
from brainclip.embedding.fingerprint import Fingerprint, fit
from brainclip.evaluate.figures import proportion

SEED = 41
TRIED = 400  # held-out slices that each change is made to
TRAINED = 12_000  # training slices, and held-out ones for the limits
RAW_EVERY = 12  # of the slices of a whole head as its file has it

Change = Callable[[np.ndarray, Facts, np.random.Generator], tuple[np.ndarray, Facts]]


def moved(pixels: np.ndarray, *, degrees: float = 0.0, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """A slice turned about its middle, made larger or smaller, shifted down and to the right in pixels."""
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / scale
    middle = np.array([(len(pixels) - 1) / 2] * 2)
    offset = middle - matrix @ (middle + shift)
    made = ndimage.affine_transform(pixels, matrix, offset, order=1)
    return np.asarray(np.clip(made, 0, 1).astype(np.float32))


def within(pixels: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A slice whose brain has other grey values."""
    return np.where(pixels > 0, np.clip(change(pixels), 0.004, 1), 0).astype(np.float32)


def changes(spacing_mm: float) -> dict[str, tuple[str, Change]]:
    """Name -> what it should be found as, and the change. Facts are kept unless they are what is changed."""

    def grey(function: Callable[[np.ndarray], np.ndarray]) -> Change:
        return lambda pixels, facts, rng: (within(pixels, function), facts)

    def lie(**how: float) -> Change:
        return lambda pixels, facts, rng: (moved(pixels, **how), facts)

    def turned(function: Callable[[np.ndarray], np.ndarray]) -> Change:
        return lambda pixels, facts, rng: (np.ascontiguousarray(function(pixels)), facts)

    def called(pixels: np.ndarray, facts: Facts, rng: np.random.Generator) -> tuple[np.ndarray, Facts]:
        others = [name for name in MODALITIES if name != facts.modality]
        return pixels, replace(facts, modality=others[int(rng.integers(len(others)))])

    per_mm = 1 / spacing_mm
    return {
        "upside down": ("orientation", turned(np.flipud)),
        "turned by 90 degrees": ("orientation", turned(np.rot90)),
        "turned by 180 degrees": ("orientation", turned(lambda x: np.rot90(x, 2))),
        "left and right exchanged": ("orientation", turned(np.fliplr)),
        "shifted by 5 mm": ("place", lie(shift=5 * per_mm / np.sqrt(2))),
        "shifted by 10 mm": ("place", lie(shift=10 * per_mm / np.sqrt(2))),
        "shifted by 20 mm": ("place", lie(shift=20 * per_mm / np.sqrt(2))),
        "turned by 10 degrees": ("place", lie(degrees=10.0)),
        "turned by 20 degrees": ("place", lie(degrees=20.0)),
        "10 % smaller": ("place", lie(scale=0.9)),
        "20 % smaller": ("place", lie(scale=0.8)),
        "20 % larger": ("place", lie(scale=1.2)),
        "grey x 0.8": ("window", grey(lambda x: 0.8 * x)),
        "grey x 0.6": ("window", grey(lambda x: 0.6 * x)),
        "grey x 1.3": ("window", grey(lambda x: 1.3 * x)),
        "gamma 0.6": ("window", grey(lambda x: x**0.6)),
        "gamma 1.6": ("window", grey(lambda x: x**1.6)),
        "half the contrast": ("window", grey(lambda x: 0.25 + 0.5 * x)),
        "inverted": ("contrast", grey(lambda x: 1 - x)),
        "called another contrast": ("contrast", called),
    }


def slices_of(data: PairDataset, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Facts]]:
    """(pixels, plane, position and contrast) of some slices."""
    for row in rows:
        facts = data.pairs[row].facts
        yield data.images([row])[0, 0].numpy(), Facts(facts.plane, facts.position_mm, facts.modality)


def fitted(train: PairDataset, validation: PairDataset) -> Fingerprint:
    """A Fingerprint of training slices with limits of validation people, TRAINED of each at most."""
    generator = np.random.default_rng(SEED)
    parts = [np.sort(generator.permutation(len(data))[:TRAINED]) for data in (train, validation)]
    return fit(slices_of(train, parts[0]), slices_of(validation, parts[1]))


def rates(fingerprint: Fingerprint, data: PairDataset) -> dict[str, Any]:
    """False alarms and catches among slices of `data`, with plane, position and contrast said and unsaid.

    false_alarm: of all slices that were drawn. caught: name of the change -> share for which anything was
    said; named: what it should be found as was said.
    """
    generator = np.random.default_rng(SEED)
    rows = np.sort(generator.permutation(len(data))[: 4 * TRIED])
    people = np.array([data.pairs[row].subject for row in rows])
    found: dict[str, Any] = {"slices": len(rows), "said": {}, "unsaid": {}}
    whole = list(slices_of(data, rows))
    tried = np.sort(generator.permutation(len(rows))[:TRIED])
    for way in ("said", "unsaid"):
        told = way == "said"
        alarms = fingerprint.found(
            np.stack([x for x, _ in whole]), [facts if told else Facts() for _, facts in whole]
        )
        part: dict[str, Any] = {
            "false_alarm": proportion(np.array([bool(kinds) for kinds in alarms]), people)
        }
        part["alarms"] = {
            kind: proportion(np.array([kind in kinds for kinds in alarms]), people)
            for kind in ("orientation", "place", "window", "contrast")
        }
        part["changes"] = {}
        for name, (kind, change) in changes(float(data.geometry["spacing_mm"])).items():
            if way == "unsaid" and name == "called another contrast":
                continue
            made = [change(whole[row][0], whole[row][1], generator) for row in tried]
            kinds = fingerprint.found(
                np.stack([x for x, _ in made]), [facts if told else Facts() for _, facts in made]
            )
            part["changes"][name] = {
                "caught": proportion(np.array([bool(said) for said in kinds]), people[tried]),
                "named": proportion(np.array([kind in said for said in kinds]), people[tried]),
            }
        found[way] = part
    return found


def raw_heads(fingerprint: Fingerprint, paths: list[Any], geometry: Geometry) -> dict[str, Any]:
    """Real whole heads as their files have them: laid on the grid by the header alone, neither stripped nor
    registered, grey values from the least to the largest. The share of their slices that is caught."""
    affine, shape = working_grid(geometry)
    caught, people = [], []
    for path in paths:
        values = np.asanyarray(resample(load_volume(path), affine, shape).dataobj)
        values = ((values - values.min()) / np.ptp(values)).astype(np.float32)
        pixels, facts = [], []
        for plane in ("axial", "coronal", "sagittal"):
            for index in range(geometry.size // 4, 3 * geometry.size // 4, RAW_EVERY):
                pixels.append(show(values, plane, index))
                facts.append(Facts())
        said = fingerprint.found(np.stack(pixels), facts)
        caught += [bool(kinds) for kinds in said]
        people += [path.name] * len(said)
    return proportion(np.array(caught), np.array(people))
