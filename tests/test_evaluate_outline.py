"""Outline and symmetry against shapes whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas.slices import Geometry
from brainclip.data import mirror
from brainclip.evaluate.outline import (
    OUTLINE,
    asymmetry,
    atlas_outline,
    implausible,
    outline,
    outlines,
)

SIZE = 128
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def ellipse(a: float, b: float, row: float = 64.0, column: float = 64.0) -> np.ndarray:
    """(128, 128) bool with half axes a (rows) and b (columns), in pixels."""
    return ((ROWS - row) / a) ** 2 + ((COLUMNS - column) / b) ** 2 <= 1


def measured(image: np.ndarray, template: np.ndarray | None = None) -> dict[str, float]:
    values = outline(image.astype(np.float32), ellipse(40, 30) if template is None else template, 1.5)
    return dict(zip(OUTLINE, values, strict=True))


def test_an_ellipse_has_its_area_and_is_convex() -> None:
    found = measured(0.5 * ellipse(50, 30))
    assert found["area_mm2"] == pytest.approx(np.pi * 50 * 30 * 1.5**2, rel=0.005)
    assert found["solidity"] > 0.98  # the hull of pixels is a little larger
    assert found["pieces"] == 1 and found["holes"] == 0


def test_compactness_of_a_disc_is_1_and_that_of_an_ellipse_by_its_perimeter() -> None:
    assert measured(ellipse(40, 40))["compactness"] == pytest.approx(1, abs=0.02)
    a, b = 50.0, 25.0
    h = ((a - b) / (a + b)) ** 2
    perimeter = np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))  # Ramanujan 1914
    assert measured(ellipse(a, b))["compactness"] == pytest.approx(
        4 * np.pi * np.pi * a * b / perimeter**2, abs=0.02
    )


def test_solidity_of_a_cross_is_that_of_its_octagon() -> None:
    cross = ((abs(ROWS - 64) <= 10) & (abs(COLUMNS - 64) <= 40)) | (
        (abs(COLUMNS - 64) <= 10) & (abs(ROWS - 64) <= 40)
    )
    area, hull = 81 * 21 * 2 - 21**2, 81**2 - 4 * 30 * 30 / 2
    assert measured(cross)["solidity"] == pytest.approx(area / hull, abs=0.02)


def test_holes_count_by_their_area_and_are_filled_for_it() -> None:
    image = ellipse(40, 40) & ~ellipse(10, 10)
    found = measured(image)
    assert found["holes"] == pytest.approx(1 / 16, rel=0.02)
    assert found["area_mm2"] == pytest.approx(np.pi * 1600 * 1.5**2, rel=0.005)


def test_pieces_are_counted_without_specks() -> None:
    image = ellipse(30, 20, column=40) | ellipse(10, 8, column=100)
    image[2, 2] = True
    found = measured(image)
    assert found["pieces"] == 2
    assert found["area_mm2"] == pytest.approx(np.pi * 600 * 1.5**2, rel=0.01)


def test_dice_with_the_atlas_is_1_of_itself_and_a_half_of_what_is_shared_by_half() -> None:
    box = np.zeros((SIZE, SIZE), bool)
    box[20:60, 20:60] = True
    assert measured(box, box)["atlas_dice"] == 1
    assert measured(box, np.roll(box, 20, axis=1))["atlas_dice"] == pytest.approx(0.5)


def test_an_empty_picture_is_0_throughout() -> None:
    assert outline(np.zeros((SIZE, SIZE), np.float32), ellipse(9, 9), 1.5) == [0.0] * len(OUTLINE)


def test_the_atlas_lies_where_its_slice_is() -> None:
    geometry = Geometry(SIZE, 1.5)
    middle, top = (atlas_outline("axial", mm, geometry) for mm in (10.0, 70.0))
    # the template is about 180 mm long and 145 mm wide there
    assert np.count_nonzero(middle) * 1.5**2 == pytest.approx(np.pi / 4 * 180 * 145, rel=0.03)
    assert np.count_nonzero(middle) > 3 * np.count_nonzero(top) > 0
    assert atlas_outline("coronal", 140.0, Geometry(256, 1.5)).sum() == 0
    image = torch.from_numpy(np.stack([middle, top]))[:, None].float()
    found = outlines(image, np.array(["axial", "axial"]), np.array([10.0, 70.0]), geometry)
    assert found[:, OUTLINE.index("atlas_dice")] == pytest.approx([1, 1], abs=0.01)  # holes are filled


def test_about_1_percent_of_the_same_kind_is_implausible_and_all_of_another_are() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(4000, len(OUTLINE)))
    same = implausible(generator.normal(size=(2000, len(OUTLINE))), [reference] * 2000)
    assert same.mean() == pytest.approx(0.01, abs=0.004)
    assert implausible(np.full((3, len(OUTLINE)), 9.0), [reference] * 3).min() == 1
    assert np.isnan(implausible(np.zeros((1, len(OUTLINE))), [reference[:99]])).all()


def test_a_symmetric_picture_has_no_asymmetry_and_one_side_alone_has_1() -> None:
    generator = np.random.default_rng(1)
    image = torch.from_numpy(generator.uniform(0.2, 1, (1, 1, SIZE, SIZE)).astype(np.float32))
    image = image * torch.from_numpy(ellipse(50, 40)).float()
    even = (image + mirror(image)) / 2
    half = torch.from_numpy(0.5 * ellipse(30, 15, column=96)).float()[None, None]
    grey, shape = asymmetry(torch.cat([even, image, half, torch.zeros_like(half)]))
    assert grey[0] == pytest.approx(0, abs=1e-6) and shape[0] == 0
    assert grey[1] > 0.1 and shape[1] == 0
    assert grey[2] == pytest.approx(1) and shape[2] == pytest.approx(1)
    assert np.isnan(grey[3]) and np.isnan(shape[3])


def test_asymmetry_of_two_greys_is_their_difference_by_their_sum() -> None:
    image = np.where(COLUMNS < 64, 0.2, 0.6) * ellipse(40, 40)
    image[:, 64] = 0.4 * (image[:, 64] > 0)
    grey, _ = asymmetry(torch.from_numpy(image.astype(np.float32))[None, None])
    assert grey[0] == pytest.approx(0.4 / 0.8, rel=0.03)  # the column at x = 0 is its own mirror
