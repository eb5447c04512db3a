"""The fingerprint: quiet about slices like the training data, and it names what was done to others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atlas.facts import Facts
from atlas.slices import Geometry
from brainclip.embedding.fingerprint import SENTENCES, Fingerprint, doubts, fit, on_cells
from brainclip.embedding.samples import Sample
from brainclip.errors import BrainclipError, WeightsError
from brainclip.evaluate.fingerprint_study import changes, moved

SIZE = 64


def brain(seed: int, contrast: str, position_mm: float) -> tuple[np.ndarray, Facts]:
    """An egg, point up, with a bright rim and a dark middle above its centre; T2: grey values exchanged."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    reach = (20 + position_mm / 12) * (1 + 0.02 * generator.normal())
    wide = reach * (0.75 + 0.2 * rows / SIZE)
    inside = (rows / reach) ** 2 + (columns / wide) ** 2
    rim = np.clip((inside - 0.55) * 4, 0, 1)
    middle = np.exp(-(((rows + 6) / 5) ** 2 + (columns / 7) ** 2))
    grey = 0.45 + 0.35 * rim - 0.35 * middle + 0.02 * generator.normal(size=rows.shape)
    grey = grey if contrast == "T1" else 0.95 - grey
    return np.where(inside < 1, np.clip(grey, 0.01, 1), 0).astype(np.float32), Facts(
        "axial", position_mm, contrast
    )


@pytest.fixture(scope="module")
def made() -> Fingerprint:
    rows = [brain(k, ("T1", "T2")[k % 2], 6.0 * (k // 2 % 6)) for k in range(720)]
    return fit(rows[:360], rows[360:])


def test_quiet_about_its_like_and_each_fault_is_named(made: Fingerprint) -> None:
    tried = [brain(1000 + k, ("T1", "T2")[k % 2], 6.0 * (k // 2 % 6)) for k in range(120)]
    pixels = np.stack([x for x, _ in tried])
    facts = [fact for _, fact in tried]
    for known in (facts, [Facts()] * len(facts)):
        alarms = [kinds for kinds in made.found(pixels, known) if kinds]
        assert len(alarms) <= 6  # of 120: a limit each for 10 measures
    generator = np.random.default_rng(0)
    for name, (kind, change) in changes(3.0).items():
        if name in ("left and right exchanged", "shifted by 5 mm", "inverted", "called another contrast"):
            continue
        changed = [change(*row, generator) for row in tried]
        found = made.found(np.stack([x for x, _ in changed]), [fact for _, fact in changed])
        caught = np.mean([bool(kinds) for kinds in found])
        assert caught > 0.5, name
        if kind == "orientation":
            assert np.mean([kind in kinds for kinds in found]) > 0.5, name
    called = [change_called(row) for row in tried]
    assert np.mean(["contrast" in kinds for kinds in made.found(pixels, called)]) > 0.9
    mirrored = made.found(np.stack([np.fliplr(x) for x in pixels]), facts)
    assert np.mean([bool(kinds) for kinds in mirrored]) < 0.1  # the sides of a head look alike


def change_called(row: tuple[np.ndarray, Facts]) -> Facts:
    fact = row[1]
    return Facts(fact.plane, fact.position_mm, "T2" if fact.modality == "T1" else "T1")


def test_warnings_count_the_slices_of_a_source(made: Fingerprint) -> None:
    good, fact = brain(1, "T1", 6.0)
    bad = np.flipud(good).copy()
    rows = [
        Sample(x, fact, source) for x, source in ((good, "a.png"), (bad, "b.png"), (good, "c"), (bad, "c"))
    ]
    told = made.warnings(rows)
    assert told == [f"b.png: {SENTENCES['orientation']}", f"c: 1 of 2 slices: {SENTENCES['orientation']}"]


def test_file_keeps_limits_and_templates(made: Fingerprint, tmp_path: Path) -> None:
    made.save(tmp_path / "x.npz")
    again = Fingerprint.load(tmp_path / "x.npz")
    assert np.abs(again.templates - made.templates).max() <= 0.5 / 255 + 1e-6
    assert list(again.plane) == list(made.plane) and list(again.contrast) == list(made.contrast)
    for name, ends in made.limits.items():
        assert again.limits[name] == pytest.approx(ends, rel=1e-5)
    with pytest.raises(WeightsError, match="no fingerprint that can be read"):
        Fingerprint.load(tmp_path / "none.npz")


def test_other_geometries_are_not_checked_and_it_says_so() -> None:
    sample = Sample(np.zeros((32, 32), np.float32))
    assert doubts([sample], Geometry(32, 3.0)) == [
        "slices of 96 mm are not checked; the training data has 192 mm"
    ]
    with pytest.raises(BrainclipError, match="needs 5 training slices"):
        fit([brain(0, "T1", 0.0)], [])


def test_cells_are_the_same_for_other_pixel_sizes() -> None:
    fine = np.kron(np.random.default_rng(0).random((32, 32)), np.ones((6, 6))).astype(np.float32)
    coarse = fine[::3, ::3]
    for one, other in zip(on_cells(fine), on_cells(coarse), strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_moved_goes_down_and_to_the_right() -> None:
    image = np.zeros((20, 20), np.float32)
    image[5, 6] = 1
    assert moved(image, shift=3.0)[8, 9] == pytest.approx(1)
    assert moved(image) == pytest.approx(image)
