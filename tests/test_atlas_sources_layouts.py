"""OASIS-1, -2 and -3, HCP and plain folders as they are laid out, and their tables with the defects met.

Every tree is made of small volumes under the real names and in the real formats; the tables are made up.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel import Nifti1Image
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

from atlas.atlas import load_atlas
from atlas.brain import labels_and_volumes, read_brain
from atlas.errors import PairsError, SourceError, VolumeError
from atlas.pairs import write_pairs
from atlas.register import Registration
from atlas.slices import Geometry, cut, working_grid
from atlas.sources import Scan, find_scans
from atlas.volume import has_orientation, load_volume, resample, save_volume

TABLES = Path(os.environ.get("BRAINCLIP_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tables"
# RAS: brightest in the subject's left, brighter in front than behind and above than below
HEAD = np.add.outer(
    np.add.outer(np.where(np.arange(9) < 4, 1000, 0), 10 * np.arange(10)), np.arange(1, 12)
).astype(np.int16)


def stored(orientation: str) -> np.ndarray:
    """HEAD in the order in which a file with these axes holds it."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    return np.ascontiguousarray(apply_orientation(HEAD, turn))


def put_analyze(path: Path, orientation: str) -> Path:
    """16-bit big-endian Analyze with a fourth axis of length 1, as OASIS-1 has it."""
    values = stored(orientation)[..., None]
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    header.set_data_shape(values.shape)
    header.set_zooms((1.0, 1.0, 1.25, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".hdr").write_bytes(header.binaryblock)
    path.write_bytes(values.astype(">i2").tobytes(order="F"))
    assert path.with_suffix(".hdr").read_bytes()[:4] == (348).to_bytes(4, "big")
    return path


def put(path: Path, orientation: str = "RAS", *, code: int = 1) -> Path:
    """A NIfTI file or pair in this orientation; code 0: its header does not say so."""
    values = stored(orientation)
    turn = ornt_transform(axcodes2ornt(orientation), axcodes2ornt("RAS"))
    affine = np.linalg.inv(nib.orientations.inv_ornt_aff(turn, values.shape))
    kind = nib.Nifti1Pair if path.name.endswith(".img") else Nifti1Image
    image = kind(values, affine)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    assert code == 0 or nib.aff2axcodes(image.affine) == tuple(orientation)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def left_out_as(left_out: list[dict[str, Any]], *, kept: bool) -> dict[str, str]:
    return {note["subject"]: note["reason"] for note in left_out if note["kept"] == kept}


OASIS1 = """ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay
OAS1_0001_MR1,F,R,74,2,3,29,0,1344,0.743,1.306,N/A
OAS1_0003_MR1,F,R,73,4,3,27,0.5,1454,0.708,1.207,N/A
OAS1_0004_MR1,M,R,28,,,,,1588,0.803,1.105,N/A
OAS1_0061_MR1,F,R,20,,,,,1757,0.845,0.999,N/A
OAS1_0061_MR2,F,R,20,,,,,1757,0.845,0.999,1
OAS1_0100_MR1,M,R,81,,,,,1700,0.7,1.03,N/A
"""


def oasis1(folder: Path, table: str = OASIS1) -> Path:
    for disc, session in (
        (1, "OAS1_0001_MR1"),
        (1, "OAS1_0003_MR1"),
        (1, "OAS1_0004_MR1"),
        (2, "OAS1_0061_MR1"),
        (12, "OAS1_0061_MR2"),
        (3, "OAS1_0100_MR1"),
    ):
        place = folder / f"disc{disc}" / session
        images = place / "PROCESSED" / "MPRAGE"
        put_analyze(images / "T88_111" / f"{session}_mpr_n4_anon_111_t88_masked_gfc.img", "LAS")
        if session == "OAS1_0001_MR1":
            put_analyze(images / "T88_111" / f"{session}_mpr_n4_anon_111_t88_gfc.img", "LAS")
            put_analyze(images / "SUBJ_111" / f"{session}_mpr_n4_anon_sbj_111.img", "ASL")
            put_analyze(place / "RAW" / f"{session}_mpr-1_anon.img", "ASL")
            put_analyze(place / "FSL_SEG" / f"{session}_mpr_n4_anon_111_t88_masked_gfc_fseg.img", "LAS")
            (images / "T88_111" / f"{session}_mpr_n4_anon_111_t88_masked_gfc_sag_95.gif").write_bytes(b"GIF")
    (folder / "oasis_cross-sectional.csv").write_text(table)
    return folder


def test_oasis1_takes_the_stripped_talairach_image_of_each_healthy_session(tmp_path: Path) -> None:
    scans, left_out = find_scans("oasis1", oasis1(tmp_path))
    assert [(scan.subject, scan.session) for scan in scans] == [
        ("OAS1_0001", "MR1"),
        ("OAS1_0004", "MR1"),
        ("OAS1_0061", "MR1"),
        ("OAS1_0061", "MR2"),  # the repeat scan is of the same subject, so in the same split
    ]
    first = scans[0]
    assert first.path.name == "OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc.img"
    assert (first.orientation, first.scale, first.standing, first.modality) == ("LAS", 1.306, "0", "T1")
    assert first.known == {
        "age": 74.0,
        "sex": "female",
        "handedness": "right",
        "site": "Washington University",
        "field_strength": 1.5,
        "cdr": 0.0,
        "nwbv": 0.743,
        "health": "healthy",
    }
    assert "cdr" not in scans[1].known and scans[1].known["health"] == "healthy"  # blank, but 28 years old
    rule = "not healthy (CDR 0, or no CDR below 60 years, where none was rated): the table says"
    assert left_out_as(left_out, kept=False) == {
        "OAS1_0003": f"{rule} 0.5",
        "OAS1_0100": f"{rule} blank",
    }


def test_keep_names_who_stays_besides_the_healthy_and_calls_no_one_healthy(tmp_path: Path) -> None:
    folder = oasis1(tmp_path)
    scans, left_out = find_scans("oasis1", folder, keep=["0.50"])
    mild = next(scan for scan in scans if scan.subject == "OAS1_0003")
    assert mild.known["cdr"] == 0.5 and "health" not in mild.known
    assert set(left_out_as(left_out, kept=False)) == {"OAS1_0100"}
    assert len(find_scans("oasis1", folder, keep=["all"])[0]) == 6
    assert len(find_scans("oasis1", folder, keep=["blank"])[0]) == 5
    with pytest.raises(
        SourceError, match=r"keep '2': no scan of 'oasis1' has it; .* says 0, 0.5, blank, and"
    ):
        find_scans("oasis1", folder, keep=["2"])
    (folder / "oasis_cross-sectional.csv").write_text(OASIS1.replace(",0,", ",1,").replace(",,,,,", ",,,,1,"))
    with pytest.raises(SourceError, match="none of 6 scans is of a healthy person"):
        find_scans("oasis1", folder)


def test_a_mask_chooses_the_image_of_oasis1_that_it_is_named_after(tmp_path: Path) -> None:
    folder = oasis1(tmp_path / "oasis1")
    mask = tmp_path / "masks" / "OAS1_0001_MR1_mpr_n4_anon_sbj_111_brain.nii.gz"
    put(mask)
    scan = find_scans("oasis1", folder, masks=tmp_path / "masks")[0][0]
    assert (scan.path.parent.name, scan.orientation, scan.mask) == ("SUBJ_111", "ASL", mask)
    assert scan.scale == 1.0  # SUBJ_111 is not resized
    for path in (folder / "disc1" / "OAS1_0004_MR1").rglob("*_masked_gfc.*"):
        path.unlink()
    put_analyze(folder / "disc1" / "OAS1_0004_MR1" / "RAW" / "OAS1_0004_MR1_mpr-1_anon.img", "ASL")
    raw = next(scan for scan in find_scans("oasis1", folder)[0] if scan.subject == "OAS1_0004")
    assert (raw.path.name, raw.orientation) == ("OAS1_0004_MR1_mpr-1_anon.img", "ASL")
    _, left_out = find_scans("oasis1", folder, masks=tmp_path / "masks")
    assert left_out_as(left_out, kept=False)["OAS1_0004"].startswith("0 masks named OAS1_0004_MR1_mpr-1_anon")


def reordered(table: str) -> str:
    """The columns in another order: the last one second, as in one copy in circulation."""
    rows = [line.split(",") for line in table.splitlines()]
    return "".join(",".join([row[0], row[-1], *row[1:-1]]) + "\n" for row in rows)


@pytest.mark.parametrize(
    "table",
    [
        "\ufeff" + OASIS1.replace("\n", "\r\n"),
        reordered(OASIS1),
        OASIS1.replace(",0.", ",").replace("1.306", "1306").replace("5,1454", "0.5,1454"),
        OASIS1.replace(",", ";"),
        OASIS1.replace("M/F", " m/f ").replace("N/A", ""),
        OASIS1.replace("OAS1_0003_MR1", "OAS1_0001_MR1,F,R,74,2,3,29,0,1344,,1.306,N/A\nOAS1_0003_MR1"),
    ],
    ids=["byte-order mark", "reordered", "decimal point lost", "semicolons", "spelling, blanks", "twice"],
)
def test_defects_of_the_oasis1_table_change_nothing(table: str, tmp_path: Path) -> None:
    plain = find_scans("oasis1", oasis1(tmp_path / "plain"))[0]
    found = find_scans("oasis1", oasis1(tmp_path / "defect", table))[0]
    assert [(scan.known, scan.scale) for scan in found] == [(scan.known, scan.scale) for scan in plain]


def test_what_cannot_be_repaired_in_the_oasis1_table_is_dropped_and_listed(tmp_path: Path) -> None:
    table = OASIS1.replace("0.743,1.306", "0.2,").replace("M,R,28", "X,R,old")
    table += "OAS1_0061_MR1,M,R,20,,,,2,1757,0.845,0.999,N/A\n"
    scans, left_out = find_scans("oasis1", oasis1(tmp_path, table), keep=["all"])
    doubts = [(note["subject"], note["reason"]) for note in left_out if note["kept"]]
    assert doubts == [
        ("OAS1_0001", "nWBV '0.2' dropped: not a share of the head between 0.5 and 1.0"),
        ("OAS1_0001", "the table gives no usable ASF, so volumes are those of the resized head"),
        ("OAS1_0004", "age 'old' dropped: not a number of years above 0 and up to 120"),
        ("OAS1_0004", "sex 'X' dropped: known are f, female, m, male"),
        ("OAS1_0061", "sex 'F and M' dropped: known are f, female, m, male"),
    ]
    healthy = {(scan.subject, scan.session) for scan in scans if "health" in scan.known}
    # neither a blank CDR at an unknown age counts, nor an id that is listed with CDR 2 as well
    assert healthy == {("OAS1_0001", "MR1"), ("OAS1_0061", "MR2")}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (OASIS1.partition("\n")[2], "its first line holds values .* not headings; put the line with 'ID'"),
        (OASIS1.replace("CDR", "Rating"), "column 'CDR' is missing; the table has ID, M/F"),
        (OASIS1.partition("\n")[0], "the table has no rows"),
    ],
)
def test_an_oasis1_table_that_cannot_be_read_is_refused_in_one_sentence(
    table: str, says: str, tmp_path: Path
) -> None:
    folder = oasis1(tmp_path, table)
    with pytest.raises(SourceError, match=says) as caught:
        find_scans("oasis1", folder)
    assert "\n" not in str(caught.value)


