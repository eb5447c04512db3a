"""One visit: two contrasts brought together, volumes on the scan's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel import Nifti1Image
from scipy.spatial.transform import Rotation

from atlas.atlas import load_atlas
from atlas.brain import labels_and_volumes
from atlas.facts import with_side
from atlas.prepare import Settings, Visit, _prepare_session
from atlas.register import Registration
from atlas.slices import Geometry, working_grid
from atlas.sources import Scan
from atlas.volume import resample, save_volume

GEOMETRY = Geometry(size=64, spacing_mm=3.0)
AFFINE = np.array([[3.0, 0, 0, -84], [0, 3, 0, -123], [0, 0, 3, -90], [0, 0, 0, 1]])
SHAPE = (56, 68, 62)


def scan(folder: Path, modality: str, image: Nifti1Image) -> Scan:
    path = folder / f"anna_{modality}.nii.gz"
    save_volume(image, path)
    return Scan("folder", "anna", "", modality, path)


def brain(move: np.ndarray | None = None, *, inverted: bool = False) -> Nifti1Image:
    """The template where `move` puts it; inverted: white matter dark and fluid bright, as in T2."""
    template = load_atlas().template
    values = np.asanyarray(template.dataobj)
    if inverted:
        values = np.where(values > 0, values.max() + 50 - values, 0).astype(np.float32)
    return Nifti1Image(values, (np.eye(4) if move is None else move) @ template.affine)


def prepared(scans: list[Scan]) -> tuple[Visit, list[dict[str, str]]]:
    rejected: list[dict[str, str]] = []
    settings = Settings(GEOMETRY, every_mm=3.0, seed=0, nonlinear=False)
    return _prepare_session(scans, settings, rejected), rejected


@pytest.mark.parametrize("grid", ["the same", "another"])
def test_a_second_contrast_is_brought_onto_the_first_after_the_person_moved(
    grid: str, tmp_path: Path
) -> None:
    move = np.eye(4)
    move[:3, :3] = Rotation.from_rotvec(np.radians([3.0, -4.0, 5.0])).as_matrix()
    move[:3, 3] = (8.0, -6.0, 4.0)
    affine, shape = AFFINE.copy(), SHAPE
    if grid == "another":
        affine[:3, 3] += (-11.0, 4.0, -7.0)
        affine[:3, :3] = np.diag([2.5, 3.0, 3.5])
        shape = (76, 70, 58)
    first = scan(tmp_path, "T1", resample(brain(), AFFINE, SHAPE))
    second = scan(tmp_path, "T2", resample(brain(move, inverted=True), affine, shape))
    visit, rejected = prepared([second, first])
    assert rejected == []
    pixels = {(facts.modality, facts.plane, facts.position_mm): image for image, facts in visit.slices}
    both = [key[1:] for key in pixels if key[0] == "T1" and ("T2", *key[1:]) in pixels]
    assert len(both) > 100
    shifts, together = [], []
    for key in both:
        t1, t2 = pixels["T1", *key], pixels["T2", *key]
        if min((t1 > 0).sum(), (t2 > 0).sum()) > 700:
            shifts.append(3.0 * np.abs(np.argwhere(t1 > 0).mean(0) - np.argwhere(t2 > 0).mean(0)).max())
            inside = (t1 > 0) & (t2 > 0)
            together.append(np.corrcoef(t1[inside], t2[inside])[0, 1])
    assert len(shifts) > 60
    assert np.median(shifts) < 1  # a third of a voxel; 6 when nothing is aligned
    assert np.median(together) < -0.7  # -0.77 on 3 mm voxels that were interpolated twice


def test_a_second_contrast_that_does_not_fit_is_rejected_alone(tmp_path: Path) -> None:
    first = scan(tmp_path, "T1", resample(brain(), AFFINE, SHAPE))
    inside = np.asanyarray(resample(brain(), AFFINE, SHAPE).dataobj) > 0
    noise = np.where(inside, np.random.default_rng(0).uniform(50, 150, SHAPE), 0).astype(np.float32)
    second = scan(tmp_path, "PD", Nifti1Image(noise, AFFINE))
    visit, rejected = prepared([first, second])
    assert [row["path"] for row in rejected] == ["anna_PD.nii.gz"]
    assert (
        "aligned with the first contrast of its visit, it does not fit the template: similarity 0.0"
        in (rejected[0]["reason"])
    )
    assert {facts.modality for _, facts in visit.slices} == {"T1"}
    assert list(visit.masks) == ["T1"]


def test_volumes_do_not_depend_on_the_geometry_of_the_slices(tmp_path: Path) -> None:
    atlas = load_atlas()
    # half again as wide as the template, so that the native volumes are two thirds of the atlas's
    native = np.diag([2 / 3, 1.0, 1.0, 1.0])
    affine = np.diag([1.6, 2.0, 2.4, 1.0])
    affine[:3, 3] = (native @ atlas.template.affine)[:3, 3]
    shape = (86, 120, 82)
    small = resample(Nifti1Image(atlas.template.dataobj, native @ atlas.template.affine), affine, shape)
    known = Registration(np.linalg.inv(native), None, 1.0, 1.0)
    of_anna = Scan("folder", "anna", "", "T1", tmp_path)
    found = [
        labels_and_volumes(of_anna, small, known, atlas, *working_grid(geometry))[1]
        for geometry in (Geometry(), Geometry(24, 3.0), Geometry(16, 8.0))
    ]
    assert found[0] == found[1] == found[2]
    counts = np.bincount(np.asanyarray(atlas.labels.dataobj).ravel())
    voxel_mm3 = float(abs(np.linalg.det(atlas.labels.affine[:3, :3]))) * 2 / 3
    assert found[0]["brain"] == pytest.approx(counts[1:].sum() * voxel_mm3, rel=0.01)
    for name in ("left thalamus", "right putamen", "left lateral ventricle", "brainstem"):
        ids = [region.id for region in atlas.regions if with_side(region.name, region.side) == name]
        # 8 mm3 voxels of regions of 3 to 20 ml
        assert found[0][name] == pytest.approx(counts[ids].sum() * voxel_mm3, rel=0.03), name
