"""Pairs: a cohort in, slices with captions out; stopped, damaged and refused folders."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel import Nifti1Image
from PIL import Image
from test_atlas_caption import random_facts

import atlas.prepare
from atlas.atlas import load_atlas
from atlas.begin import begin, only_run
from atlas.changes import is_made_from, made_from
from atlas.cohort import SPLITS, assign_splits
from atlas.errors import PairsError, RegistrationError, SourceError
from atlas.finish import _licence
from atlas.overlay import VIEW
from atlas.pairs import read_dataset, read_pairs, write_pairs
from atlas.prepare import Settings
from atlas.quality import quality
from atlas.records import facts_of, line_of, read_metadata
from atlas.register import OVERLAP_FLOOR, SIMILARITY_FLOOR
from atlas.slices import Geometry
from atlas.sources import Scan
from atlas.volume import load_labels, load_volume, resample, save_volume

GEOMETRY = Geometry(size=64, spacing_mm=3.0)
SUBJECTS = ("sub-01", "sub-02", "sub-03")


def build(cohort: Path, out: Path, **changes: object) -> dict[str, object]:
    settings = {"geometry": GEOMETRY, "every_mm": 9, "workers": 1, "splits": (0.34, 0.33, 0.33)} | changes
    return write_pairs("simulated", cohort, out, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Three people at 3 mm in the simulated layout: the template moved and scaled, with its labels.

    The PD image of the second is twice as bright left of the midline; the T1 of the third has a further copy
    of the person lying far outside the scan, so it is empty.
    """
    folder = tmp_path_factory.mktemp("cohort")
    atlas_ = load_atlas()
    table = ["participant_id\tage\tsex"]
    for number, name in enumerate(SUBJECTS):
        move = np.diag([1.0 + 0.03 * number, 1.0, 1.0 - 0.02 * number, 1.0])
        move[:3, 3] = (2.0 * number, -3.0, 4.0)
        affine = np.diag([3.0, 3.0, 3.0, 1.0])
        affine[:3, 3] = (-84, -123, -90)
        grid = (56, 68, 62)
        images = {}
        for kind, image, order in (("T1w", atlas_.template, 1), ("dseg", atlas_.labels, 0)):
            moved = Nifti1Image(np.asanyarray(image.dataobj), move @ image.affine)
            images[kind] = np.asanyarray(resample(moved, affine, grid, order=order).dataobj)
        x = 3.0 * np.arange(grid[0])[:, None, None] - 84 - move[0, 3]
        if number == 1:
            images["PDw"] = np.where(images["T1w"] > 0, np.where(x < 0, 200, 100) + images["T1w"] / 100, 0)
        for kind, values in images.items():
            dtype = np.int32 if kind == "dseg" else np.float32
            save_volume(
                Nifti1Image(values.astype(dtype), affine), folder / name / "anat" / f"{name}_{kind}.nii.gz"
            )
        table.append(f"{name}\t{30 + 20 * number}\t{'female' if number % 2 else 'male'}")
    (folder / "participants.tsv").write_text("\n".join(table) + "\n")
    return folder