def test_missing_doubled_and_unread_tables_are_refused(tmp_path: Path) -> None:
    folder = oasis1(tmp_path)
    table = folder / "oasis_cross-sectional.csv"
    table.rename(folder / "oasis_cross-sectional-reliability.csv")  # another table of the data set
    with pytest.raises(SourceError, match=r"oasis_cross-sectional\.csv is not there or in the folder above"):
        find_scans("oasis1", folder)
    (folder / "oasis_cross-sectional-1.xlsx").write_bytes(b"PK")
    with pytest.raises(SourceError, match=r"save its first sheet as \.csv"):
        find_scans("oasis1", folder)
    for name in ("oasis_cross-sectional-1.csv", "oasis_cross-sectional-2.csv"):
        (folder / name).write_text(OASIS1)
    with pytest.raises(SourceError, match="may both be its table; leave one"):
        find_scans("oasis1", folder)


OASIS2 = """Subject ID,MRI ID,Group,Visit,MR Delay,M/F,Hand,Age,EDUC,SES,MMSE,CDR,eTIV,nWBV,ASF
OAS2_0001,OAS2_0001_MR1,Nondemented,1,0,M,R,87,14,2,27,0,1987,0.696,0.883
OAS2_0001,OAS2_0001_MR2,Nondemented,2,457,M,R,88,14,2,30,0,2004,0.681,0.876
OAS2_0002,OAS2_0002_MR1,Demented,1,0,M,R,75,12,,23,0.5,1678,0.736,1.046
OAS2_0018,OAS2_0018_MR1,Converted,1,0,F,R,87,14,1,30,0,1406,0.715,1.248
"""


