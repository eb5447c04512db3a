"""Volumes in and out: orientation, types, world positions, and every kind of file that is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel import Nifti1Image

from atlas.errors import BrainclipError, VolumeError
from atlas.volume import load_labels, load_volume, resample, same_grid, save_volume, voxel_sizes

SHAPE = (24, 28, 26)


def marked(orientation: str) -> tuple[Nifti1Image, np.ndarray]:
    """A volume with one bright voxel, stored with the given axes, and the voxel's place in world mm."""
    values = np.random.default_rng(0).uniform(1, 2, SHAPE).astype(np.float32)
    values[5, 20, 9] = 9.0
    affine = np.diag([2.0, 1.5, 1.0, 1.0])
    affine[:3, 3] = (-30, -20, -10)
    place = affine @ (5, 20, 9, 1)
    image = Nifti1Image(values, affine)
    wanted = nib.orientations.axcodes2ornt(tuple(orientation))
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)), place[:3]


@pytest.mark.parametrize("orientation", ["RAS", "PSR", "LIA", "LPS", "ASL"])
def test_any_orientation_becomes_ras_and_the_marker_keeps_its_place(orientation: str, tmp_path: Path) -> None:
    image, place = marked(orientation)
    nib.save(image, tmp_path / "a.nii.gz")
    loaded = load_volume(tmp_path / "a.nii.gz")
    assert nib.aff2axcodes(loaded.affine) == ("R", "A", "S")
    assert loaded.shape == SHAPE
    values = np.asanyarray(loaded.dataobj)
    assert values.dtype == np.float32
    index = np.unravel_index(values.argmax(), values.shape)
    np.testing.assert_allclose(loaded.affine @ (*index, 1), (*place, 1))
    np.testing.assert_allclose(voxel_sizes(loaded), (2.0, 1.5, 1.0))