@pytest.fixture(scope="module")
def pairs_folder(cohort, tmp_path_factory) -> Path:
    """The cohort's pairs, built in one go; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("built") / "pairs"
    build(cohort, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_corrected_table_reaches_captions_and_shards_without_preparing_anyone(cohort, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "pairs"
    shutil.copytree(cohort, scans)
    build(scans, out, shards=True)
    before = {path: path.stat().st_mtime_ns for path in out.glob("subjects/*")}
    table = (scans / "participants.tsv").read_text().splitlines()
    name, _, sex = table[2].split("\t")[:3]
    other = "F" if sex.upper().startswith("M") else "M"
    (scans / "participants.tsv").write_text(
        "\n".join([*table[:2], f"{name}\t23\t{other}", *table[3:]]) + "\n"
    )
    build(scans, out)
    fresh = tmp_path / "fresh"
    build(scans, fresh)
    for folder in (out, out / "shards"):
        known = {
            (p.facts.known["age"], p.facts.known["sex"]) for p in read_pairs(folder) if p.subject == name
        }
        assert known == {(23.0, {"F": "female", "M": "male"}[other])}, folder
    assert read_dataset(out)["content_sha256"] == read_dataset(fresh)["content_sha256"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("subjects/*")} == before


def test_pairs_hold_what_dataset_json_counts(pairs_folder):
    dataset, pairs = read_dataset(pairs_folder), read_pairs(pairs_folder)
    assert dataset["pairs"] == len(pairs) > 100
    assert dataset["slices"] == dict(Counter(pair.split for pair in pairs)) | dict.fromkeys(
        set(SPLITS) - {pair.split for pair in pairs}, 0
    )
    assert dataset["subjects"] == {"train": 1, "validation": 1, "test": 1}
    assert dataset["synthetic"] is True
    assert dataset["rejected"] == 0
    assert {pair.subject for pair in pairs} == set(SUBJECTS)
    assert [len(read_pairs(pairs_folder, split)) for split in SPLITS] == list(dataset["slices"].values())
    for pair in pairs[::17]:
        with Image.open(pairs_folder / pair.file_name) as picture:
            assert (picture.mode, picture.size) == ("L", (64, 64))
            pixels = np.asarray(picture)
        assert np.count_nonzero(pixels) * 9 >= 400
        assert pair.file_name.startswith(f"{pair.split}/{pair.subject}/")
        assert pair.facts.known["age"] == 30 + 20 * SUBJECTS.index(pair.subject)
        assert pair.keywords[0] == pair.facts.plane
        assert pair.text


def test_volumes_are_native_mm3(cohort, pairs_folder):
    for pair in read_pairs(pairs_folder)[::40]:
        path = cohort / pair.subject / "anat" / f"{pair.subject}_dseg.nii.gz"
        labels = np.asanyarray(load_labels(path).dataobj)
        assert pair.facts.volumes["left thalamus"] == np.count_nonzero(labels == 10) * 27
        assert pair.facts.volumes["right insula"] == np.count_nonzero(labels == 2035) * 27
        assert pair.facts.volumes["brain"] == np.count_nonzero(labels) * 27


def test_left_stays_left_in_pictures_facts_and_captions(pairs_folder):
    marked = [pair for pair in read_pairs(pairs_folder) if pair.facts.modality == "PD"]
    assert {pair.facts.plane for pair in marked} == {"axial", "coronal", "sagittal"}
    for pair in marked:
        pixels = np.asarray(Image.open(pairs_folder / pair.file_name)).astype(float)
        if pair.facts.plane == "sagittal":
            if abs(pair.facts.position_mm) < 6:
                continue
            side = "left" if pair.facts.position_mm < 0 else "right"
            bright = pixels[pixels > 0].mean() > 150
            assert bright == (side == "left"), pair.file_name
            assert all(
                not name.startswith(("left", "right")) or name.startswith(side) for name in pair.facts.regions
            )
            assert pair.facts.level.startswith(side)
        else:
            left, right = pixels[:, :30], pixels[:, 34:]
            assert left[left > 0].mean() > 1.3 * right[right > 0].mean(), pair.file_name


def test_regions_lie_on_the_picture_where_the_atlas_has_them(pairs_folder):
    pairs = [pair for pair in read_pairs(pairs_folder) if pair.facts.plane == "axial"]
    for pair in pairs:
        inside = 2 <= pair.facts.position_mm <= 12
        if inside:
            assert {"left thalamus", "right thalamus"} <= set(pair.facts.regions)
        if pair.facts.position_mm > 40:
            assert "left thalamus" not in pair.facts.regions


def test_a_run_that_lost_pieces_is_finished_byte_for_byte(cohort, pairs_folder, tmp_path):
    whole = contents(pairs_folder)
    damaged = tmp_path / "pairs"
    shutil.copytree(pairs_folder, damaged)
    # what a kill leaves: no manifest, one subject's pictures without its file, half-written temporaries
    (damaged / "dataset.json").unlink()
    for split in SPLITS:
        (damaged / split / "metadata.jsonl").unlink()
    (damaged / "subjects" / "sub-02.jsonl").unlink()
    victim = next(damaged.glob("*/sub-02"))
    next(victim.glob("*.png")).write_bytes(b"half a picture")
    (victim / "T1_axial_+999.0.png").write_bytes(b"a picture that should not be there")
    (damaged / "subjects" / ".sub-02.jsonl.4242.partial").write_text('{"subj')
    (damaged / ".partial" / "sub-03.4242").mkdir(parents=True)
    (damaged / ".shards.partial").mkdir()
    (damaged / "test" / ".metadata.jsonl.4242.partial").write_text('{"file_')
    with pytest.raises(PairsError, match=r"no dataset.json, so this is no complete folder of pairs"):
        read_pairs(damaged)
    build(cohort, damaged)
    assert contents(damaged) == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_a_complete_folder_is_left_as_it_is(cohort, pairs_folder, workers):
    before = {path: path.stat().st_mtime_ns for path in pairs_folder.rglob("*.png")}
    whole = contents(pairs_folder)
    build(cohort, pairs_folder, workers=workers)
    assert contents(pairs_folder) == whole
    assert {path: path.stat().st_mtime_ns for path in pairs_folder.rglob("*.png")} == before


def test_a_full_disk_is_one_sentence_and_loses_nothing(cohort, pairs_folder, tmp_path, monkeypatch):
    shutil.copytree(pairs_folder, tmp_path / "pairs")
    (tmp_path / "pairs" / "subjects" / "sub-03.jsonl").unlink()
    saved = Image.Image.save

    def full(self, target, *args, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(PairsError, match="the disk is full; 2 of 3 subjects are complete, free some space"):
        build(cohort, tmp_path / "pairs")
    monkeypatch.setattr(Image.Image, "save", saved)
    build(cohort, tmp_path / "pairs")
    assert contents(tmp_path / "pairs") == contents(pairs_folder)


def test_a_volume_that_cannot_be_used_is_listed_and_does_not_stop_the_run(cohort, pairs_folder, tmp_path):
    folder, out = tmp_path / "cohort", tmp_path / "pairs"
    shutil.copytree(cohort, folder)
    shutil.copytree(pairs_folder, out)
    broken = folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    dataset = build(folder, out)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(row["subject"], row["path"]) for row in rejected] == [("sub-01", "sub-01_T1w.nii.gz")]
    assert "truncated or damaged" in rejected[0]["reason"]
    assert dataset["rejected"] == 1
    # its pictures of the run before are gone, too
    assert {pair.subject for pair in read_pairs(out)} == {"sub-02", "sub-03"}
    shutil.copyfile(cohort / "sub-01" / "anat" / "sub-01_T1w.nii.gz", broken)  # repaired
    build(folder, out)
    assert contents(out) == contents(pairs_folder)


def prepared(out: Path) -> dict[str, int]:
    """When each subject's file was written."""
    return {path.stem: path.stat().st_mtime_ns for path in (out / "subjects").glob("*.jsonl")}