def oasis2(folder: Path, table: str = OASIS2) -> Path:
    for part, session in (
        (1, "OAS2_0001_MR1"),
        (1, "OAS2_0001_MR2"),
        (2, "OAS2_0002_MR1"),
        (2, "OAS2_0018_MR1"),
    ):
        for repeat in (1, 2, 3):
            put(folder / f"OAS2_RAW_PART{part}" / session / "RAW" / f"mpr-{repeat}.nifti.img", "ASL")
    put(folder / "OAS2_RAW_PART1" / "OAS2_0001_MR1" / "RAW" / "3906-3.nift.img")
    (folder / "oasis_longitudinal.csv").write_text(table)
    return folder


@pytest.mark.parametrize("table", [OASIS2, "\ufeff" + reordered(OASIS2).replace("0.6", "6")])
def test_oasis2_visits_of_a_person_are_sessions_of_one_subject(table: str, tmp_path: Path) -> None:
    scans, left_out = find_scans("oasis2", oasis2(tmp_path, table))
    assert [(scan.subject, scan.session, scan.known["age"]) for scan in scans] == [
        ("OAS2_0001", "MR1", 87.0),
        ("OAS2_0001", "MR2", 88.0),
    ]
    assert [scan.path.name for scan in scans] == ["mpr-1.nifti.img"] * 2
    assert scans[1].known["nwbv"] == 0.681
    assert (scans[0].standing, scans[0].known["health"], scans[0].orientation) == (
        "Nondemented",
        "healthy",
        "",
    )
    rule = "not healthy (Group Nondemented: at every visit; Converted is not): the table says"
    assert left_out_as(left_out, kept=False) == {
        "OAS2_0002": f"{rule} demented",
        "OAS2_0018": f"{rule} converted",
    }
    both = find_scans("oasis2", tmp_path, keep=["Converted"])[0]
    assert "health" not in both[-1].known and both[-1].subject == "OAS2_0018"


def test_oasis2_without_an_orientation_or_a_mask_is_left_out(tmp_path: Path) -> None:
    folder = oasis2(tmp_path / "oasis2")
    place = folder / "OAS2_RAW_PART1"
    put(place / "OAS2_0001_MR1" / "RAW" / "mpr-1.nifti.img", "ASL", code=0)
    assert find_scans("oasis2", folder)[0][0].path.name == "mpr-2.nifti.img"
    put(tmp_path / "masks" / "OAS2_0001_MR2_mpr-3_brain.nii.gz")
    scans, left_out = find_scans("oasis2", folder, masks=tmp_path / "masks")
    assert [(scan.session, scan.path.name) for scan in scans] == [("MR2", "mpr-3.nifti.img")]
    assert "masks named OAS2_0001_MR1_mpr-3_*" in left_out_as(left_out, kept=False)["OAS2_0001"]
    for path in (place / "OAS2_0001_MR1" / "RAW").glob("mpr-*.img"):
        put(path, "ASL", code=0)
    _, left_out = find_scans("oasis2", folder)
    assert "does not say which side is left" in left_out_as(left_out, kept=False)["OAS2_0001"]


CDR = """OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,CDRTOT
OAS30001,OAS30001_UDSb4_d0000,0000,65.1,29,0
OAS30001,OAS30001_UDSb4_d0700,0700,67.0,28,0.5
OAS30002,OAS30002_UDSb4_d3000,3000,80.0,28,0
OAS30003,OAS30003_UDSb4_d0010,0010,58.0,30,
OAS30003,OAS30003_UDSb4_d0300,0300,58.8,30,0
"""
PEOPLE3 = """OASISID,Subject_accession,AgeatEntry,GENDER,HAND
OAS30001,C1,65.1,2,R
OAS30002,C2,71.2,1,B
OAS30003,C3,58.0,1,L
"""
ADRC = """ADRC_ADRCCLINICALDATA ID,Subject,Date,ageAtEntry,mmse,cdr
OAS30001_ClinicalData_d0000,OAS30001,,65.1,29,0.0
OAS30001_ClinicalData_d0700,OAS30001,,65.1,28,0.5
OAS30003_ClinicalData_d0300,OAS30003,,58.0,30,0.0
"""
ADRC_PEOPLE = "Subject,M/F,Hand\nOAS30001,F,R\nOAS30003,M,L\n"


def oasis3(folder: Path, layout: str) -> Path:
    """Four sessions of three people as XNAT or as BIDS lays them out."""
    for subject, day, suffixes in (
        ("OAS30001", "d0129", ("T1w", "run-01_T2w", "acq-TSE_T2w", "T2star")),
        ("OAS30001", "d0757", ("run-01_T1w", "run-02_T1w")),
        ("OAS30002", "d0653", ("T1w",)),
        ("OAS30003", "d0008", ("FLAIR",)),
    ):
        for number, suffix in enumerate(suffixes, 1):
            name = f"sub-{subject}_ses-{day}_{suffix}"
            if layout == "xnat":
                place = folder / f"{subject}_MR_{day}" / f"anat{number}" / "NIFTI"
                sidecar = place.parent / "BIDS" / f"{name}.json"
            else:
                place = folder / f"sub-{subject}" / f"ses-{day}" / "anat"
                sidecar = place / f"{name}.json"
            put(place / f"{name}.nii.gz", "PSR")
            sidecar.parent.mkdir(parents=True, exist_ok=True)
            sidecar.write_text(json.dumps({"MagneticFieldStrength": 1.5 if day == "d0008" else 3}))
            func = place.parents[1] / "func1" / f"sub-{subject}_ses-{day}_task-rest_bold.nii.gz"
            put(func)
    files = folder / "OASIS3_data_files" / "scans" / "demo" / "resources" / "csv" / "files"
    files.mkdir(parents=True)
    (files / "OASIS3_UDSb4_cdr.csv").write_text(CDR)
    (files / "OASIS3_demographics.csv").write_text(PEOPLE3)
    return folder


