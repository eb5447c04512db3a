"""Scans prepared for looking at alone have the pixels they have in a folder of pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_atlas_prepare import AFFINE, GEOMETRY, SHAPE, brain, scan

from atlas.prepare import Settings, _prepare_session
from atlas.slices import working_grid
from atlas.visit import prepare_visit, slices_of
from atlas.volume import resample

SETTINGS = Settings(GEOMETRY, every_mm=9.0, seed=0, nonlinear=False)


def test_both_contrasts_of_a_visit_have_the_pixels_that_pairs_have(tmp_path: Path) -> None:
    scans = [
        scan(tmp_path, "T2", resample(brain(inverted=True), AFFINE, SHAPE)),
        scan(tmp_path, "T1", resample(brain(), AFFINE, SHAPE)),
    ]
    made, refused = prepare_visit(scans, SETTINGS)
    assert not refused and [one.scan.modality for one in made] == ["T1", "T2"]
    pairs = _prepare_session(scans, SETTINGS, []).slices
    for one in made:
        cut = {
            (plane, place): pixels for plane, place, pixels in slices_of(one.image, GEOMETRY, every_mm=3.0)
        }
        own = [(facts, pixels) for pixels, facts in pairs if facts.modality == one.scan.modality]
        assert len(own) > 20
        for facts, pixels in own:
            np.testing.assert_array_equal(cut[str(facts.plane), float(facts.position_mm or 0)], pixels)


def test_a_scan_that_is_no_brain_is_refused_alone(tmp_path: Path) -> None:
    noise = resample(brain(), AFFINE, SHAPE)
    values = np.asanyarray(noise.dataobj).copy()
    values[values > 0] = np.random.default_rng(0).uniform(1, 2, (values > 0).sum())
    good = scan(tmp_path, "T1", resample(brain(), AFFINE, SHAPE))
    bad = scan(tmp_path, "PD", type(noise)(values, noise.affine))
    made, refused = prepare_visit([bad, good], SETTINGS)
    assert [one.scan for one in made] == [good]
    assert [one for one, _ in refused] == [bad]
    assert "does not fit the template" in str(refused[0][1])


def test_slices_lie_at_the_multiples_of_the_distance_and_show_brain() -> None:
    affine, shape = working_grid(GEOMETRY)
    image = resample(brain(), affine, shape)
    places = [(plane, place) for plane, place, _ in slices_of(image, GEOMETRY, every_mm=12.0)]
    assert ("sagittal", 0.0) in places
    axial = [place for plane, place in places if plane == "axial"]
    assert axial == sorted(axial) and all(abs(place - 12 * round(place / 12)) <= 1.5 for place in axial)
    assert len(places) == len(set(places)) and 25 <= len(places) <= 40