def header_of(out: Path, subject: str) -> dict[str, Any]:
    return json.loads((out / "subjects" / f"{subject}.jsonl").read_text().splitlines()[0])


def test_a_contrast_that_comes_later_or_goes_is_looked_at(cohort, pairs_folder, tmp_path):
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder, out)
    before = prepared(out)
    assert [entry["modality"] for entry in header_of(out, "sub-02")["made_from"]] == ["PD", "T1"]
    dataset = build(cohort, out, modalities=["T1"])
    assert not [kind for kind in dataset["slices_by_kind"] if kind.startswith("PD")]
    assert {pair.facts.modality for pair in read_pairs(out)} == {"T1"}
    build(cohort, out)
    assert contents(out) == contents(pairs_folder)
    after = prepared(out)
    assert {name for name in SUBJECTS if after[name] != before[name]} == {"sub-02"}


def test_a_person_who_is_left_out_later_is_not_listed_and_comes_back_as_before(
    cohort, pairs_folder, tmp_path
):
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder, out)
    before = prepared(out)
    dataset = build(cohort, out, limit=2)
    pairs = read_pairs(out)
    assert {pair.subject for pair in pairs} == {"sub-01", "sub-02"}
    assert (dataset["pairs"], sum(dataset["subjects"].values())) == (len(pairs), 2)
    volumes = [json.loads(line)["subject"] for line in (out / "volumes.jsonl").read_text().splitlines()]
    assert volumes == ["sub-01", "sub-02"]
    assert {row.subject for row in quality(out).rows} == {"sub-01", "sub-02"}
    waiting = [path.name for path in out.glob("unlisted/sub-03/*.png")]
    assert sorted(waiting) == sorted(path.name for path in pairs_folder.glob("*/sub-03/*.png"))
    assert not [split for split in SPLITS if (out / split / "sub-03").exists()]
    build(cohort, out)
    assert not (out / "unlisted").exists()
    assert contents(out) == contents(pairs_folder)
    assert prepared(out) == before