@pytest.mark.parametrize("layout", ["xnat", "bids"])
def test_oasis3_sessions_get_the_age_and_the_cdr_of_their_day(layout: str, tmp_path: Path) -> None:
    scans, left_out = find_scans("oasis3", oasis3(tmp_path, layout))
    assert [(scan.subject, scan.session, scan.modality) for scan in scans] == [
        ("OAS30001", "d0129", "T1"),
        ("OAS30001", "d0129", "T2"),
        ("OAS30003", "d0008", "FLAIR"),
    ]
    assert scans[1].path.name == "sub-OAS30001_ses-d0129_run-01_T2w.nii.gz"
    assert scans[0].known == {
        "sex": "female",
        "handedness": "right",
        "age": 65.45,  # 65.1 years and 129 days
        "site": "Washington University",
        "cdr": 0.0,
        "health": "healthy",
        "field_strength": 3.0,
    }
    assert (scans[2].known["field_strength"], scans[2].known["sex"]) == (1.5, "male")
    reasons = [note["reason"] for note in left_out if not note["kept"]]
    rule = (
        "not healthy (CDR 0 at the clinical visit nearest to the scan, at most 365 days away): the table says"
    )
    assert Counter(reasons) == {
        "T2star is not one of T1w, T2w, PDw, FLAIR": 1,
        "a further T2w of the same session; the first is used": 1,
        "a further T1w of the same session; the first is used": 1,
        f"{rule} 0.5": 1,  # 0 at day 0, but 0.5 at day 700, and the scan is of day 757
        f"{rule} blank": 1,
    }
    assert left_out_as(left_out, kept=True) == {"OAS30002": "no CDR was rated within 365 days of the scan"}
    ambidextrous = next(
        scan for scan in find_scans("oasis3", tmp_path, keep=["blank"])[0] if scan.subject == "OAS30002"
    )
    assert ambidextrous.known["handedness"] == "ambidextrous" and "health" not in ambidextrous.known


def test_oasis3_reads_the_older_clinical_table_and_leaves_out_unoriented_files(tmp_path: Path) -> None:
    folder = oasis3(tmp_path, "xnat")
    for path in folder.rglob("*.csv"):
        path.unlink()
    with pytest.raises(SourceError, match=r"no table of CDR \(OASIS3_UDSb4_cdr\.csv\) is there"):
        find_scans("oasis3", folder)
    (folder / "OASIS3_ADRC_ClinicalData.csv").write_text(ADRC)
    (folder / "subjects.csv").write_text(ADRC_PEOPLE)
    scans = find_scans("oasis3", folder)[0]
    assert [(scan.subject, scan.known["age"], scan.known["sex"]) for scan in scans] == [
        ("OAS30001", 65.45, "female"),
        ("OAS30001", 65.45, "female"),
        ("OAS30003", 58.02, "male"),
    ]
    put(scans[2].path, code=0)
    _, left_out = find_scans("oasis3", folder)
    assert "does not say which side is left" in left_out_as(left_out, kept=False)["OAS30003"]


def test_oasis3_script_names_without_a_session_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for day in ("d0001", "d0300"):
        put(tmp_path / "sub-OAS30001" / f"ses-{day}" / "anat" / "sub-OAS30001_T1w.nii.gz")
        put(tmp_path / "masks" / f"sub-OAS30001_ses-{day}_T1w_brain.nii.gz")
    (tmp_path / "OASIS3_UDSb4_cdr.csv").write_text(CDR)
    scans, left_out = find_scans("oasis3", tmp_path, masks=tmp_path / "masks")
    assert [(scan.session, scan.mask.name) for scan in scans if scan.mask] == [
        ("d0001", "sub-OAS30001_ses-d0001_T1w_brain.nii.gz"),
        ("d0300", "sub-OAS30001_ses-d0300_T1w_brain.nii.gz"),
    ]
    assert scans[0].known["age"] == 65.1  # from the age at the visit, there being no demographics
    assert "the demographics have no row" in left_out_as(left_out, kept=True)["OAS30001"]


HCP = """Subject,Release,Acquisition,Gender,Age,3T_Full_MR_Compl,T1_Count
100307,Q1,Q01,F,26-30,true,1
100408,Q3,Q03,M,36+,true,1
100610,S900,Q08,M,,true,2
"""


def hcp(folder: Path, table: str = HCP) -> Path:
    for subject in ("100307", "100408", "100610"):
        for name in (
            "T1w_acpc_dc_restore_brain",
            "T1w_acpc_dc_restore",
            "T2w_acpc_dc_restore_brain",
            "aparc+aseg",
        ):
            put(folder / subject / "T1w" / f"{name}.nii.gz", "LAS")
        put(folder / subject / "MNINonLinear" / "T1w_restore_brain.nii.gz", "LAS")
    (folder / "unrestricted_someone_1_2_2024_3_4_5.csv").write_text(table)
    return folder


def test_hcp_keeps_the_range_of_ages_and_states_no_age(tmp_path: Path) -> None:
    folder = hcp(tmp_path)
    scans, left_out = find_scans("hcp", folder)
    assert [(scan.subject, scan.modality, scan.path.name) for scan in scans[:2]] == [
        ("100307", "T1", "T1w_acpc_dc_restore_brain.nii.gz"),
        ("100307", "T2", "T2w_acpc_dc_restore_brain.nii.gz"),
    ]
    assert len(scans) == 6
    assert scans[0].known == {
        "sex": "female",
        "age_range": "26-30",
        "health": "healthy",
        "site": "Washington University",
        "field_strength": 3.0,
    }
    assert left_out_as(left_out, kept=True) == {
        "100307": "age known only as the range 26-30, so captions state none",
        "100408": "age known only as the range 36+, so captions state none",
        "100610": "age '' dropped: not a range such as 26-30 or 36+",
    }
    assert scans[0].family == ""
    (folder / "RESTRICTED_someone.csv").write_text("Subject,Family_ID,Age_in_Yrs\n100307,51488_81352,27\n")
    scans = find_scans("hcp", folder)[0]
    assert scans[0].family == "51488_81352" and "age" not in scans[0].known