def test_integers_with_a_scale_become_their_scaled_values(tmp_path: Path) -> None:
    image = Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), np.eye(4))
    image.header.set_slope_inter(0.5, 3.0)
    nib.save(image, tmp_path / "a.nii")
    assert load_volume(tmp_path / "a.nii").get_fdata()[0, 0, 2] == 4.0


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img", "a.mgz"])
def test_nifti_analyze_and_mgz_are_read(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(1, 2, SHAPE).astype(np.float32)
    kinds = {"a.img": nib.spm99analyze.Spm99AnalyzeImage, "a.mgz": nib.MGHImage}
    nib.save(kinds.get(name, Nifti1Image)(values, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / name)
    loaded = load_volume(tmp_path / name)
    assert isinstance(loaded, Nifti1Image)
    np.testing.assert_allclose(np.sort(loaded.get_fdata().ravel()), np.sort(values.ravel()), rtol=1e-6)


def test_a_trailing_axis_of_one_is_dropped(tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(1, 2, (*SHAPE, 1)).astype(np.float32)
    nib.save(Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert load_volume(tmp_path / "a.nii").shape == SHAPE


def test_label_2035_survives(tmp_path: Path) -> None:
    values = np.zeros(SHAPE, np.int16)
    values[3, 4, 5] = 2035
    nib.save(Nifti1Image(values, np.diag([-1.0, 1, 1, 1])), tmp_path / "labels.nii.gz")
    labels = np.asanyarray(load_labels(tmp_path / "labels.nii.gz").dataobj)
    assert labels.dtype == np.int32
    assert labels[SHAPE[0] - 1 - 3, 4, 5] == 2035
    assert np.unique(labels).tolist() == [0, 2035]


def test_labels_that_are_not_whole_numbers_are_refused(tmp_path: Path) -> None:
    nib.save(Nifti1Image(np.full(SHAPE, 1.5, np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(VolumeError, match="whole numbers"):
        load_labels(tmp_path / "a.nii")


def bad_file(kind: str, folder: Path) -> Path:
    values = np.random.default_rng(2).uniform(1, 2, SHAPE).astype(np.float32)
    affine = np.eye(4)
    path = folder / "a.nii.gz"
    if kind == "missing":
        return path
    if kind == "4-D":
        values = np.stack([values, values], -1)
    elif kind == "NaN":
        values[1, 2, 3] = np.nan
    elif kind == "infinite":
        values[1, 2, 3] = np.inf
    elif kind == "all zero":
        values[:] = 0
    elif kind == "one slice":
        values = values[:, :, :1]
    elif kind == "colour":
        colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        nib.save(Nifti1Image(colours, affine), path)
        return path
    image = Nifti1Image(values, affine)
    if kind == "flat affine":
        image.header["srow_x"] = 0
        image.header["sform_code"] = 1
        image = Nifti1Image(values, None, image.header)
    nib.save(image, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "no volume":
        path.write_text("id,age\n1,20\n")
    elif kind == "empty file":
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("truncated", "truncated or damaged"),
        ("no volume", "not a volume that can be read|truncated or damaged"),
        ("empty file", "not a volume that can be read|truncated or damaged"),
        ("4-D", "4 dimensions"),
        ("NaN", "1 of 17472 voxels are NaN or infinite"),
        ("infinite", "1 of 17472 voxels are NaN or infinite"),
        ("all zero", "every voxel is 0"),
        ("one slice", "8 to 1024 voxels along each axis"),
        ("colour", "not grey values"),
        ("flat affine", "cannot be inverted"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(kind: str, says: str, tmp_path: Path) -> None:
    path = bad_file(kind, tmp_path)
    with pytest.raises(VolumeError, match=says) as caught:
        load_volume(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert isinstance(caught.value, BrainclipError)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f4", "f8"])
def test_reading_takes_at_most_17_bytes_a_voxel(dtype: str, tmp_path: Path) -> None:
    shape = (100, 120, 110)
    image = Nifti1Image(
        (np.arange(np.prod(shape)) % 99).reshape(shape).astype(dtype), -np.eye(4), dtype=dtype
    )
    image.header.set_slope_inter(0.5, 3.0)
    nib.save(image, tmp_path / "a.nii.gz")
    tracemalloc.start()
    load_volume(tmp_path / "a.nii.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 17 * np.prod(shape) + 2**22  # and what unpacking takes, whatever the size


def changed(folder: Path, **fields: object) -> Path:
    """A sound volume as .nii, some fields of its header changed where they lie in the file."""
    path = folder / "a.nii"
    values = np.random.default_rng(4).uniform(1, 2, SHAPE).astype(np.float32)
    nib.save(Nifti1Image(values, np.eye(4)), path)
    content = bytearray(path.read_bytes())
    header = np.frombuffer(content, nib.Nifti1Header.template_dtype, count=1)
    for name, value in fields.items():
        header[name][0] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dim": [3, 1024, 1024, 1024, 1, 1, 1, 1]}, "1024 voxels along each axis, and 268435456 in all"),
        ({"dim": [3, 500, 500, 500, 1, 1, 1, 1]}, "its header tells of 500000352 bytes, a.nii is too short"),
        ({"srow_x": [3000, 0, 0, 0]}, r"voxels of 3e\+03 x 1 x 1 mm are no head"),
        ({"srow_x": [0, 1.001, 0, 0]}, "its affine cannot be inverted"),
        ({"srow_x": [1, 0, 0, np.nan]}, "its affine cannot be inverted"),
        ({"vox_offset": 2.0**40}, "its header says that the voxels begin at byte 1.09951e"),
        ({"scl_slope": 1.0, "scl_inter": np.inf}, "truncated or damaged"),
        ({"datatype": 4096}, "truncated or damaged"),
        ({"datatype": 32, "bitpix": 64}, "voxels of type complex64 are not grey values"),
    ],
)
def test_a_damaged_header_is_refused_in_one_sentence(
    fields: dict[str, object], says: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, **fields)
    with pytest.raises(VolumeError, match=says) as caught:
        load_volume(path)
    assert "\n" not in str(caught.value)


def test_saving_is_whole_or_absent_and_makes_folders(tmp_path: Path) -> None:
    image, _ = marked("RAS")
    path = tmp_path / "new" / "folder" / "a.nii.gz"
    save_volume(image, path)
    assert [item.name for item in path.parent.iterdir()] == ["a.nii.gz"]
    assert same_grid(load_volume(path), image)
    with pytest.raises(VolumeError, match="change the ending"):
        save_volume(image, tmp_path / "a.png")


def test_resampling_goes_by_world_position() -> None:
    values = np.fromfunction(lambda i, j, k: 1.0 * i + 10.0 * j + 100.0 * k, SHAPE, dtype=np.float32)
    image = Nifti1Image(values.astype(np.float32), np.eye(4))
    affine = np.diag([0.5, 2.0, 1.0, 1.0])
    affine[:3, 3] = (3.0, 4.0, 5.0)
    moved = np.asanyarray(resample(image, affine, (6, 5, 4)).dataobj)
    assert moved.shape == (6, 5, 4)
    assert moved.dtype == np.float32
    assert moved[3, 2, 1] == pytest.approx(4.5 + 10 * 8 + 100 * 6, rel=1e-6)  # linear in world mm


def test_resampling_labels_makes_no_new_ids_and_is_zero_outside() -> None:
    labels = Nifti1Image(np.full(SHAPE, 2035, np.int32), np.eye(4))
    affine = np.diag([0.7, 0.7, 0.7, 1.0])
    affine[:3, 3] = -5
    moved = np.asanyarray(resample(labels, affine, (30, 30, 30), order=0).dataobj)
    assert moved.dtype == np.int32
    assert np.unique(moved).tolist() == [0, 2035]
    assert moved[0, 0, 0] == 0
