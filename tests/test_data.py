"""Geometric augmentation: mirrored sides in picture, facts and caption together; bounded, repeatable, off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_pairs import write_toy_pairs

from atlas.caption import caption, truth
from atlas.facts import Facts, level_at, mirrored
from brainclip.config_pairs import AugmentRecipe
from brainclip.data import PairDataset, mirror, nested, warp
from brainclip.errors import PairsError

AXIAL = Facts(
    "axial",
    4.5,
    "T1",
    level_at("axial", 4.5),
    regions={"brainstem": 300.0, "left hippocampus": 120.0, "right putamen": 80.0},
    volumes={"brain": 1.2e6, "left hippocampus": 4000.0, "right hippocampus": 4200.0},
    known={"age": 34.0, "handedness": "right"},
    source="toy",
)
SAGITTAL = replace(
    AXIAL, plane="sagittal", position_mm=-28.5, level="left hippocampus", regions={"left hippocampus": 500.0}
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PairDataset:
    folder = tmp_path_factory.mktemp("pairs")
    write_toy_pairs(folder, subjects=(4, 1, 1))
    return PairDataset([folder], "train")


def test_mirrored_facts_swap_left_and_right() -> None:
    other = mirrored(AXIAL)
    assert other.regions == {"brainstem": 300.0, "left putamen": 80.0, "right hippocampus": 120.0}
    assert list(other.regions) == sorted(other.regions)
    assert other.volumes == {"brain": 1.2e6, "left hippocampus": 4200.0, "right hippocampus": 4000.0}
    assert (other.plane, other.position_mm, other.level) == ("axial", 4.5, AXIAL.level)
    assert other.known == {"age": 34.0}  # the hand of a mirrored brain is not known
    assert mirrored(other) == replace(AXIAL, known={"age": 34.0})


def test_positions_and_levels_of_sagittal_planes_change_sign_and_side() -> None:
    other = mirrored(SAGITTAL)
    assert (other.position_mm, other.level) == (28.5, "right hippocampus")
    assert other.regions == {"right hippocampus": 500.0}
    assert mirrored(replace(SAGITTAL, position_mm=None)).level == "right hippocampus"
    middle = mirrored(replace(SAGITTAL, position_mm=0.0, level="midline"))
    assert (str(middle.position_mm), middle.level) == ("0.0", "midline")
    assert mirrored(replace(AXIAL, plane="coronal", position_mm=-20.0)).position_mm == -20.0


def test_captions_of_mirrored_facts_name_the_other_side() -> None:
    named = 0
    for seed in range(200):
        for facts in (AXIAL, SAGITTAL):
            said = caption(mirrored(facts), seed=seed)
            assert truth(said.mentioned, mirrored(facts))
            if sided := [name for name in said.mentioned.get("regions", ()) if " " in name]:
                named += 1
                assert set(sided) <= set(mirrored(facts).regions)
                assert not truth(said.mentioned, facts)
                assert all(name in said.text for name in sided)
            if facts is SAGITTAL:
                assert "left" not in said.text
    assert named > 50


@pytest.mark.parametrize("size", [32, 33])
def test_mirroring_is_about_the_midline(size: int) -> None:
    """Column W // 2 lies at x = 0, so 3 mm to the left becomes 3 mm to the right."""
    image = torch.zeros(1, 1, size, size)
    image[0, 0, 5, size // 2 - 3] = 0.75
    image[0, 0, 7, size // 2] = 0.5
    other = mirror(image)
    assert other[0, 0, 5, size // 2 + 3] == 0.75
    assert other[0, 0, 7, size // 2] == 0.5
    assert other.count_nonzero() == 2
    assert torch.equal(mirror(other), image)


def test_without_augmentation_slices_and_facts_are_those_of_the_folder(data: PairDataset) -> None:
    indices = data.draw(16, 1, 2)
    images, facts = data.augmented(indices, AugmentRecipe(), seed=1, step=2)
    assert torch.equal(images, data.images(indices))
    assert all(a is data.pairs[i].facts for a, i in zip(facts, indices, strict=True))


def test_always_mirrored_changes_axial_and_coronal_pixels_and_sagittal_positions(data: PairDataset) -> None:
    indices = np.arange(24)
    images, facts = data.augmented(indices, AugmentRecipe(mirror=1.0), seed=1, step=2)
    before = data.images(indices)
    for row, index in enumerate(indices):
        old = data.pairs[index].facts
        if old.plane == "sagittal":
            assert torch.equal(images[row], before[row])
            assert facts[row].position_mm == -old.position_mm  # type: ignore[operator]
        else:
            assert torch.equal(images[row], mirror(before[row : row + 1])[0])
            assert not torch.equal(images[row], before[row])
            assert facts[row].position_mm == old.position_mm
    assert facts == [mirrored(data.pairs[index].facts) for index in indices]


def test_a_change_depends_on_seed_step_and_index_alone(data: PairDataset) -> None:
    how = AugmentRecipe(mirror=0.5, rotate_degrees=8, scale=0.05, shift_mm=12, elastic_mm=6)
    images, facts = data.augmented([3, 7, 11, 20], how, seed=1, step=5)
    again, facts_again = data.augmented([20, 3], how, seed=1, step=5)
    assert torch.equal(again, images[[3, 0]])
    assert facts_again == [facts[3], facts[0]]
    for seed, step in ((1, 6), (2, 5)):
        assert not torch.equal(data.augmented([3], how, seed=seed, step=step)[0], images[:1])
    share = sum(
        facts != data.pairs[2].facts  # a sagittal slice
        for step in range(200)
        for facts in data.augmented([2], AugmentRecipe(mirror=0.25), seed=0, step=step)[1]
    )
    assert 30 <= share <= 70  # 50 are expected, with a standard deviation of 6


def disc(size: int = 65, *, row: float, column: float, radius: float = 4) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).float()[None, None]


def centre(image: torch.Tensor) -> np.ndarray:
    """(row, column) of the middle of the brightness."""
    weights = image[0, 0] / image.sum()
    size = image.shape[-1]
    return np.array(
        [(weights.sum(1) * torch.arange(size)).sum(), (weights.sum(0) * torch.arange(size)).sum()]
    )


@pytest.mark.parametrize(
    ("how", "bound", "least"),
    [
        (AugmentRecipe(shift_mm=6), 3 * np.sqrt(2), 2.0),  # 2 mm a pixel, both axes
        (AugmentRecipe(rotate_degrees=10), 20 * np.deg2rad(10), 2.0),
        (AugmentRecipe(scale=0.1), 20 * 0.1, 1.0),
        (AugmentRecipe(elastic_mm=4), 2 * np.sqrt(2) * 1.2, 0.5),  # bicubic overshoots its knots
    ],
)
def test_a_point_moves_within_the_bound(how: AugmentRecipe, bound: float, least: float) -> None:
    image = disc(row=12, column=32)  # 20 pixels above the middle
    moved = []
    for seed in range(60):
        changed = warp(image, how, np.random.default_rng(seed), pixels_per_mm=0.5)
        assert changed.min() >= 0 and changed.max() <= 1
        moved.append(float(np.linalg.norm(centre(changed) - centre(image))))
    assert max(moved) <= bound + 0.2  # pixels; the disc is sampled
    assert max(moved) > least


def test_enlarging_by_a_tenth_enlarges_areas_by_its_square() -> None:
    image = disc(row=32, column=32, radius=12)
    areas = [
        float(warp(image, AugmentRecipe(scale=0.1), np.random.default_rng(seed), pixels_per_mm=1).sum())
        for seed in range(40)
    ]
    assert max(areas) <= float(image.sum()) * 1.21 * 1.01
    assert min(areas) >= float(image.sum()) / 1.21 * 0.99
    assert max(areas) > float(image.sum()) * 1.15


def test_batches_hold_groups_alike_in_all_but_the_person(data: PairDataset) -> None:
    indices = data.draw(40, 1, 2, alike=0.8)
    assert len(indices) == 40
    assert np.array_equal(indices, data.draw(40, 1, 2, alike=0.8))
    assert not np.array_equal(indices, data.draw(40, 1, 3, alike=0.8))
    places = [
        (facts.plane, facts.modality, float(facts.position_mm or 0) // 6)
        for facts in (data.pairs[i].facts for i in indices)
    ]
    most = sorted((places.count(place) for place in set(places)), reverse=True)
    assert sum(most[:2]) >= 32  # two groups of 16, or one of 32
    assert np.array_equal(data.draw(40, 1, 2, alike=0.0), data.draw(40, 1, 2))


def test_choices_of_slices_are_nested_and_balanced(data: PairDataset) -> None:
    order = nested(data.pairs)
    assert sorted(pair.file_name for pair in order) == sorted(pair.file_name for pair in data.pairs)
    assert nested(data.pairs[::-1]) == order
    for n in (12, 24, 48):  # 3 planes and 4 contrasts, 4 people with two slices of each
        kinds = [(pair.facts.plane, pair.facts.modality) for pair in order[:n]]
        assert {kinds.count(kind) for kind in kinds} == {n // 12}
    t1 = [pair.subject for pair in order if (pair.facts.plane, pair.facts.modality) == ("axial", "T1")]
    assert len(set(t1[:4])) == 4
    few = PairDataset(data.folders, "train", slices=5)
    assert few.pairs == order[:5] and few.images([4]).shape == (1, 1, 32, 32)
    assert few.hash == f"{data.hash}@5"
    with pytest.raises(PairsError, match="96 slices in the split 'train', 97 are wanted"):
        PairDataset(data.folders, "train", slices=97)