def test_hcp_images_that_are_warped_to_the_template_are_left_out(tmp_path: Path) -> None:
    folder = hcp(tmp_path, HCP.replace("100610,", "999999,"))
    (folder / "100408" / "T1w" / "T1w_acpc_dc_restore_brain.nii.gz").unlink()
    scans, left_out = find_scans("hcp", folder)
    assert [scan.modality for scan in scans if scan.subject == "100408"] == ["T2"]
    assert left_out_as(left_out, kept=False) == {
        "100408": "warped to the MNI template, the person's shape is lost; "
        "get T1w/T1w_acpc_dc_restore_brain.nii.gz"
    }
    assert "no row for this person" in left_out_as(left_out, kept=True)["100610"]
    (folder / "unrestricted_someone_1_2_2024_3_4_5.csv").unlink()
    with pytest.raises(SourceError, match=r"unrestricted_\*\.csv is not there"):
        find_scans("hcp", folder)


def test_bids_reads_legends_visits_and_who_is_a_control(tmp_path: Path) -> None:
    for name in (
        "sub-01/ses-a/anat/sub-01_ses-a_T1w",
        "sub-01/ses-b/anat/sub-01_ses-b_PDw",
        "sub-02/anat/sub-02_T1w",
    ):
        put(tmp_path / f"{name}.nii.gz")
    put(tmp_path / "sub-03" / "anat" / "sub-03_FLAIR.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tsex\tgroup\n01\t240\t1\tcontrol\nsub-02\t600\t2\tpatient\nsub-03\t480\t2\tControl\n"
        "sub-03\t480\t1\tControl\n"
    )
    legend = {"age": {"Units": "months"}, "sex": {"Levels": {"1": "male", "2": {"Description": "female"}}}}
    (tmp_path / "participants.json").write_text(json.dumps(legend))
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\tage\tpathology\nses-a\t20.5\thealthy\nses-b\t23\tmigraine\n"
    )
    scans, left_out = find_scans("bids", tmp_path)
    assert [(scan.subject, scan.session, scan.known) for scan in scans] == [
        ("sub-01", "ses-a", {"age": 20.5, "sex": "male", "health": "healthy"}),
        ("sub-03", "", {"age": 40.0, "health": "healthy"}),
    ]
    assert [
        (note["subject"], note["reason"].rpartition(": ")[2]) for note in left_out if not note["kept"]
    ] == [
        ("sub-01", "the table says migraine"),
        ("sub-02", "the table says patient"),
    ]
    assert "sex 'female and male' dropped" in left_out_as(left_out, kept=True)["sub-03"]
    (tmp_path / "participants.json").write_text("[]")
    with pytest.raises(SourceError, match=r"participants\.json: not a JSON object"):
        find_scans("bids", tmp_path)


def test_a_plain_folder_is_read_by_its_names(tmp_path: Path) -> None:
    put(tmp_path / "anna_T1.nii.gz")
    put(tmp_path / "anna_t2w.nii")
    put(tmp_path / "ben" / "visit1_FLAIR.nii.gz")
    put(tmp_path / "ben" / "visit2" / "PD.nii.gz")
    put(tmp_path / "sub-07_T1_mask.nii.gz")
    put(tmp_path / "scan.nii.gz")
    put(tmp_path / "anna_T1.nii")
    put_analyze(tmp_path / "carl_T1.img", "LAS")
    scans, left_out = find_scans("folder", tmp_path)
    assert [(scan.subject, scan.session, scan.modality, scan.known) for scan in scans] == [
        ("anna", "", "T1", {}),
        ("anna", "", "T2", {}),
        ("ben", "visit1", "FLAIR", {}),
        ("ben", "visit2", "PD", {}),
    ]
    assert left_out_as(left_out, kept=False) == {
        "anna": "a further T1 of the same session; the first is used",
        "carl": "its header does not say which side is left; give it in the column orientation (LAS)",
        "scan": "neither its name nor a table says the contrast",
        "sub-07": "'mask' in its name: a label map, or an image of another kind",
    }


def test_what_is_no_plain_image_is_left_out_by_the_word_that_says_so(tmp_path: Path) -> None:
    person = tmp_path / "1000001"
    for name in (
        *("T1", "T2_FLAIR", "T1_fast/T1_brain_pveseg", "T1_fast/T1_brain_mixeltype", "T1_aparc+aseg"),
        *("T2_star", "T1_gd", "T1_brain_to_MNI", "T1_map", "PD_T2"),
    ):
        put(person / f"{name}.nii.gz")
    scans, left_out = find_scans("folder", tmp_path)
    assert [(scan.subject, scan.session, scan.modality) for scan in scans] == [
        ("1000001", "", "FLAIR"),  # T2_FLAIR
        ("1000001", "", "T1"),
    ]
    reasons = {Path(row["path"]).name.split(".")[0]: row["reason"] for row in left_out}
    assert {name: reason.split("'")[1] for name, reason in reasons.items() if "'" in reason} == {
        "T1_brain_pveseg": "pveseg",
        "T1_brain_mixeltype": "fast",
        "T1_aparc+aseg": "aparc",
        "T2_star": "star",
        "T1_gd": "gd",
        "T1_brain_to_MNI": "mni",
        "T1_map": "map",
    }
    assert reasons["PD_T2"] == "its name says both PD and T2; give a table with a column modality"


@pytest.mark.parametrize("more", ["preproc", "1mm", "norm", "SS", "N4BiasCorrected", "defaced", "run2", "x7"])
def test_a_second_version_of_an_image_makes_no_second_person(more: str, tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path / f"p{number:02}_T1.nii.gz")
        put(tmp_path / f"p{number:02}_T1_{more}.nii.gz")
    scans, left_out = find_scans("folder", tmp_path)
    assert {scan.subject for scan in scans} == {f"p{number:02}" for number in range(5)}
    assert len(scans) == (10 if more == "run2" else 5)
    assert len(left_out) == 10 - len(scans)


def test_a_folder_of_a_site_is_no_person(tmp_path: Path) -> None:
    for site in ("siteA", "siteB"):
        for number in range(3):
            put(tmp_path / site / f"{site}_p{number:02}_T1.nii.gz")
    put(tmp_path / "anna" / "anna_visit1_T1.nii.gz")
    put(tmp_path / "anna" / "20190304_T1.nii.gz")
    put(tmp_path / "ben" / "before_T1.nii.gz")
    scans, left_out = find_scans("folder", tmp_path)
    assert {scan.subject for scan in scans} == {"anna", "ben"}
    assert len(scans) == 3
    assert len(left_out) == 6
    assert "several T1 in the folder 'siteA' whose names are not visits'" in left_out[0]["reason"]
    table = "".join(f"siteA/siteA_p{n:02}_T1.nii.gz,p{n:02}\n" for n in range(3))
    (tmp_path / "table.csv").write_text("file,subject\n" + table)
    assert {scan.subject for scan in find_scans("folder", tmp_path)[0]} == {
        "anna",
        "ben",
        "p00",
        "p01",
        "p02",
    }


