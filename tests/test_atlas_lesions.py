from __future__ import annotations

import numpy as np
import pytest
from nibabel import Nifti1Image

from atlas.errors import BrainclipError
from atlas.lesion_shapes import grid_points, slice_points
from atlas.lesions import GREY, KINDS, Lesion, lesion_in_slice, lesion_in_volume, random_lesion
from atlas.slices import MODALITIES, PLANES, Geometry, cut, positions, working_grid

GEOMETRY = Geometry(64, 3.0)
TISSUE = {"T1": (0.8, 0.1), "T2": (0.3, 0.9), "PD": (0.5, 0.85), "FLAIR": (0.65, 0.15)}  # white, fluid


def brain(modality: str) -> Nifti1Image:
    """An ellipsoid of white matter with a lateral ventricle on either side, on the working grid."""
    affine, shape = working_grid(GEOMETRY)
    points = grid_points(affine, shape)
    white, fluid = TISSUE[modality]
    values = np.where(np.linalg.norm((points - (0, -17, 5)) / (65, 80, 60), axis=-1) < 1, white, 0.0)
    for side in (-13, 13):
        inside = np.linalg.norm((points - (side, -14, 16)) / (8, 25, 9), axis=-1) < 1
        values[inside] = fluid
    return Nifti1Image(values.astype(np.float32), affine)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("kind", ["tumour", "sclerosis", "infarct"])
def test_lesion_has_its_grey_inside_the_mask_and_changes_nothing_far_away(kind: str, modality: str) -> None:
    lesion = Lesion(kind, (32, -20, 20), 24, seed=3)
    healthy = brain(modality)
    made, mask = lesion_in_volume(healthy, lesion, modality=modality)
    before, after, inside = (np.asanyarray(image.dataobj) for image in (healthy, made, mask))
    assert inside.sum() * 27 > 100  # mm3
    level = GREY[kind][modality]
    assert np.isclose(after[inside > 0], level, atol=0.08).any()
    white = TISSUE[modality][0]
    assert (np.abs(after[inside > 0] - white) > 0.02).mean() > 0.8
    points = grid_points(healthy.affine, before.shape)
    far = np.linalg.norm(np.abs(points) - np.abs(lesion.centre_mm), axis=-1) > 75
    assert np.array_equal(before[far], after[far])
    assert not after[before == 0].any()


@pytest.mark.parametrize("plane", PLANES)
def test_slice_and_volume_show_the_same_lesion(plane: str) -> None:
    healthy = brain("T1")
    lesion = Lesion("infarct", (32, -20, 20), 30, seed=1)
    _, mask = lesion_in_volume(healthy, lesion, modality="T1")
    labels = Nifti1Image(np.zeros(healthy.shape, np.int32), healthy.affine)
    place = {"axial": 20.0, "coronal": -20.0, "sagittal": 32.0}[plane]
    whole = cut(healthy, labels, plane, place, GEOMETRY)
    _, own = lesion_in_slice(
        whole.pixels, lesion, modality="T1", plane=plane, position_mm=whole.position_mm, geometry=GEOMETRY
    )
    masked = cut(
        Nifti1Image(np.asanyarray(mask.dataobj, dtype=np.float32), mask.affine),
        labels,
        plane,
        place,
        GEOMETRY,
    )
    both = (own & (masked.pixels > 0)).sum()
    assert both > 10 and both / (own | (masked.pixels > 0)).sum() > 0.9  # fine texture is 2-D or 3-D


def test_slice_points_lie_where_cut_takes_its_pixels() -> None:
    affine, shape = working_grid(GEOMETRY)
    points = grid_points(affine, shape)
    labels = Nifti1Image(np.zeros(shape, np.int32), affine)
    for plane in PLANES:
        place = float(positions(plane, GEOMETRY)[20])
        for axis in range(3):
            shown = cut(
                Nifti1Image(np.ascontiguousarray(points[..., axis]), affine), labels, plane, place, GEOMETRY
            )
            assert np.allclose(shown.pixels, slice_points(plane, place, GEOMETRY)[..., axis])


def test_contrast_zero_changes_nothing_and_more_contrast_changes_more() -> None:
    healthy = np.asanyarray(brain("FLAIR").dataobj)
    for kind in KINDS:
        change = []
        for contrast in (0.0, 0.5, 1.0):
            lesion = Lesion(kind, (32, -20, 20), 12, contrast, seed=2)
            made, _ = lesion_in_volume(brain("FLAIR"), lesion, modality="FLAIR")
            change.append(float(np.abs(np.asanyarray(made.dataobj) - healthy).sum()))
        assert change[0] == pytest.approx(0, abs=1e-3) and change[0] < change[1] < change[2]


def test_atrophy_widens_the_ventricles_and_its_mask_is_where_the_slice_changed() -> None:
    healthy = brain("T1")
    made, mask = lesion_in_volume(
        healthy, random_lesion("atrophy", size_mm=6, contrast=1, seed=0), modality="T1"
    )
    before, after = (np.asanyarray(image.dataobj) for image in (healthy, made))
    fluid = [((values > 0.02) & (values < 0.3)).sum() for values in (before, after)]
    assert fluid[1] > 1.3 * fluid[0]
    assert np.array_equal(np.asanyarray(mask.dataobj) > 0, np.abs(after - before) > 0.1)


def test_random_lesions_lie_in_the_slice_and_repeat_with_their_seed() -> None:
    for kind in ("tumour", "sclerosis", "infarct"):
        first = random_lesion(kind, size_mm=20, contrast=1, seed=4, near=("coronal", -20.0))
        assert first == random_lesion(kind, size_mm=20, contrast=1, seed=4, near=("coronal", -20.0))
        assert abs(first.centre_mm[1] + 20) <= 1
        assert first != random_lesion(kind, size_mm=20, contrast=1, seed=5, near=("coronal", -20.0))


def test_wrong_lesions_are_refused() -> None:
    with pytest.raises(BrainclipError, match="possible are tumour"):
        Lesion("cyst", (0, 0, 0), 10)
    with pytest.raises(BrainclipError, match="a size above 0"):
        Lesion("tumour", (0, 0, 0), 0)
    with pytest.raises(BrainclipError, match="no place"):
        random_lesion("sclerosis", size_mm=10, contrast=1, seed=0, near=("axial", -70.0))
    with pytest.raises(BrainclipError, match="64 squared"):
        lesion_in_slice(
            np.zeros((32, 32)),
            Lesion("tumour", (0, 0, 0), 10),
            modality="T1",
            plane="axial",
            position_mm=0,
            geometry=GEOMETRY,
        )
