from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from brainclip.evaluate.confusion import confusion, confusions, level_names
from brainclip.evaluate.judge import Verdicts
from brainclip.evaluate.prompts import BANDS
from brainclip.evaluate.sections.confusion import shares
from brainclip.evaluate.wanted import Wanted


def test_counts_are_scikit_learns_and_unknown_words_are_left_out() -> None:
    draw = np.random.default_rng(0)
    labels = ["T1", "T2", "PD"]
    true, said = draw.choice(labels, 50), draw.choice(labels, 50)
    found = confusion(true, said, labels)
    assert found["counts"] == confusion_matrix(true, said, labels=labels).tolist()
    assert found["right"]["value"] == pytest.approx((true == said).mean()) and found["right"]["n"] == 50
    true[:10] = ""
    assert confusion(true, said, labels)["right"]["n"] == 40
    nobody = confusion(np.array(["", ""]), np.array(["T1", "T1"]), labels)
    assert nobody["right"]["value"] is None and np.sum(nobody["counts"]) == 0


def test_slices_are_put_into_bands_levels_and_sexes() -> None:
    wanted = Wanted(
        plane=np.array(["axial", "sagittal", "sagittal", "coronal"]),
        modality=np.array(["T1", "T1", "T2", "PD"]),
        position_mm=np.array([5.0, -30.0, 2.0, 0.0]),
        age=np.array([25.0, np.nan, 70.0, 50.0]),
        female=np.array([1.0, 0.0, np.nan, 0.0]),
    )
    verdicts = Verdicts(
        plane=np.array(["axial", "sagittal", "sagittal", "axial"]),
        modality=np.array(["T1", "T1", "T1", "PD"]),
        position_mm=np.array([5.0, 28.0, -1.0, 0.0]),
        age=np.array([12.0, 40.0, 45.0, 55.0]),
        female=np.array([0.9, 0.2, 0.5, 0.7]),
    )
    found = confusions(verdicts, wanted)
    assert found["plane"]["right"]["value"] == 0.75 and found["contrast"]["right"]["value"] == 0.75
    assert found["sagittal level"]["right"] == found["sagittal level"]["right"] | {"value": 1.0, "n": 2}
    assert found["coronal level"]["right"]["n"] == 0  # the plane was judged wrong
    assert found["age band"]["labels"] == list(BANDS)
    assert found["age band"]["counts"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]  # 12 years are young
    assert found["sex"]["counts"] == [[1, 0], [1, 1]]


def test_sagittal_levels_have_no_side() -> None:
    names = level_names("sagittal")
    assert names[0] == "midline" and len(names) == 9
    assert not any(name.startswith(("left", "right")) for name in names)


def test_shares_are_of_the_row_and_an_empty_row_has_none() -> None:
    found = shares(np.array([[3.0, 1.0], [0.0, 0.0]]))
    assert found[0].tolist() == [0.75, 0.25] and np.isnan(found[1]).all()
