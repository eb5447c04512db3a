from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_pairs import write_toy_pairs

from atlas.slices import MODALITIES
from brainclip.anomaly.cases import Sweep, make_cases, read_cases, save_cases, together
from brainclip.data import PairDataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairDataset:
    folder = tmp_path_factory.mktemp("pairs")
    write_toy_pairs(folder, subjects=(2, 1, 3))
    return PairDataset([folder], "test")


def test_cases_have_each_persons_slices_and_every_step_with_a_mask(data: PairDataset, tmp_path: Path) -> None:
    sweep = {"tumour": Sweep((40.0, 60.0), (0.5,)), "atrophy": Sweep((8.0,))}
    some = make_cases(data, "toy", sweep, modalities=MODALITIES, slices=4, people=2, seed=0)
    assert sorted(set(some.column("subject"))) == ["test00", "test01"]
    healthy = some.of(some.column("kind") == "")
    assert len(healthy.rows) == 8 and not healthy.masks.any()
    lesioned = some.of(some.column("kind") == "tumour")
    assert lesioned.masks.any((1, 2)).all()
    steps = {(row.size_mm, row.contrast) for row in lesioned.rows}
    assert steps <= {(40.0, 1.0), (60.0, 1.0), (60.0, 0.5)} and len(steps) >= 2
    for row, image in zip(lesioned.rows, lesioned.images, strict=True):
        own = [
            other
            for case, other in zip(healthy.rows, healthy.images, strict=True)
            if (case.subject, case.facts) == (row.subject, row.facts)
        ]
        assert len(own) == 1 and not np.array_equal(own[0], image)
    again = make_cases(data, "toy", sweep, modalities=MODALITIES, slices=4, people=2, seed=0)
    assert again.rows == some.rows and np.array_equal(again.images, some.images)
    assert len(together([some, again]).rows) == 2 * len(some.rows)
    assert some.covariates.shape == (len(some.rows), 3)
    save_cases(some, tmp_path / "kept.npz")
    kept = read_cases(tmp_path / "kept.npz")
    assert (
        np.array_equal(kept.masks, some.masks) and np.abs(kept.images - some.images).max() <= 0.5 / 255 + 1e-6
    )
    assert [row.kind for row in kept.rows] == [row.kind for row in some.rows]
    assert np.array_equal(kept.covariates, some.covariates)