def test_what_a_plain_folder_does_not_read_is_said(tmp_path: Path) -> None:
    put(tmp_path / "anna_T1.nii.gz")
    (tmp_path / "subjects.csv").write_text("subject,age\nanna,30\n")
    (tmp_path / "ben_T1.nrrd").write_bytes(b"NRRD")
    (tmp_path / "table.csv").write_text("file,subject,ageofonset\ncarl_T1.nii.gz,carl,3\n,anna,\n")
    scans, left_out = find_scans("folder", tmp_path)
    assert [scan.subject for scan in scans] == ["anna"]
    said = {Path(row["path"]).name: row["reason"] for row in left_out if not row["kept"]}
    assert said == {
        "carl_T1.nii.gz": "named in the table, but not there",
        "ben_T1.nrrd": "not a format that is read; convert it to NIfTI",
    }
    kept = [(Path(row["path"]).name, row["reason"]) for row in left_out if row["kept"]]
    assert ("table.csv", "column 'ageofonset' is not read; call it age if it is that") in kept
    assert any(name == "subjects.csv" and "not read; a table is called" in reason for name, reason in kept)
    assert any("no column tells who is healthy" in reason for _, reason in kept)


def test_folders_of_contrasts_and_words_of_processing_make_no_persons(tmp_path: Path) -> None:
    for name in ("T1/anna", "T2w/anna", "FLAIR images/ben", "carl/T1/visit2", "dora_T1_defaced", "dora_T1"):
        put(tmp_path / f"{name}.nii.gz")
    put(tmp_path / "raw" / "Øle_PD.nii.gz")
    put(tmp_path / "Åle_PD.nii.gz")
    put(tmp_path / "T2.nii.gz")
    scans, left_out = find_scans("folder", tmp_path)
    assert [(scan.subject, scan.session, scan.modality) for scan in scans] == [
        ("anna", "", "T1"),
        ("anna", "", "T2"),
        ("ben", "", "FLAIR"),
        ("carl", "visit2", "T1"),
        ("dora", "", "T1"),
        ("Åle", "", "PD"),
        ("Øle", "", "PD"),
    ]
    assert left_out_as(left_out, kept=False) == {
        "dora": "a further T1 of the same session; the first is used",
        "T2": "its name does not say whose it is; name it after the person, or give a table",
    }


def test_a_row_for_each_session_in_participants_gives_each_visit_its_age(tmp_path: Path) -> None:
    for name in ("ses-a", "ses-b", "ses-c"):
        put(tmp_path / "sub-01" / name / "anat" / f"sub-01_{name}_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsession_id\tage\tsex\tdiagnosis\n"
        "sub-01\tses-a\t70\tF\tno\nsub-01\tb\t72.5\tF\tno\nsub-01\tses-c\t74\tF\tMCI\n"
    )
    scans, left_out = find_scans("bids", tmp_path)
    assert [(scan.session, scan.known) for scan in scans] == [
        ("ses-a", {"age": 70.0, "sex": "female", "health": "healthy"}),
        ("ses-b", {"age": 72.5, "sex": "female", "health": "healthy"}),
    ]
    assert [note["reason"].rpartition(": ")[2] for note in left_out] == ["the table says mci"]


def test_a_table_tells_more_of_a_plain_folder(tmp_path: Path) -> None:
    put(tmp_path / "a" / "scan.nii.gz")
    put(tmp_path / "sub-2_T1.nii.gz")
    put(tmp_path / "dora_T1.nii.gz")
    put_analyze(tmp_path / "carl_T1.img", "LAS")
    (tmp_path / "table.csv").write_text(
        "File;Subject;Contrast;Age;Sex;Diagnosis;Orientation;field_strength\n"
        "a/scan.nii.gz;anna k;T2;30;f;control;;7\n;sub-2;;41;M;HC;;strong\n;carl;;50;m;Control;las;\n"
        ";dora;;60;f;stroke;;\n"
    )
    scans, left_out = find_scans("folder", tmp_path)
    assert [(scan.subject, scan.modality, scan.orientation) for scan in scans] == [
        ("anna_k", "T2", ""),
        ("carl", "T1", "LAS"),
        ("sub-2", "T1", ""),
    ]
    assert scans[0].known == {"age": 30.0, "sex": "female", "field_strength": 7.0, "health": "healthy"}
    assert left_out_as(left_out, kept=False)["dora"].endswith("the table says stroke")
    assert left_out_as(left_out, kept=True) == {
        "sub-2": "field_strength 'strong' dropped: not a number of tesla above 0 and up to 20"
    }
    (tmp_path / "table.csv").write_text("name,age\nanna,30\n")
    with pytest.raises(SourceError, match="give it a column file or subject"):
        find_scans("folder", tmp_path)


