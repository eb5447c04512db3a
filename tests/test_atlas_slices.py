"""Slices: left and right, the three planes, the way into NIfTI and back, grey values."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel import Nifti1Image
from nibabel.affines import apply_affine

from atlas.atlas import load_atlas
from atlas.errors import VolumeError
from atlas.slices import (
    MODALITIES,
    PLANES,
    Geometry,
    cut,
    nifti_to_slice,
    positions,
    slice_affine,
    slice_to_nifti,
    window,
    working_grid,
)
from atlas.volume import resample

SMALL = Geometry(size=40, spacing_mm=4.5)
# a marker in the subject's left, to the front, above the centre
PLACE = (-54.0, 10.0, 41.0)


def marked() -> tuple[Nifti1Image, Nifti1Image, np.ndarray]:
    affine, shape = working_grid(SMALL)
    index = np.round(np.linalg.inv(affine) @ (*PLACE, 1))[:3].astype(int)
    values, labels = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    values[tuple(index)], labels[tuple(index)] = 1.0, 2035
    return Nifti1Image(values, affine), Nifti1Image(labels, affine), apply_affine(affine, index)


@pytest.mark.parametrize(
    ("plane", "axis", "upper", "left"),
    [
        ("axial", 2, True, True),  # front is up, the subject's left is at image left
        ("coronal", 1, True, True),  # top is up
        ("sagittal", 0, True, True),  # top is up, front is at image left
    ],
)
def test_left_marker_stays_left(plane: str, axis: int, upper: bool, left: bool) -> None:
    volume, labels, place = marked()
    found = cut(volume, labels, plane, place[axis], SMALL)
    assert found.pixels.dtype == np.float32
    assert found.labels.dtype == np.int32
    row, column = np.unravel_index(found.pixels.argmax(), found.pixels.shape)
    assert found.labels[row, column] == 2035
    assert (row < SMALL.size / 2) == upper
    assert (column < SMALL.size / 2) == left
    assert found.position_mm == place[axis]
    assert found.position_mm == positions(plane, SMALL)[found.index]
    assert not cut(volume, labels, plane, place[axis] + SMALL.spacing_mm, SMALL).pixels.any()


@pytest.mark.parametrize("plane", PLANES)
def test_left_marker_is_at_negative_x_in_nifti(plane: str) -> None:
    volume, labels, place = marked()
    found = cut(volume, labels, plane, place[PLANES[::-1].index(plane)], SMALL)
    image = slice_to_nifti(found.pixels, plane, found.position_mm, SMALL)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.shape.count(1) == 1
    index = np.unravel_index(np.asanyarray(image.dataobj).argmax(), image.shape)
    world = apply_affine(image.affine, index)
    np.testing.assert_allclose(world, place, atol=1e-5)
    assert world[0] < 0


@pytest.mark.parametrize("plane", PLANES)
def test_a_slice_comes_back_from_nifti_unchanged(plane: str) -> None:
    pixels = np.random.default_rng(0).uniform(0, 1, (40, 40)).astype(np.float32)
    image = slice_to_nifti(pixels, plane, 12.5, SMALL)
    back, its_plane, position_mm = nifti_to_slice(image, SMALL)
    np.testing.assert_array_equal(back, pixels)
    assert (its_plane, position_mm) == (plane, 12.5)
    np.testing.assert_allclose(image.affine, slice_affine(plane, 12.5, SMALL))
    turned = image.as_reoriented(np.array([[2, 1], [0, -1], [1, -1]]))  # another order of axes
    np.testing.assert_array_equal(nifti_to_slice(turned, SMALL)[0], pixels)


def test_a_slice_of_other_pixels_is_brought_to_the_geometry() -> None:
    fine = Geometry(size=120, spacing_mm=1.5)
    rows, columns = np.mgrid[0:120, 0:120] / 119.0
    smooth = (np.sin(3 * rows) * np.cos(2 * columns)).clip(0).astype(np.float32)
    pixels, plane, position_mm = nifti_to_slice(slice_to_nifti(smooth, "coronal", -20.0, fine), SMALL)
    assert (pixels.shape, plane, position_mm) == ((40, 40), "coronal", -20.0)
    # both grids begin at the same place in RAS+; rows are counted from the other end
    np.testing.assert_allclose(pixels[1:-1, 1:-1], smooth[2::3, ::3][1:-1, 1:-1], atol=1e-5)


def test_what_is_not_one_slice_is_refused() -> None:
    for shape in [(8, 9, 10), (1, 1, 9), (8, 9, 1, 3)]:
        with pytest.raises(VolumeError, match="not one slice"):
            nifti_to_slice(Nifti1Image(np.ones(shape, np.float32), np.eye(4)), SMALL)
    with pytest.raises(VolumeError, match="40 squared"):
        slice_to_nifti(np.ones((40, 41), np.float32), "axial", 0.0, SMALL)


def test_another_grid_place_or_plane_is_refused() -> None:
    volume, labels, _ = marked()
    with pytest.raises(VolumeError, match="resample it first"):
        cut(Nifti1Image(volume.dataobj, np.eye(4)), labels, "axial", 0.0, SMALL)
    with pytest.raises(VolumeError, match=r"slices run from -85 to 90\.5 mm"):
        cut(volume, labels, "axial", 95.0, SMALL)
    with pytest.raises(VolumeError, match="unknown plane 'oblique'; possible: axial, coronal, sagittal"):
        cut(volume, labels, "oblique", 0.0, SMALL)


@pytest.mark.parametrize("geometry", [Geometry(), Geometry(size=128, spacing_mm=1.5)])
def test_the_whole_template_fits_and_there_is_a_midline_slice(geometry: Geometry) -> None:
    affine, shape = working_grid(geometry)
    template = load_atlas().template
    inside = np.asanyarray(resample(template, affine, shape).dataobj) > 0
    for axis in range(3):
        assert not inside.take([0, -1], axis=axis).any()
    ours = inside.sum() * geometry.spacing_mm**3 / (np.asanyarray(template.dataobj) > 0).sum()
    assert ours == pytest.approx(1.0, abs=0.02)  # linear interpolation widens the rim a little
    assert 0.0 in positions("sagittal", geometry)


def test_white_matter_of_the_template_is_bright_and_fluid_dark() -> None:
    loaded = load_atlas()
    values, labels = np.asanyarray(loaded.template.dataobj), np.asanyarray(loaded.labels.dataobj)
    grey = window(values, values > 0, "T1")
    assert np.median(grey[np.isin(labels, [2, 41])]) == pytest.approx(0.80, abs=0.07)
    assert np.median(grey[np.isin(labels, [4, 43])]) < 0.3


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_window_does_not_depend_on_the_scale_and_is_zero_outside(modality: str) -> None:
    rng = np.random.default_rng(0)
    volume = rng.gamma(6.0, 20.0, (24, 28, 26)).astype(np.float32)
    mask = np.zeros(volume.shape, bool)
    mask[4:20, 5:22, 3:24] = True
    grey = window(volume, mask, modality)
    assert grey.dtype == np.float32
    assert not grey[~mask].any()
    assert grey.min() >= 0
    assert grey.max() <= 1
    np.testing.assert_allclose(window(volume * 37, mask, modality), grey, atol=1e-5)
    volume[6, 6, 6] = 1e6  # one bright voxel changes nothing
    assert np.abs(window(volume, mask, modality) - grey)[volume < 1e6].max() < 0.05  # 0.1 % are 6 voxels here


def test_no_tissue_is_clipped_in_proton_density() -> None:
    volume = np.concatenate([np.full((10, 10, 10), v, np.float32) for v in (0.70, 0.82, 1.00)])
    grey = window(volume, np.ones(volume.shape, bool), "PD")
    assert 0.1 < grey.min() < grey.max() < 1.0


def test_an_empty_mask_a_flat_brain_and_an_unknown_contrast_are_refused() -> None:
    volume = np.ones((24, 28, 26), np.float32)
    with pytest.raises(VolumeError, match="mask is empty"):
        window(volume, np.zeros(volume.shape), "T1")
    with pytest.raises(VolumeError, match="no contrast"):
        window(volume, np.ones(volume.shape), "T1")
    with pytest.raises(VolumeError, match="unknown contrast 'CT'; possible: T1, T2, PD, FLAIR"):
        window(volume, np.ones(volume.shape), "CT")
