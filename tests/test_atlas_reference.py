"""Tissues of slices that are cut again from scans and label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atlas.agreement import table_rows
from atlas.atlas import load_atlas
from atlas.errors import PairsError, SourceError
from atlas.facts import without_side
from atlas.files import subject_path
from atlas.pairs import write_pairs
from atlas.records import read_lines
from atlas.reference import OTHER, TISSUES, tissue_slices, tissues
from atlas.simulate import write_cohort
from atlas.slices import Geometry
from atlas.sources import Scan, find_scans
from atlas.structures import structures

SUBJECT_SPACING_MM, SPACING_MM, SIZE = 4.0, 3.0, 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Scan]]:
    """A pairs folder of one simulated person in T1 and T2, the person's name and scans."""
    folder = tmp_path_factory.mktemp("reference")
    write_cohort(folder / "cohort", subjects=1, spacing_mm=SUBJECT_SPACING_MM, seed=5, workers=1)
    write_pairs(
        "simulated",
        folder / "cohort",
        folder / "pairs",
        geometry=Geometry(SIZE, SPACING_MM),
        every_mm=18.0,
        modalities=["T1", "T2"],
        workers=1,
    )
    scans, _ = find_scans("simulated", folder / "cohort")
    return folder / "pairs", scans[0].subject, scans


@pytest.fixture(scope="module")
def found(made: tuple[Path, str, list[Scan]]) -> dict[str, np.ndarray]:
    return tissue_slices(*made, "")


def test_every_slice_of_a_simulated_person_has_its_tissues_and_their_areas_are_those_of_the_facts(
    made: tuple[Path, str, list[Scan]], found: dict[str, np.ndarray]
) -> None:
    folder, subject, _ = made
    lines = {line["file_name"]: line["facts"] for line in list(read_lines(subject_path(folder, subject)))[1:]}
    assert set(found) == set(lines) and {facts["modality"] for facts in lines.values()} == {"T1", "T2"}
    compared = 0
    for name, facts in lines.items():
        assert found[name].shape == (SIZE, SIZE) and found[name].dtype == np.uint8
        for structure in ("lateral ventricles", "white matter", "cerebellum"):
            visible = [mm2 for region, mm2 in facts["regions"].items() if _is_of(region, structure)]
            area = np.count_nonzero(found[name] == TISSUES.index(structure)) * SPACING_MM**2
            # regions below 20 mm2 are not among the facts; a structure has up to 9 parts
            assert sum(visible) - 0.5 <= area < sum(visible) + 9 * 20
            compared += area > 200
    assert compared > 10


def _is_of(region: str, structure: str) -> bool:
    return without_side(region) in structures()[structure]


def test_tissues_lie_on_the_brain_of_the_picture(
    made: tuple[Path, str, list[Scan]], found: dict[str, np.ndarray]
) -> None:
    for name, labels in found.items():
        seen = np.asarray(Image.open(made[0] / name)) > 0
        if "T2" in name:  # there fluid is bright, so nothing of the brain is black
            shared = np.count_nonzero(seen & (labels > 0))
            assert 2 * shared / (np.count_nonzero(seen) + np.count_nonzero(labels)) > 0.95


def test_a_picture_that_is_not_the_slice_is_refused(made: tuple[Path, str, list[Scan]]) -> None:
    folder, subject, scans = made
    path = next((folder / "train").rglob("T1_axial*.png"), None) or next(folder.rglob("T1_axial*.png"))
    kept = path.read_bytes()
    pixels = np.asarray(Image.open(path))
    try:
        Image.fromarray(np.roll(pixels, 1, axis=1)).save(path)
        with pytest.raises(PairsError, match="gives another slice now"):
            tissue_slices(folder, subject, scans, "")
    finally:
        path.write_bytes(kept)


def test_scans_of_somebody_else_are_refused(made: tuple[Path, str, list[Scan]]) -> None:
    with pytest.raises(SourceError, match="not among those given"):
        tissue_slices(made[0], made[1], [], "")


def test_tissues_of_the_atlas_are_those_of_its_structures() -> None:
    for region in load_atlas().regions:
        tissue = TISSUES[tissues(np.array([0, region.id]), "desikan-killiany")[1]]
        for structure in ("lateral ventricles", "cortex", "white matter", "cerebellum"):
            assert (tissue == structure) == (region.name in structures()[structure]), region


def test_tissues_of_muse_are_those_of_the_regions_it_shares_with_the_atlas() -> None:
    for row in table_rows("muse"):
        tissue = TISSUES[tissues(np.array([int(row["other"])]), "muse")[0]]
        for structure in ("lateral ventricles", "cortex", "white matter", "cerebellum"):
            assert (tissue == structure) == (row["region"] in structures()[structure]), row


def test_ids_are_not_wrapped_and_unknown_ones_are_other() -> None:
    found = tissues(np.array([[0, 2035], [1000, 9999]], np.int32), "desikan-killiany")
    assert found.tolist() == [[0, TISSUES.index("cortex")], [TISSUES.index("cortex"), OTHER]]
    with pytest.raises(SourceError, match="desikan-killiany, muse"):
        tissues(np.array([1]), "aal")
