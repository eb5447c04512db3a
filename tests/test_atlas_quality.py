"""The page to look a folder of pairs over."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from nibabel import Nifti1Image
from PIL import Image
from toy_pairs import write_toy_pairs

from atlas.atlas import load_atlas
from atlas.errors import PairsError
from atlas.overlay import COLOURS, EDGE, VIEW, outline, overlay
from atlas.quality import quality, volume_ml
from atlas.quality_page import write_quality_page
from atlas.slices import Geometry, working_grid
from atlas.volume import resample
from brainclip import cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """17 toy subjects; train03 has large ventricles, test02 and train05 fit least, test00 was rejected."""
    write_toy_pairs(tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*/*") if path.is_dir())
    (tmp_path / "subjects").mkdir()
    for number, name in enumerate(names):
        ventricles = 40_000.0 if name == "train03" else 8000.0 + 100 * (number % 5)
        volumes = {
            "brain": 1_200_000.0 + 10_000 * (number % 4),
            "left lateral ventricle": ventricles,
            "right lateral ventricle": 8000.0 + 90 * (number % 3),
        }
        fit = {"similarity": 0.03 if name == "test02" else 0.08, "overlap": 0.7 if name == "train05" else 0.8}
        header = {
            "subject": name,
            "split": name[:-2],
            "sessions": {"": {"volumes": volumes, **fit}},
        }
        (tmp_path / "subjects" / f"{name}.jsonl").write_text(json.dumps(header) + "\n")
    (tmp_path / "overlays").mkdir()
    Image.new("RGB", (3 * VIEW, VIEW), (10, 20, 30)).save(tmp_path / "overlays" / "train03.webp")
    rejected = [
        {"subject": "test00", "path": "b.nii.gz", "reason": "does not fit <the template>"},
        {"subject": "train01", "path": "c.nii.gz", "reason": "age dropped", "kept": True},
        {"subject": "nobody", "path": "d.nii.gz", "reason": "no mask"},
    ]
    (tmp_path / "rejected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rejected))
    return tmp_path


def test_rejected_come_first_then_the_worst_fit_then_the_furthest_from_the_cohort(folder: Path) -> None:
    found = quality(folder)
    first = [row.subject for row in found.rows[:5]]
    assert (first[:2], set(first[2:4]), first[4]) == (["nobody", "test00"], {"test02", "train05"}, "train03")
    assert [row.rejected for row in found.rows[:5]] == [True, True, False, False, False]
    assert len(found.rows) == 18
    aside = next(row for row in found.rows if row.subject == "train01")
    assert aside.reasons == ["c.nii.gz: age dropped"] and not aside.rejected


def test_the_visit_that_was_set_aside_is_marked_and_not_the_first_one(folder: Path) -> None:
    path = folder / "subjects" / "train02.jsonl"
    header = json.loads(path.read_text())
    header["sessions"]["later"] = {"volumes": {}, "similarity": 0.01, "overlap": 0.9}
    path.write_text(json.dumps(header) + "\n")
    reason = "does not fit the template: similarity 0.0100 is below 0.025"
    line = {"subject": "train02", "session": "later", "path": "e.nii.gz", "reason": reason}
    with (folder / "rejected.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    rows = quality(folder).rows
    assert [(row.subject, row.session) for row in rows[:3]] == [
        ("nobody", ""),  # never registered
        ("train02", "later"),
        ("test00", ""),
    ]
    assert rows[1].reasons == [f"e.nii.gz: {reason}"]
    assert not next(row for row in rows[3:] if row.subject == "train02").rejected
    write_quality_page(folder)
    shown = next(line for line in (folder / "qc.html").read_text().splitlines() if "train02 later" in line)
    assert "<td>0.010</td><td>0.900</td>" in shown


def test_the_similarity_after_the_warp_is_shown_and_who_is_not_listed_now_is_not(folder: Path) -> None:
    path = folder / "subjects" / "train02.jsonl"
    header = json.loads(path.read_text())
    header["sessions"][""]["warped_similarity"] = 0.125
    path.write_text(json.dumps(header) + "\n")
    gone = header | {"subject": "gone"}  # in no line of volumes.jsonl
    (folder / "subjects" / "gone.jsonl").write_text(json.dumps(gone) + "\n")
    rows = quality(folder).rows
    assert next(row for row in rows if row.subject == "train02").warped == 0.125
    assert "gone" not in {row.subject for row in rows}
    write_quality_page(folder)
    shown = next(line for line in (folder / "qc.html").read_text().splitlines() if "<b>train02</b>" in line)
    assert "<td>0.080</td><td>0.800</td><td>0.125</td>" in shown


def test_volumes_are_compared_with_the_cohort(folder: Path) -> None:
    row = next(row for row in quality(folder).rows if row.subject == "train03")
    assert row.far[0][0] == "left lateral ventricle"
    assert row.far[0][1] > 50
    assert volume_ml(row, "lateral ventricles") == pytest.approx(
        40 + row.volumes["right lateral ventricle"] / 1000
    )
    assert volume_ml(row, "hippocampi") is None
    assert row.overlay == folder / "overlays" / "train03.webp"
    assert row.slices == 24


def test_ages_planes_levels_and_words_are_counted(folder: Path) -> None:
    counts = quality(folder).counts
    assert sum(counts["age"].values()) == sum(counts["similarity"].values()) == 18
    assert counts["age"]["not known"] == counts["similarity"]["not known"] == 1  # nobody
    assert counts["similarity"]["0.02 to 0.04"] == counts["overlap"]["0.7 to 0.72"] == 1
    assert counts["sex"] == {"female": 9, "male": 8}
    kinds = counts["contrast and plane"]
    assert sum(kinds.values()) == 17 * 24 and kinds["T1 axial"] == 34
    assert sum(counts["axial level"].values()) == 17 * 8
    assert list(counts["word"].values()) == sorted(counts["word"].values(), reverse=True)
    assert counts["word"]["slice"] > 100
    assert counts["word"]["t1"] > 30 and not {"t", "the", "of"} & set(counts["word"])


def test_the_page_stands_alone_and_shows_every_visit_once(folder: Path) -> None:
    assert write_quality_page(folder) == "18 visits, 2 rejected, 17 without overlay"
    page = (folder / "qc.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|<link|src=\"(?!data:)", page)
    assert page.count('<tr class="rejected">') == 2
    assert "does not fit &lt;the template&gt;" in page
    assert page.count("no overlay") == 17 + 1  # and once in the introduction
    pictures = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    assert [base64.b64decode(text) for text in pictures] == [
        (folder / "overlays" / "train03.webp").read_bytes()
    ]


def test_the_verb_writes_the_page_and_a_folder_without_subjects_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["qc", str(folder), "--dry-run"]) == 0
    assert not (folder / "qc.html").exists()
    assert cli.main(["qc", str(folder)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"qc: {folder / 'qc.html'} (18 visits, 2 rejected, 17 without overlay, 0.0 MB)"
    for path in (folder / "subjects").iterdir():
        path.unlink()
    with pytest.raises(PairsError, match=r"has no subjects/\*.jsonl; give the folder that"):
        write_quality_page(folder)


def test_outlines_lie_on_borders_only() -> None:
    kinds = np.zeros((7, 8), np.int32)
    kinds[1:6, 1:7] = 1
    kinds[2:5, 3:6] = 4
    drawn = outline(kinds)
    assert drawn[3].tolist() == [0, 1, 0, 4, 0, 4, 1, 0]
    assert drawn[1].tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    assert drawn[0].tolist() == [0] * 8
    assert (drawn == 4).sum() == 8


def test_an_overlay_shows_axial_coronal_and_sagittal_with_left_at_image_left() -> None:
    atlas, geometry = load_atlas(), Geometry(64, 3.0)
    affine, shape = working_grid(geometry)
    labels = np.asanyarray(resample(atlas.labels, affine, shape, order=0).dataobj).copy()
    right = affine[0, 3] + 3.0 * np.arange(64) > 0
    left_only = {region.id for region in atlas.regions if region.parent == "basal ganglia"}
    labels[np.isin(labels, list(left_only)) & right[:, None, None]] = 0
    grey = resample(atlas.template, affine, shape)
    values = np.asanyarray(grey.dataobj)
    picture = overlay(
        Nifti1Image(values / values.max(), affine), Nifti1Image(labels, affine), atlas, geometry
    )
    assert picture.size == (3 * VIEW, VIEW)
    pixels = np.asarray(picture)
    pink = (pixels == COLOURS["basal ganglia"]).all(-1)
    assert pink[:, : VIEW // 2].sum() > 50
    assert pink[:, VIEW // 2 + 2 : VIEW].sum() == 0
    edge = (pixels == EDGE).all(-1)
    assert all(edge[:, k * VIEW : (k + 1) * VIEW].sum() > 200 for k in range(3))