def test_another_mask_prepares_a_subject_again_and_the_same_one_does_not(cohort, pairs_folder, tmp_path):
    out, masks = tmp_path / "pairs", tmp_path / "masks"
    shutil.copytree(pairs_folder, out)
    brain = load_volume(cohort / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    inside = (np.asanyarray(brain.dataobj) > 0).astype(np.int16)
    mask = masks / "sub-01_T1w_brain.nii.gz"
    save_volume(Nifti1Image(inside, brain.affine), mask)
    build(cohort, out, masks=masks, limit=1)
    assert header_of(out, "sub-01")["sessions"][""]["masks"] == {"T1": "given"}
    first = prepared(out)
    build(cohort, out, masks=masks, limit=1)
    assert prepared(out) == first
    inside[:, :, :12] = 0  # less of the cerebellum, under the same name
    save_volume(Nifti1Image(inside, brain.affine), mask)
    build(cohort, out, masks=masks, limit=1)
    assert {name for name, when in prepared(out).items() if when != first[name]} == {"sub-01"}


def test_a_volume_written_again_in_the_same_length_is_prepared_again(cohort, pairs_folder, tmp_path):
    folder, out = tmp_path / "cohort", tmp_path / "pairs"
    shutil.copytree(cohort, folder)
    shutil.copytree(pairs_folder, out)
    path = folder / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
    before, size = prepared(out), path.stat().st_size
    found = path.read_bytes()
    path.write_bytes(found[:4] + bytes([found[4] ^ 1]) + found[5:])  # the time in the header of gzip
    assert path.stat().st_size == size
    build(folder, out)
    assert {name for name, when in prepared(out).items() if when != before[name]} == {"sub-03"}


def test_the_header_beside_an_img_counts_as_part_of_it(tmp_path):
    image, header = tmp_path / "a.img", tmp_path / "a.hdr"
    image.write_bytes(b"voxels")
    header.write_bytes(b"one way")
    scans = [Scan("folder", "a", "", "T1", image)]
    before = made_from(scans)
    assert is_made_from(scans, before)
    older = [{name: value for name, value in entry.items() if "crc" not in name} for entry in before]
    header.write_bytes(b"another")
    assert not is_made_from(scans, before)
    assert is_made_from(scans, older)  # noted before there were checksums
    assert not is_made_from([*scans, *scans], before)


def test_a_second_run_into_the_same_folder_and_a_dry_run_with_other_settings_are_refused(
    cohort, pairs_folder, tmp_path
):
    out = tmp_path / "pairs"
    with only_run(out), pytest.raises(PairsError, match="another run is writing this folder"):
        build(cohort, out)
    build(cohort, out, limit=1)
    assert {path.name for path in out.iterdir()} >= {".lock", "dataset.json"}
    before = contents(pairs_folder)
    for dry_run in (True, False):
        with pytest.raises(PairsError, match="was begun with denoise = False, now denoise = True"):
            build(cohort, pairs_folder, denoise=True, dry_run=dry_run)
        with pytest.raises(PairsError, match="is not empty and no folder of pairs"):
            build(cohort, cohort, dry_run=dry_run)
    assert contents(pairs_folder) == before


def test_people_in_two_splits_who_turn_out_to_be_one_family_are_refused(tmp_path):
    settings = Settings(Geometry(64, 3.0), 12.0, 0)
    alone = {f"p{number}": f"p{number}" for number in range(10)}
    splits = begin(tmp_path, "simulated", settings, alone, (0.8, 0.1, 0.1), ())
    held_out = next(name for name, split in splits.items() if split == "test")
    other = next(name for name, split in splits.items() if split == "train")
    twins = alone | {held_out: "twins", other: "twins"}
    assert begin(tmp_path, "simulated", settings, twins, (0.8, 0.1, 0.1), ()) == splits  # as it was made
    with pytest.raises(PairsError, match="others of the family 'twins' in"):
        begin(tmp_path, "simulated", settings, twins | {"a third": "twins"}, (0.8, 0.1, 0.1), ())


def test_files_of_older_versions_that_do_not_say_what_they_were_made_from_count_as_done(
    cohort, pairs_folder, tmp_path
):
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder, out)
    for path in (out / "subjects").glob("*.jsonl"):
        first, _, rest = path.read_text().partition("\n")
        header = json.loads(first)
        del header["made_from"]
        path.write_text(json.dumps(header) + "\n" + rest)
    before = prepared(out)
    build(cohort, out)
    assert prepared(out) == before


