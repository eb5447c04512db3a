"""The simulated cohort: the same again from its seed, ageing, tissue contrasts, true labels, resuming."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from atlas.anatomy import TISSUES, Anatomy, add_folia
from atlas.errors import SourceError, VolumeError
from atlas.simulate import anatomy_files, anatomy_of, load_anatomy, simulate_subject, write_cohort
from atlas.simulate_shape import (
    FIELD_HIGH,
    FIELD_LOW,
    WARP_SPACING_MM,
    draw_person,
    exponential,
    output_grid,
    warp_velocity,
    warped_positions,
)
from atlas.simulate_signal import Scanner, draw_scanner, signal, tissue_values

SPACING_MM = 4.0
LATERAL_VENTRICLES = (4, 43)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return load_anatomy(SPACING_MM)


@pytest.fixture(scope="module")
def ages(anatomy: Anatomy) -> dict:
    return {age: simulate_subject(anatomy, seed=5, age=age, spacing_mm=SPACING_MM) for age in (30, 55, 80)}


def pixels(image: nib.Nifti1Image) -> np.ndarray:
    return np.asanyarray(image.dataobj)


def volume_of(subject, ids: tuple[int, ...]) -> float:
    return np.isin(pixels(subject.labels), ids).sum() * SPACING_MM**3 / 1000


def median(subject, modality: str, ids: tuple[int, ...]) -> float:
    return float(np.median(pixels(subject.images[modality])[np.isin(pixels(subject.labels), ids)]))


def test_the_same_seed_gives_the_same_subject(anatomy, ages):
    again = simulate_subject(anatomy, seed=5, age=55, spacing_mm=SPACING_MM)
    other = simulate_subject(anatomy, seed=6, age=55, spacing_mm=SPACING_MM)
    for modality, image in ages[55].images.items():
        assert np.array_equal(pixels(again.images[modality]), pixels(image))
        assert not np.array_equal(pixels(other.images[modality]), pixels(image))
    assert np.array_equal(pixels(again.labels), pixels(ages[55].labels))


def test_one_contrast_does_not_depend_on_which_others_are_made(anatomy, ages):
    alone = simulate_subject(anatomy, seed=5, age=55, spacing_mm=SPACING_MM, modalities=["PD"])
    assert list(alone.images) == ["PD"]
    assert np.array_equal(pixels(alone.images["PD"]), pixels(ages[55].images["PD"]))


def test_age_and_sex_are_drawn_when_not_given():
    people = [draw_person(seed, None, None) for seed in range(200)]
    assert {person.sex for person in people} == {"female", "male"}
    assert 18 <= min(p.age for p in people) < 25 < 80 < max(p.age for p in people) <= 90
    given = draw_person(3, 40, "male")
    assert (given.age, given.sex) == (40.0, "male")


def test_age_widens_the_ventricles(ages):
    young, middle, old = (volume_of(ages[age], LATERAL_VENTRICLES) for age in (30, 55, 80))
    assert young < middle < old
    assert old > 1.5 * young


def test_age_brings_fluid(ages):
    # fluid is the darkest tenth of T1 signal and nothing else is
    dark = [((image := pixels(ages[age].images["T1"])) > 0).sum() for age in (30, 55, 80)]
    fluid = [((image := pixels(ages[age].images["T1"]))[image > 0] < 0.5).mean() for age in (30, 55, 80)]
    assert fluid[0] < fluid[1] < fluid[2]
    assert max(dark) < 1.05 * min(dark)


def test_hyperintensities_come_with_age_and_are_bright_in_flair(ages):
    white = {age: np.isin(pixels(ages[age].labels), (2, 41)) for age in (30, 80)}
    bright = {}
    for age, mask in white.items():
        flair = pixels(ages[age].images["FLAIR"])[mask]
        bright[age] = (flair > 1.25 * np.median(flair)).mean()
    assert bright[80] > bright[30]


@pytest.mark.parametrize(
    ("modality", "order"),
    [
        ("T1", ["fluid", "grey", "white"]),
        ("T2", ["white", "grey", "fluid"]),
        ("PD", ["white", "grey", "fluid"]),
        ("FLAIR", ["fluid", "white", "grey"]),
    ],
)
def test_tissues_are_in_the_order_of_the_contrast(modality, order):
    values = dict(zip(("fluid", "grey", "white"), tissue_signals(modality).tolist(), strict=True))
    assert sorted(values, key=values.__getitem__) == order


def tissue_signals(modality: str) -> torch.Tensor:
    scanner = Scanner(1.14, 860.0, 1.0, 0.5, 0.0, 0.0)
    wide = torch.tensor([[1.0, 4200.0, 1600.0], [0.83, 1380.0, 95.0], [0.70, 850.0, 70.0]])
    return signal(modality, *wide.T, scanner)


def test_proton_density_separates_grey_from_white_as_scanners_do():
    fluid, grey, white = tissue_signals("PD").tolist()
    assert 1.10 < grey / white < 1.25
    assert 0.95 < fluid / grey < 1.2


def test_flair_leaves_hardly_any_fluid():
    fluid, grey, _ = tissue_signals("FLAIR").tolist()
    assert fluid < 0.2 * grey


def test_images_show_the_contrasts_too(ages):
    subject = ages[55]
    white, fluid, putamen = (2, 41), (4, 43), (12, 51)
    assert median(subject, "T1", fluid) < median(subject, "T1", putamen) < median(subject, "T1", white)
    assert median(subject, "T2", white) < median(subject, "T2", putamen) < median(subject, "T2", fluid)
    assert median(subject, "PD", white) < median(subject, "PD", putamen)
    assert median(subject, "FLAIR", fluid) < 0.5 * median(subject, "FLAIR", white)


def test_signal_refuses_an_unknown_contrast():
    with pytest.raises(ValueError, match="possible: T1, T2, PD, FLAIR"):
        signal("DWI", torch.ones(1), torch.ones(1), torch.ones(1), draw_scanner(torch.Generator()))


def test_iron_darkens_the_pallidum_with_age():
    young, old = (
        tissue_values((*TISSUES, "lesion"), age, torch.Generator().manual_seed(1)) for age in (20, 80)
    )
    row = TISSUES.index("pallidum")
    assert float(old[row, 2]) < 0.9 * float(young[row, 2])


def test_labels_keep_their_ids_and_sides(ages):
    labels = ages[30].labels
    data = pixels(labels)
    assert data.dtype == np.int32
    assert 2035 in data
    for left, right in ((1028, 2028), (17, 53), (12, 51)):
        x = [
            nib.affines.apply_affine(labels.affine, np.argwhere(data == k)).mean(0)[0] for k in (left, right)
        ]
        assert x[0] < -5
        assert x[1] > 5


def test_images_are_zero_outside_the_brain_and_labels_lie_inside(ages):
    for subject in ages.values():
        brain = pixels(subject.images["T1"]) > 0
        assert not (pixels(subject.labels)[~brain] > 0).any()
        assert not brain[[0, -1]].any()
        assert not brain[:, [0, -1]].any()
        millilitres = brain.sum() * SPACING_MM**3 / 1000
        assert 1200 < millilitres < 2200


def test_every_spacing_covers_the_same_field():
    for spacing in (1.0, 1.5, 4.0):
        affine, shape = output_grid(spacing)
        low = nib.affines.apply_affine(affine, (-0.5, -0.5, -0.5))
        high = nib.affines.apply_affine(affine, np.array(shape) - 0.5)
        assert np.allclose(low, FIELD_LOW)
        assert (high >= FIELD_HIGH).all()
        assert (high < FIELD_HIGH + spacing).all()


@pytest.mark.parametrize(("seed", "age"), [(0, 20), (1, 90), (2, 60)])
def test_the_warp_folds_nowhere(anatomy, seed, age):
    person = draw_person(seed, age, "female")
    affine, shape = output_grid(WARP_SPACING_MM)
    flow = exponential(warp_velocity(anatomy, person, seed, affine, shape) / WARP_SPACING_MM)
    jacobian = torch.stack([torch.stack(torch.gradient(axis)) for axis in flow]).permute(2, 3, 4, 0, 1)
    assert float(torch.linalg.det(jacobian + torch.eye(3)).min()) > 0


def test_positions_are_near_the_output_grid(anatomy):
    person = draw_person(0, 40, "male")
    affine, shape = output_grid(SPACING_MM)
    positions = warped_positions(anatomy, person, 0, affine, shape)
    centre = tuple(n // 2 for n in shape)
    expected = torch.tensor(nib.affines.apply_affine(affine, centre), dtype=torch.float32)
    assert positions.shape == (3, *shape)
    assert float((positions[:, *centre] - expected).norm()) < 15


@pytest.mark.parametrize(("field", "value"), [("age", 5), ("sex", "other"), ("modalities", ["DWI"])])
def test_an_impossible_person_or_contrast_is_refused(anatomy, field, value):
    with pytest.raises(SourceError, match=r"possible|years old"):
        simulate_subject(anatomy, seed=0, spacing_mm=SPACING_MM, **{field: value})


def head_labels(shape: tuple[int, int, int] = (84, 98, 92)) -> np.ndarray:
    """A toy head of half size: nested ellipsoids with FreeSurfer ids, left and right."""
    i, j, k = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) for n in shape], indexing="ij")
    radius = np.sqrt((i / 33) ** 2 + (j / 42) ** 2 + (k / 34) ** 2)
    left = i < 0  # first axis runs left to right
    labels = np.zeros(shape, np.int32)
    labels[radius < 1.12] = 515
    labels[radius < 1.0] = 24
    for limit, ids in ((0.95, (3, 42)), (0.87, (2, 41)), (0.4, (10, 49)), (0.2, (4, 43))):
        labels[radius < limit] = np.where(left, *ids)[radius < limit]
    for (x, y, z), size, ids in (
        ((14, -22, -26), 9, (8, 47)),
        ((14, -20, -25), 4, (7, 46)),
        ((12, 18, 0), 5, (12, 51)),
        ((18, -2, -12), 4, (17, 53)),
    ):
        near = (np.abs(i) - x) ** 2 + (j - y) ** 2 + (k - z) ** 2 < size**2
        labels[near] = np.where(left, *ids)[near]
    labels[(np.abs(i) < 5) & (np.abs(j + 8) < 5) & (k < -16) & (radius < 0.95)] = 16
    return labels


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    """A folder with the label map of a toy head and nothing else."""
    folder = tmp_path_factory.mktemp("heads")
    affine = np.array([[1.0, 0, 0, -41], [0, 1, 0, -57], [0, 0, 1, -41], [0, 0, 0, 1]])
    image = nib.as_closest_canonical(nib.Nifti1Image(head_labels(), affine))
    flipped = image.as_reoriented(nib.orientations.axcodes2ornt(("L", "I", "A")))  # as FreeSurfer stores it
    nib.save(flipped, folder / "head_1.nii.gz")
    return folder


def test_a_label_map_becomes_an_anatomy_with_its_sides(head):
    anatomy = load_anatomy(SPACING_MM, head / "head_1.nii.gz")
    sums = anatomy.tissues.sum(0)
    assert np.allclose(sums[anatomy.hull > 0.9], 1, atol=1e-3)
    left = nib.affines.apply_affine(anatomy.affine, np.argwhere(anatomy.labels == 17)).mean(0)
    right = nib.affines.apply_affine(anatomy.affine, np.argwhere(anatomy.labels == 53)).mean(0)
    assert left[0] < -10 < 10 < right[0]
    assert not np.isin(anatomy.labels, (3, 42, 515, 24)).any()  # cortex is split into regions
    cortex = anatomy.labels[(anatomy.labels >= 1000)]
    assert len(np.unique(cortex)) > 30


def test_folia_keep_the_sum_of_tissues():
    ids = np.zeros((40, 44, 42), np.int32)
    ids[8:32, 6:30, 8:34] = 8
    ids[14:26, 14:26, 14:26] = 7
    tissues = np.zeros((len(TISSUES), *ids.shape), np.float32)
    tissues[TISSUES.index("grey")] = ids == 8
    tissues[TISSUES.index("white")] = ids == 7
    out = add_folia(tissues, ids, np.eye(4))
    assert np.allclose(out.sum(0), tissues.sum(0), atol=1e-5)
    assert out.min() >= 0
    assert out[0].sum() > 10


def test_a_scan_given_as_label_map_is_refused(tmp_path):
    image = nib.Nifti1Image(np.arange(24 * 28 * 26).reshape(24, 28, 26).astype(np.int32) % 2 + 600, np.eye(4))
    nib.save(image, tmp_path / "scan.nii.gz")
    with pytest.raises(VolumeError, match="FreeSurfer"):
        load_anatomy(SPACING_MM, tmp_path / "scan.nii.gz")


def checksums(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_cohort_resumes_bit_for_bit(tmp_path, head):
    bases = anatomy_files(head)
    seed = next(
        s for s in range(99) if None not in {anatomy_of(s, k, bases) for k in (0, 1)}
    )  # quick: no template
    cohort = {"subjects": 2, "spacing_mm": SPACING_MM, "seed": seed, "anatomies": head}
    write_cohort(tmp_path, **cohort, workers=2)
    before = checksums(tmp_path)
    assert {name.split("/")[-1] for name in before if name.startswith("sub-0002/anat")} == {
        f"sub-0002_{suffix}.nii.gz" for suffix in ("T1w", "T2w", "PDw", "FLAIR", "dseg")
    }
    shutil.rmtree(tmp_path / "sub-0002")
    (tmp_path / ".sub-0002.unfinished").mkdir()  # as an interrupted run leaves it
    write_cohort(tmp_path, **cohort, workers=1)
    assert checksums(tmp_path) == before
    with pytest.raises(SourceError, match="another spacing_mm"):
        write_cohort(tmp_path, **{**cohort, "spacing_mm": 3.0}, workers=1)

    table = (tmp_path / "participants.tsv").read_text().splitlines()
    assert table[0] == "participant_id\tage\tsex\tanatomy"
    assert [row.split("\t")[0] for row in table[1:]] == ["sub-0001", "sub-0002"]
    assert "synthetic" in json.loads((tmp_path / "dataset_description.json").read_text())["Name"]
    image = nib.load(tmp_path / "sub-0001/anat/sub-0001_T1w.nii.gz")
    labels = nib.load(tmp_path / "sub-0001/anat/sub-0001_dseg.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert b"synthetic" in image.header["descrip"].item()
    assert labels.get_data_dtype() == np.int32
    assert np.array_equal(image.affine, labels.affine)


def test_an_anatomies_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no label maps"):
        write_cohort(tmp_path / "cohort", subjects=1, anatomies=tmp_path, workers=1)
    assert not (tmp_path / "cohort").exists()
