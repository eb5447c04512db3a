"""Labels against an independent segmentation: here one made from the atlas itself, so that all is known."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel import Nifti1Image

from atlas.agreement import Known, Setting, crossed, known_regions, measure, table_rows
from atlas.atlas import load_atlas
from atlas.errors import SourceError
from atlas.sources import Scan
from atlas.volume import load_labels, resample
from brainclip import cli
from brainclip.evaluate.agreement import as_markdown, summarise


def segmentation(labels: np.ndarray) -> np.ndarray:
    """Atlas labels in the ids of MUSE, and 95 (corpus callosum) for what MUSE does not know."""
    ids = np.where(labels > 0, 95, 0)
    for region in known_regions("muse", load_atlas()):
        ids[np.isin(labels, region.ours)] = region.theirs[0]
    return ids


def write_template(folder: Path, *, sides_changed: bool = False) -> Scan:
    """The template at 2 mm as a scan, and its labels as a segmentation beside it."""
    atlas = load_atlas()
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = atlas.template.affine[:3, 3]
    shape = tuple(length // 2 for length in atlas.template.shape)
    brain = np.asanyarray(resample(atlas.template, affine, shape).dataobj)
    ids = segmentation(np.asanyarray(resample(atlas.labels, affine, shape, order=0).dataobj))
    ids[(ids == 0) & (brain > 0)] = 1  # the fluid around the brain
    if sides_changed:
        ids = ids[::-1]
    folder.mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    scan, mask = folder / "IXI900-HH-0001-T1.nii.gz", folder / "masks" / "IXI900-HH-0001-T1_DLMUSE.nii.gz"
    nib.save(Nifti1Image(brain, affine), scan)
    nib.save(Nifti1Image(ids.astype(np.int16), affine), mask)
    return Scan(subject="IXI900", session=None, modality="T1", path=scan, mask=mask, source="ixi")


def test_the_template_agrees_with_its_own_labels(tmp_path: Path) -> None:
    found = measure(write_template(tmp_path), Setting(kind="affine"), "muse", 12.0)
    assert found["scan"] == "IXI900-HH-0001-T1.nii.gz"
    for name in ("left thalamus", "right putamen", "left lateral ventricle", "right precentral gyrus"):
        assert found["dice"][name] > 0.85, name  # the affine part moves the template by a fraction of a voxel
    both, ours, theirs = np.array(list(found["mentions"].values())).sum(0)
    assert both > 300
    assert 2 * both / (2 * both + ours + theirs) > 0.97
    for structure in ("hippocampi", "thalami", "cerebellum", "caudates", "putamina"):
        mine, counted = found["volumes"][structure]
        assert abs(mine / counted - 1) < 0.05, structure
    # choroid plexus counts as ventricle, and this segmentation has none: the atlas's own labels give 1.40
    mine, counted = found["volumes"]["lateral ventricles"]
    assert abs(mine / counted - 1.4) < 0.02


def test_a_segmentation_with_its_sides_changed_does_not_agree(tmp_path: Path) -> None:
    found = measure(write_template(tmp_path, sides_changed=True), Setting(kind="affine"), "muse", 12.0)
    assert found["dice"]["left thalamus"] < 0.1
    assert found["dice"]["brainstem"] > 0.8  # on the midline


def test_a_table_knows_only_regions_of_the_atlas() -> None:
    names = {region.name for region in load_atlas().regions}
    assert {row["region"] for row in table_rows("muse")} <= names
    known = {region.name: region for region in known_regions("muse", load_atlas())}
    assert known["left thalamus"] == Known("left thalamus", (10,), (60,), "same")
    assert known["right superior frontal gyrus"].theirs == (152, 190, 192)
    assert "cerebellar cortex" not in known  # the vermis has no side there, and one here


def test_an_unknown_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such table of a segmentation"):
        table_rows("musse")
    (tmp_path / "t.tsv").write_text("id\tname\n")
    with pytest.raises(SourceError, match="has the columns other, region, side, match"):
        table_rows(str(tmp_path / "t.tsv"))


def test_figures_of_known_counts() -> None:
    known = known_regions("muse", load_atlas())
    rows = [
        {
            "seconds": seconds,
            "dice": {region.name: 0.5 if region.match == "same" else 0.0 for region in known},
            "mentions": {region.name: [8, 1, 3] for region in known},
            "volumes": {"hippocampi": [ours, theirs]},
        }
        for seconds, ours, theirs in (
            (2.0, 11.0, 10.0),
            (4.0, 22.0, 20.0),
            (3.0, 33.0, 30.0),
            (3.0, 44.0, 40.0),
        )
    ]
    figures = summarise(rows, known)
    assert figures["seconds"] == 3.0
    assert figures["dice"] == [0.5, 0.5, 0.5]
    assert figures["mentions"]["all"]["precision"] == round(8 / 9, 3)
    assert figures["mentions"]["all"]["recall"] == round(8 / 11, 3)
    assert figures["mentions"]["all"]["f1"][0] == 0.8
    assert len(figures["mentions_of"]) == 10
    assert "entorhinal cortex" not in figures["mentions_of"]
    assert figures["volumes"]["hippocampi"]["r"][0] == 1.0
    assert figures["volumes"]["hippocampi"]["bias_percent"] == 10.0


def test_a_segmentation_that_confuses_left_and_right_is_found_and_named(tmp_path: Path) -> None:
    given = load_labels(write_template(tmp_path).mask)
    assert crossed(given, "muse") < 0.05
    ids = np.asanyarray(given.dataobj).copy()
    for row in table_rows("muse"):  # the left regions by the names of the right ones
        if row["side"] == "left":
            other = next(
                one["other"]
                for one in table_rows("muse")
                if (one["region"], one["side"]) == (row["region"], "right")
            )
            ids[ids == int(row["other"])] = int(other)
    assert 0.4 < crossed(Nifti1Image(ids, given.affine), "muse") < 0.6
    assert crossed(Nifti1Image(np.asanyarray(given.dataobj)[::-1], given.affine), "muse") > 0.95
    text = as_markdown({}, {"IXI900-HH-0001-T1.nii.gz": 0.47})
    assert "confuses left and right" in text
    assert "IXI900-HH-0001-T1 (47%)" in text
    assert "confuses" not in as_markdown({}, {})


def test_the_study_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_template(tmp_path / "ixi")
    recipe = tmp_path / "a.toml"
    recipe.write_text(
        f'folder = "{tmp_path}/out"\nsource = "ixi"\ninput = "{tmp_path}/ixi"\n'
        f'masks = "{tmp_path}/ixi/masks"\n'
        'every_mm = 20.0\nworkers = 1\n[setting.affine]\nkind = "affine"\n'
    )
    (tmp_path / "ixi" / "IXI.csv").write_text('IXI_ID,"SEX_ID (1=m, 2=f)",AGE\n900,1,40.0\n')
    assert cli.main(["agreement", str(recipe), "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert cli.main(["agreement", str(recipe)]) == 0
    rows = (tmp_path / "out" / "rows.jsonl").read_text()
    report = (tmp_path / "out" / "report.json").read_text()
    assert json.loads(report)["affine"]["heads"] == 1
    (tmp_path / "out" / "rows.jsonl").write_text(rows + rows[:40])  # killed while it wrote a line
    assert cli.main(["agreement", str(recipe)]) == 0
    assert (
        tmp_path / "out" / "rows.jsonl"
    ).read_text() == rows  # the seconds, too: nothing was measured again
    assert (tmp_path / "out" / "report.json").read_text() == report
    assert "(mean Dice: affine 1.000)" in capsys.readouterr().out
    assert cli.main(["agreement", str(recipe), "--set", "every_mm=4.0"]) == 2
    assert "made with another recipe" in capsys.readouterr().err