def test_a_folder_is_not_complete_while_its_lists_are_written(cohort, pairs_folder, tmp_path, monkeypatch):
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder, out)

    def killed(*args, **settings):
        assert not (out / "dataset.json").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("atlas.finish._write_metadata", killed)
        with pytest.raises(KeyboardInterrupt):
            build(cohort, out)
    with pytest.raises(PairsError, match="no complete folder of pairs"):
        read_pairs(out)
    build(cohort, out)
    assert contents(out) == contents(pairs_folder)


def test_a_volume_that_registration_refuses_is_listed(cohort, pairs_folder, tmp_path, monkeypatch):
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder, out)
    (out / "subjects" / "sub-02.jsonl").unlink()

    def refuse(*args, **settings):
        raise RegistrationError("the volume does not fit the template")

    monkeypatch.setattr("atlas.register.register", refuse)
    assert build(cohort, out)["rejected"] == 2
    assert {pair.subject for pair in read_pairs(out)} == {"sub-01", "sub-03"}


def test_a_visit_below_a_floor_is_set_aside_and_all_its_scans_are_listed(cohort, pairs_folder, tmp_path):
    folder, out = tmp_path / "cohort", tmp_path / "pairs"
    shutil.copytree(cohort, folder)
    shutil.copytree(pairs_folder, out)
    path = folder / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    upright = load_volume(path)
    save_volume(Nifti1Image(np.asanyarray(upright.dataobj)[:, :, ::-1], upright.affine), path)
    (out / "subjects" / "sub-02.jsonl").unlink()
    assert build(folder, out)["rejected"] == 2
    assert not list(out.glob("*/sub-02"))
    with Image.open(out / "overlays" / "sub-02.webp") as picture:  # to judge it by
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) > 80).sum() > 500
    assert (out / "overlays" / "sub-02.webp").read_bytes() != (
        pairs_folder / "overlays" / "sub-02.webp"
    ).read_bytes()
    (header,) = [json.loads(line) for line in (out / "subjects" / "sub-02.jsonl").read_text().splitlines()]
    measured = header["sessions"][""]
    assert header["slices"] == 0 and measured["volumes"] == {}
    assert measured["similarity"] < SIMILARITY_FLOOR and 0 < measured["overlap"] < 1
    second, first = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    said = rf"does not fit the template: similarity {measured['similarity']:.4f} is below {SIMILARITY_FLOOR}"
    assert said in first["reason"]
    assert second["reason"] == f"set aside with sub-02_T1w.nii.gz of the same visit: {first['reason']}"
    assert (first["path"], second["path"]) == ("sub-02_T1w.nii.gz", "sub-02_PDw.nii.gz")
    whole = contents(out)
    build(folder, out)
    assert contents(out) == whole