def one_of_each(source: str, folder: Path) -> Path:
    """A data set with HEAD in every image, in the orientation and the format of its source."""
    if source == "ixi":
        put(folder / "IXI012-HH-1211-T1.nii.gz", "PSR")
        (folder / "IXI.csv").write_text('IXI_ID,"SEX_ID (1=m, 2=f)",AGE\n12,1,38.78\n')
    elif source in ("bids", "simulated"):
        put(folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz", "LPI")
        put(folder / "sub-01" / "anat" / "sub-01_dseg.nii.gz", "LPI")
        (folder / "participants.tsv").write_text("participant_id\nsub-01\n")
    elif source == "oasis1 raw":
        oasis1(folder)
        for path in folder.rglob("*_t88_*"):
            path.unlink()
        for session in ("OAS1_0001_MR1", "OAS1_0004_MR1"):
            put_analyze(folder / "disc1" / session / "RAW" / f"{session}_mpr-1_anon.img", "ASL")
    elif source == "folder":
        put_analyze(folder / "anna_T1.img", "PIR")
        put(folder / "ben_T1.nii.gz", "SAR")
        (folder / "table.tsv").write_text("subject\torientation\nanna\tPIR\n")
    else:
        make = {"oasis1": oasis1, "oasis2": oasis2, "hcp": hcp}
        oasis3(folder, "xnat") if source == "oasis3" else make[source](folder)
    return folder


@pytest.mark.parametrize(
    "source",
    ["ixi", "bids", "simulated", "oasis1", "oasis1 raw", "oasis2", "oasis3", "hcp", "folder"],
)
def test_left_stays_left_from_the_files_of_every_source_to_the_slice(source: str, tmp_path: Path) -> None:
    scans, _ = find_scans(source.split()[0], one_of_each(source, tmp_path))
    assert scans
    geometry = Geometry(size=24, spacing_mm=1.0)
    affine, shape = working_grid(geometry)
    for scan in scans:
        volume = load_volume(scan.path, orientation=scan.orientation)
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
        np.testing.assert_array_equal(np.asanyarray(volume.dataobj), HEAD)
        centred = volume.affine.copy()  # onto the middle of the grid, as registration would
        centred[:3, 3] = (affine @ [12, 12, 12, 1])[:3] - centred[:3, :3] @ [4, 4.5, 5]
        placed = resample(Nifti1Image(np.asanyarray(volume.dataobj), centred), affine, shape)
        labels = Nifti1Image(np.zeros(shape, np.int32), affine)
        for plane in ("axial", "coronal"):
            middle = float(affine[2 if plane == "axial" else 1, 3]) + 12
            pixels = cut(placed, labels, plane, middle, geometry).pixels
            left, right = pixels[:, :11], pixels[:, 13:]
            assert left[left > 0].mean() > 5 * right[right > 0].mean()
            top, bottom = pixels[:12, 13:], pixels[12:, 13:]
            assert top[top > 0].mean() > bottom[bottom > 0].mean()  # front, or above
        sagittal = cut(placed, labels, "sagittal", float(affine[0, 3]) + 9, geometry).pixels
        assert sagittal.max() > 1000  # to the left of the middle


@pytest.mark.parametrize("source", ["ixi", "bids", "simulated", "hcp"])
def test_a_file_that_does_not_say_which_side_is_left_is_left_out(source: str, tmp_path: Path) -> None:
    folder = one_of_each(source, tmp_path)
    paths = [scan.path for scan in find_scans(source, folder)[0]]
    put(paths[0], code=0)
    reason = "its header does not say which side is left; write it again with its orientation set"
    if len(paths) == 1:
        with pytest.raises(SourceError, match=reason):
            find_scans(source, folder)
        return
    scans, left_out = find_scans(source, folder)
    assert [scan.path for scan in scans] == paths[1:]
    assert [(note["path"], note["reason"]) for note in left_out if not note["kept"]] == [
        (str(paths[0]), reason)
    ]


def test_of_two_bids_runs_the_one_that_says_which_side_is_left_is_used(tmp_path: Path) -> None:
    put(tmp_path / "sub-01" / "anat" / "sub-01_run-1_T1w.nii.gz", code=0)
    put(tmp_path / "sub-01" / "anat" / "sub-01_run-2_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    scans, left_out = find_scans("bids", tmp_path)
    assert [scan.path.name for scan in scans] == ["sub-01_run-2_T1w.nii.gz"]
    assert "does not say which side is left" in left_out_as(left_out, kept=False)["sub-01"]


def test_the_plainest_bids_image_is_used_and_none_with_a_contrast_agent(tmp_path: Path) -> None:
    names = ("ce-gadolinium_T1w", "run-10_T1w", "run-2_T1w", "run-2_desc-defaced_T1w")
    for name in names:
        put(tmp_path / "sub-01" / "anat" / f"sub-01_{name}.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    scans, left_out = find_scans("bids", tmp_path)
    assert [scan.path.name for scan in scans] == ["sub-01_run-2_T1w.nii.gz"]
    reasons = {Path(row["path"]).name.split("_", 1)[1]: row["reason"] for row in left_out if not row["kept"]}
    assert reasons.pop("ce-gadolinium_T1w.nii.gz") == "made with a contrast agent (ce-)"
    assert set(reasons) == {f"{name}.nii.gz" for name in names[1:] if name != "run-2_T1w"}


@pytest.mark.parametrize("column", ["group", "dx"])
def test_a_bids_cohort_of_patients_alone_is_refused(tmp_path: Path, column: str) -> None:
    put(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(f"participant_id\t{column}\nsub-01\tMCI\n")
    with pytest.raises(SourceError, match="of a healthy person"):
        find_scans("bids", tmp_path)
    assert len(find_scans("bids", tmp_path, keep=("all",))[0]) == 1
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tA\n")
    assert len(find_scans("bids", tmp_path)[0]) == 1  # an arm of a study


def test_bids_sidecars_apply_to_all_below_them_and_the_nearest_wins(tmp_path: Path) -> None:
    for subject, names in (
        ("sub-01", ("ses-a/anat/sub-01_ses-a_acq-fast_T1w", "ses-b/anat/sub-01_ses-b_T1w")),
        ("sub-02", ("anat/sub-02_T1w", "anat/sub-02_T2w")),
        ("sub-03", ("anat/sub-03_T1w",)),
    ):
        for name in names:
            put(tmp_path / subject / f"{name}.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\nsub-03\n")
    for name, tesla in (
        ("T1w", 3),
        ("task-rest_T1w", 9),  # names an entity that no scan has
        ("sub-01/sub-01_T1w", 1.5),
        ("sub-01/ses-a/sub-01_ses-a_T1w", 4),
        ("sub-01/ses-a/sub-01_ses-a_acq-fast_T1w", 7),
        ("sub-02/anat/sub-02_T1w", None),  # says other things, so the next one above counts
        ("sub-03/anat/sub-03_T1w", 2.9),
    ):
        said = {"EchoTime": 0.003} if tesla is None else {"MagneticFieldStrength": tesla}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
    scans = find_scans("bids", tmp_path)[0]
    found = [(scan.subject, scan.session, scan.modality, scan.known.get("field_strength")) for scan in scans]
    assert found == [
        ("sub-01", "ses-a", "T1", 7.0),
        ("sub-01", "ses-b", "T1", 1.5),
        ("sub-02", "", "T1", 3.0),
        ("sub-02", "", "T2", None),
        ("sub-03", "", "T1", 2.9),
    ]


def test_an_orientation_is_three_axes_and_stands_in_for_the_header(tmp_path: Path) -> None:
    path = put_analyze(tmp_path / "x.img", "ASL")
    assert not has_orientation(path)
    assert not has_orientation(put(tmp_path / "x.nii", code=0))
    assert has_orientation(put(tmp_path / "y.nii"))
    assert has_orientation(tmp_path / "missing.nii")
    volume = load_volume(path, orientation="ASL")
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([1.25, 1.0, 1.0]))  # 1.25 mm between sagittals
    np.testing.assert_allclose(volume.affine @ [4, 4.5, 5, 1], [0, 0, 0, 1])
    for wrong in ("LR", "LLS", "LASR", "axial", "lasagna"):
        with pytest.raises(VolumeError, match=f"orientation '{wrong}': three letters"):
            load_volume(path, orientation=wrong)


def test_a_mask_lies_on_the_image_whose_file_does_not_say_its_place(tmp_path: Path) -> None:
    zoomed = np.kron(HEAD, np.ones((9, 9, 9), np.int16))  # 320 ml of it are bright
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("ASL"))
    header = nib.AnalyzeHeader(endianness=">")
    values = np.ascontiguousarray(apply_orientation(zoomed, turn))
    image = nib.AnalyzeImage(values, None, header)
    nib.save(image, tmp_path / "head.img")
    inside = (zoomed > 1000).astype(np.int32)
    moved = np.eye(4)
    moved[:3, 3] = (40, -70, 12)
    save_volume(Nifti1Image(inside, moved), tmp_path / "oriented.nii.gz")
    nib.save(
        nib.AnalyzeImage(apply_orientation(inside, turn).astype(np.int16), None, header),
        tmp_path / "bare.img",
    )
    for mask in ("oriented.nii.gz", "bare.img"):
        scan = Scan("oasis1", "a", "", "T1", tmp_path / "head.img", mask=tmp_path / mask, orientation="ASL")
        _, found, origin = read_brain(scan, "network")
        assert origin == "given"
        np.testing.assert_array_equal(np.asanyarray(found.dataobj), inside)


def test_volumes_of_a_resized_head_are_given_in_native_mm3(tmp_path: Path) -> None:
    labels = np.zeros((10, 10, 10), np.int32)
    labels[2:4, 2:4, 2:4] = 10
    save_volume(Nifti1Image(labels, np.eye(4)), tmp_path / "labels.nii.gz")
    plain = Registration(matrix=np.eye(4), warp=None, similarity=1.0, overlap=1.0)
    scan = Scan("oasis1", "a", "", "T1", tmp_path, labels=tmp_path / "labels.nii.gz", scale=1.6)
    brain = Nifti1Image(labels.astype(np.float32), np.eye(4))
    _, volumes = labels_and_volumes(scan, brain, plain, load_atlas(), np.eye(4), (10, 10, 10))
    assert volumes == {"brain": 5.0, "left thalamus": 5.0}


def test_pairs_take_keep_and_refuse_a_folder_begun_with_another(tmp_path: Path) -> None:
    folder = oasis1(tmp_path / "oasis1")
    settings = {"geometry": Geometry(32, 6.0), "every_mm": 30.0, "workers": 1}

    def build(**changes: Any) -> dict[str, Any]:
        return write_pairs("oasis1", folder, tmp_path / "pairs", **(settings | changes))  # type: ignore[arg-type]

    assert build(dry_run=True) == {"subjects": 3, "scans": 4, "rejected": 2}
    assert build(dry_run=True, keep=["0.5"]) == {"subjects": 4, "scans": 5, "rejected": 1}
    with pytest.raises(PairsError, match=r"no slice could be made; see .*rejected\.jsonl"):  # heads of 1 ml
        build(keep=["0.5"])
    with pytest.raises(PairsError, match=r"was begun with keep = \['0.5'\], now keep = None"):
        build()
    splits = json.loads((tmp_path / "pairs" / "splits.json").read_text())
    assert set(splits) == {"OAS1_0001", "OAS1_0003", "OAS1_0004", "OAS1_0061"}


def tree_of(folder: Path, table: Path, sessions: list[str], name: str) -> Path:
    """Empty files under the names that a real table lists: enough for the adapter to find them."""
    for session in sessions:
        place = folder / session / name.format(session)
        place.parent.mkdir(parents=True)
        place.touch()
    (folder / table.name).write_bytes(table.read_bytes())
    return folder


@pytest.mark.skipif(not TABLES.is_dir(), reason="needs real tables (BRAINCLIP_DATA)")
@pytest.mark.parametrize("copy", ["oasis1", "oasis1-variants"])
def test_the_real_oasis1_tables_give_the_published_counts(copy: str, tmp_path: Path) -> None:
    table = tmp_path / "oasis_cross-sectional.csv"
    table.write_bytes(next((TABLES / copy).glob("*.csv")).read_bytes())
    sessions = [line.split(",")[0] for line in table.read_text(encoding="utf-8-sig").splitlines()[1:]]
    name = "PROCESSED/MPRAGE/T88_111/{}_mpr_n4_anon_111_t88_masked_gfc.img"
    scans, left_out = find_scans("oasis1", tree_of(tmp_path / "tree", table, sessions, name))
    others = [note for note in left_out if not note["kept"]]
    assert len(scans) + len(others) == len(sessions)
    assert not [note for note in left_out if note["kept"]]
    if copy == "oasis1":
        subjects = {scan.subject for scan in scans}
        assert (len(sessions), len(scans), len(subjects), len(others)) == (436, 336, 316, 100)
    said = Counter(note["reason"].rpartition(" ")[2] for note in others)
    assert said == {"0.5": 70, "1": 28, "2": 2}
    assert all(0.64 < scan.known["nwbv"] < 0.9 and 0.8 < scan.scale < 1.6 for scan in scans)


@pytest.mark.skipif(not TABLES.is_dir(), reason="needs real tables (BRAINCLIP_DATA)")
def test_the_real_oasis2_table_gives_the_published_counts(tmp_path: Path) -> None:
    table = TABLES / "oasis2" / "oasis_longitudinal.csv"
    sessions = [line.split(",")[1] for line in table.read_text().splitlines()[1:]]
    tree = tree_of(tmp_path / "tree", table, sessions, "RAW/mpr-1.nifti.img")
    scans, left_out = find_scans("oasis2", tree)
    assert (len(sessions), len(scans), len({scan.subject for scan in scans})) == (373, 190, 72)
    said = Counter(note["reason"].rpartition(" ")[2] for note in left_out if not note["kept"])
    assert said == {"demented": 146, "converted": 37}