def test_a_folder_goes_on_under_its_own_floors_only(cohort, pairs_folder, tmp_path):
    with pytest.raises(PairsError, match=rf"with least_overlap = {OVERLAP_FLOOR}, now least_overlap = 0.5"):
        build(cohort, pairs_folder, least_overlap=0.5)
    with pytest.raises(PairsError, match="floors lie from 0 to 1"):
        build(cohort, tmp_path / "new", least_similarity=2.5)
    older = tmp_path / "pairs"
    shutil.copytree(pairs_folder, older)
    settings = json.loads((older / "settings.json").read_text())
    assert settings.pop("least_similarity") == SIMILARITY_FLOOR
    assert settings.pop("least_overlap") == OVERLAP_FLOOR
    assert settings.pop("denoise") is False
    (older / "settings.json").write_text(json.dumps(settings))  # as made before there were these
    build(cohort, older)
    with pytest.raises(PairsError, match="was begun with least_similarity"):
        build(cohort, older, least_similarity=0)
    with pytest.raises(PairsError, match="with denoise = False, now denoise = True"):
        build(cohort, older, denoise=True)


def test_other_settings_or_a_foreign_folder_are_refused(cohort, pairs_folder, tmp_path):
    with pytest.raises(PairsError, match=r"was begun with every_mm = 9, now every_mm = 6"):
        build(cohort, pairs_folder, every_mm=6)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(PairsError, match="is not empty and no folder of pairs"):
        build(cohort, tmp_path)
    with pytest.raises(PairsError, match="three shares sum to 1"):
        build(cohort, tmp_path / "new", splits=(0.8, 0.1, 0.2))
    with pytest.raises(PairsError, match="no usable scans"):
        build(cohort, tmp_path / "new", modalities=["FLAIR"])
    with pytest.raises(SourceError):
        build(tmp_path / "nowhere", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_dry_run_counts_and_writes_nothing(cohort, tmp_path):
    assert build(cohort, tmp_path / "new", dry_run=True) == {"subjects": 3, "scans": 4, "rejected": 0}
    assert build(cohort, tmp_path / "new", dry_run=True, limit=1, modalities=["T1"])["scans"] == 1
    assert not (tmp_path / "new").exists()


def test_damaged_folders_are_refused(pairs_folder, tmp_path):
    copy = tmp_path / "pairs"
    shutil.copytree(pairs_folder, copy)
    next(copy.glob("train/*/*.png")).unlink()
    with pytest.raises(PairsError, match=r"dataset.json lists \d+ pairs, metadata.jsonl \d+, and there are"):
        read_pairs(copy)

    lines = (pairs_folder / "train" / "metadata.jsonl").read_text().splitlines()
    moved = json.loads(lines[0])
    (copy / "train" / "metadata.jsonl").write_text(
        "\n".join([json.dumps(moved | {"split": "test"}), *lines[1:]])
    )
    with pytest.raises(PairsError, match=f"subject '{moved['subject']}' is in both test and train"):
        read_pairs(copy)

    (copy / "train" / "metadata.jsonl").write_text("\n".join([*lines[1:], lines[0][:50]]))
    with pytest.raises(PairsError, match="not readable as JSON lines"):
        read_pairs(copy)

    for split in SPLITS:
        (copy / split / "metadata.jsonl").unlink()
    with pytest.raises(PairsError, match=r"train/metadata.jsonl: missing; copy the folder again"):
        read_pairs(copy)

    (copy / "volumes.jsonl").unlink()
    with pytest.raises(PairsError, match=r"volumes.jsonl: missing"):
        read_pairs(copy)

    (copy / "dataset.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(PairsError, match="format 99, this version reads 1"):
        read_pairs(copy)
    (copy / "dataset.json").write_text("{")
    with pytest.raises(PairsError, match="not readable as JSON"):
        read_dataset(copy)
    with pytest.raises(PairsError, match="split 'dev'; possible: train, validation, test"):
        read_pairs(pairs_folder, "dev")


def test_every_line_has_the_same_columns_and_gives_the_facts_back(pairs_folder):
    lines = list(read_metadata(pairs_folder))
    assert len({tuple(line) for line in lines}) == 1
    for seed in range(50):
        facts = random_facts(seed)
        line = json.loads(json.dumps(line_of("train/a/b.png", "a", "train", "", facts)))
        assert tuple(line) == tuple(lines[0])
        assert facts_of(line, {"sizes": facts.sizes}) == facts


def test_each_split_lists_its_own_pictures_as_an_imagefolder_does(pairs_folder):
    for split in SPLITS:
        folder = pairs_folder / split
        lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        pictures = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
        assert {line["file_name"] for line in lines} == pictures
        assert len(lines) == len(pictures) > 0
        assert all(line["text"] and line["split"] == split for line in lines)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of another library
def test_hugging_face_opens_the_folder_with_captions_and_facts(cohort, pairs_folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder, out)

    def load(cache: str) -> Any:
        return datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / cache))

    opened = load("all")
    assert set(opened) == set(SPLITS)
    for split in SPLITS:
        pairs = read_pairs(out, split)
        assert opened[split].num_rows == len(pairs) > 0
        rows = {
            (row["subject"], row["plane"], row["modality"], row["position_mm"]): row for row in opened[split]
        }
        for pair in pairs[::23]:
            facts = pair.facts
            row = rows[pair.subject, facts.plane, facts.modality, facts.position_mm]
            assert (row["text"], tuple(row["captions"])) == (pair.text, pair.captions)
            assert dict(zip(row["regions"], row["areas_mm2"], strict=True)) == facts.regions
            assert (row["age"], row["sex"], row["level"]) == (
                facts.known["age"],
                facts.known["sex"],
                facts.level,
            )
            with Image.open(out / pair.file_name) as picture:
                assert np.array_equal(np.asarray(row["image"].convert("L")), np.asarray(picture))
    dataset = build(cohort, out, limit=2)  # nothing is left of the third, who had a split alone
    assert {split: rows.num_rows for split, rows in load("two").items()} == {
        split: slices for split, slices in dataset["slices"].items() if slices
    }


def test_a_folder_with_one_list_for_all_splits_gives_the_same_pairs(pairs_folder, tmp_path):
    older = tmp_path / "pairs"
    shutil.copytree(pairs_folder, older)
    lines = sorted(read_metadata(pairs_folder), key=lambda line: line["subject"])
    (older / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split in SPLITS:
        (older / split / "metadata.jsonl").unlink()
    for split in SPLITS:
        assert read_pairs(older, split) == read_pairs(pairs_folder, split)
    assert read_dataset(older)["content_sha256"] == read_dataset(pairs_folder)["content_sha256"]


def test_each_visit_has_its_fit_and_an_overlay_in_colours(pairs_folder):
    for subject in SUBJECTS:
        header = json.loads((pairs_folder / "subjects" / f"{subject}.jsonl").read_text().splitlines()[0])
        assert header["sessions"][""]["similarity"] > 0.1  # the template itself, moved
        assert header["sessions"][""]["overlap"] > 0.9
        with Image.open(pairs_folder / "overlays" / f"{subject}.webp") as picture:
            assert picture.size == (3 * VIEW, VIEW)
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert (np.ptp(pixels, axis=2) > 80).sum() > 500  # outlines
        assert ((np.ptp(pixels, axis=2) < 20) & (pixels[..., 0] > 80)).sum() > 2000  # grey brain


@pytest.mark.skipif(find_spec("distributed") is None, reason="dask is not installed")
def test_subjects_added_on_a_dask_cluster_have_the_same_bytes_and_the_others_are_left(
    cohort, pairs_folder, tmp_path
):
    out = tmp_path / "pairs"
    shutil.copytree(pairs_folder, out)
    for name in ("sub-01", "sub-03"):
        (out / "subjects" / f"{name}.jsonl").unlink()
        (out / "overlays" / f"{name}.webp").unlink()
        shutil.rmtree(next(out.glob(f"*/{name}")))
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/sub-02/*.png")}
    build(cohort, out, workers=2, dask="local")
    assert contents(out) == contents(pairs_folder)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/sub-02/*.png")} == kept


@pytest.mark.skipif(find_spec("distributed") is None, reason="dask is not installed")
def test_a_scheduler_that_does_not_answer_is_one_sentence(cohort, pairs_folder, tmp_path, monkeypatch):
    shutil.copytree(pairs_folder, tmp_path / "pairs")
    (tmp_path / "pairs" / "subjects" / "sub-03.jsonl").unlink()
    with pytest.raises(PairsError, match="--dask nonsense://here: no scheduler answers there"):
        build(cohort, tmp_path / "pairs", dask="nonsense://here")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PairsError, match=r"Dask is not installed; pip install 'brainclip\[dask\]'"):
        build(cohort, tmp_path / "pairs", dask="local")


@pytest.mark.parametrize(
    ("description", "licence"),
    [
        ({"Name": "Brains", "License": "CC0"}, "Brains: CC0"),
        ({"Name": "Brains"}, "as given in the data set's dataset_description.json"),
    ],
)
def test_the_licence_is_the_data_sets_own(tmp_path, description, licence):
    (tmp_path / "dataset_description.json").write_text(json.dumps(description))
    assert _licence("bids", tmp_path) == licence
    assert _licence("ixi", tmp_path / "elsewhere").startswith("IXI (brain-development.org), CC BY-SA 3.0")
    (tmp_path / "bare").mkdir()
    assert "bare: licence unknown" in _licence("bids", tmp_path / "bare")
    (tmp_path / "dataset_description.json").write_text("[1")
    with pytest.raises(SourceError, match="not a JSON object"):
        _licence("bids", tmp_path)


def test_splits_have_the_asked_shares_and_no_subject_moves():
    names = [f"person {number}" for number in range(200)]
    first = assign_splits(names, (0.8, 0.1, 0.1), seed=3)
    assert Counter(first.values()) == {"train": 160, "validation": 20, "test": 20}
    assert first == assign_splits(reversed(names), (0.8, 0.1, 0.1), seed=3)
    assert first != assign_splits(names, (0.8, 0.1, 0.1), seed=4)
    more = assign_splits([*names, *(f"new {n}" for n in range(100))], (0.8, 0.1, 0.1), seed=3, assigned=first)
    assert Counter(more.values()) == {"train": 240, "validation": 30, "test": 30}
    assert all(more[name] == first[name] for name in names)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_no_asked_split_of_a_small_cohort_stays_empty(count):
    names = [str(number) for number in range(count)]
    assert set(assign_splits(names, (0.8, 0.1, 0.1), seed=0).values()) == set(SPLITS)
    assert set(assign_splits(names, (1.0, 0.0, 0.0), seed=0).values()) == {"train"}
    assert set(assign_splits(names, (0.0, 0.0, 1.0), seed=0).values()) == {"test"}


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_build_killed_at_any_moment_is_finished_byte_for_byte(cohort, pairs_folder, tmp_path, kills):
    """No file differs from those of an undisturbed build, the manifest included.

    The moments are spread by chance over the files that are written, each with a delay. Kills take turns: the
    whole process group, or the main process alone, whose workers have to notice.
    """
    script, out, whole = tmp_path / "build.py", tmp_path / "pairs", contents(pairs_folder)
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path[:0] = [{str(Path(atlas.prepare.__file__).parents[1])!r}, {str(Path(__file__).parent)!r}]\n"
        "from test_atlas_pairs import build\n"
        "if __name__ == '__main__':\n"
        f"    build(Path({str(cohort)!r}), Path({str(out)!r}), workers=2)\n"
    )
    command = [sys.executable, str(script)]
    rng, killed = np.random.default_rng(kills), 0
    moments = np.sort(rng.integers(1, len(whole), kills))
    while killed < kills:
        process = subprocess.Popen(command, process_group=0, stderr=subprocess.PIPE)
        while process.poll() is None and sum(len(names) for *_, names in os.walk(out)) < moments[killed]:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        if process.poll() is None:
            kill = os.kill if killed % 2 else os.killpg
            kill(process.pid, signal.SIGKILL)
            killed += 1
        else:  # too late, it was finished
            assert contents(out) == whole
            shutil.rmtree(out)
        process.communicate()  # to the end of the last worker, which has this stream open, too
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert contents(out) == whole
