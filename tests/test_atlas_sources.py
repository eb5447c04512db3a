"""Data sets as they come: IXI and its table with duplicates, BIDS, a simulated cohort, broken ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel import Nifti1Image

from atlas.caption import caption
from atlas.errors import SourceError
from atlas.facts import Facts, wordings
from atlas.prompt import read_prompt
from atlas.sources import RULES, SOURCES, Scan, counts_as_healthy, find_scans
from atlas.sources.health import is_healthy
from atlas.sources.tables import HANDS, person_facts

DATA = Path(os.environ.get("BRAINCLIP_DATA", Path(__file__).parents[2] / "shared" / "data"))
IXI_TABLE = """IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,AGE
12,1,175,38.78
13,2,164,
14,2,160,53.08
14,2,0,58.07
15,1,170,24.5
15,1,0,24.5
"""


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(Nifti1Image(np.ones((8, 9, 10), np.uint8), np.eye(4)), path)
    return path


def ixi(folder: Path, table: str = IXI_TABLE) -> Path:
    for name in ("IXI012-HH-1211-T1", "IXI013-Guys-0731-T1", "IXI014-IOP-1236-T2", "IXI015-HH-1258-PD"):
        put(folder / f"{name}.nii.gz")
    (folder / "IXI.csv").write_text(table)
    return folder


def reasons(left_out: list[dict[str, Any]], *, kept: bool) -> dict[str, str]:
    return {note["subject"]: note["reason"] for note in left_out if note["kept"] == kept}


def test_ixi_scans_carry_age_sex_site_and_field_strength(tmp_path: Path) -> None:
    scans, left_out = find_scans("ixi", ixi(tmp_path))
    assert [scan.subject for scan in scans] == ["IXI012", "IXI013", "IXI014", "IXI015"]
    assert [scan.modality for scan in scans] == ["T1", "T1", "T2", "PD"]
    first = scans[0]
    assert first.known == {
        "health": "healthy",
        "site": "Hammersmith Hospital",
        "field_strength": 3.0,
        "age": 38.78,
        "sex": "male",
    }
    assert (first.source, first.session, first.mask, first.labels) == ("ixi", "1211", None, None)
    assert scans[1].known["field_strength"] == 1.5
    assert scans[1].known["sex"] == "female"
    assert "age" not in scans[1].known
    assert "age" not in scans[2].known  # two rows of one id disagree
    assert scans[3].known["age"] == 24.5  # two rows of one id agree
    assert reasons(left_out, kept=True) == {
        "IXI013": "the table gives no age",
        "IXI014": "age dropped: rows with the same id give 53.1 and 58.1 years",
    }
    assert not reasons(left_out, kept=False)


def test_files_that_are_not_scans_are_listed_with_the_reason(tmp_path: Path) -> None:
    folder = ixi(tmp_path)
    put(folder / "IXI012-HH-1211-MRA.nii.gz")
    put(folder / "IXI016-Bonn-1211-T1.nii.gz")
    put(folder / "brain.nii")
    put(folder / "IXI999-HH-1-T1.nii.gz")
    scans, left_out = find_scans("ixi", folder)
    assert len(scans) == 5
    assert reasons(left_out, kept=False) == {
        "IXI012": "contrast MRA is not one of T1, T2, PD, FLAIR",
        "IXI016": "unknown site Bonn; IXI has Guys, HH, IOP",
        "": "not named as IXI names its scans (IXI012-HH-1211-T1.nii.gz)",
    }
    assert reasons(left_out, kept=True)["IXI999"] == "the table has no row for this id"


def test_masks_are_matched_by_name_and_a_missing_one_is_listed(tmp_path: Path) -> None:
    folder = ixi(tmp_path / "ixi")
    for name in ("IXI012-HH-1211-T1", "IXI013-Guys-0731-T1", "IXI014-IOP-1236-T2"):
        put(tmp_path / "masks" / f"{name}_DLMUSE.nii.gz")
    scans, left_out = find_scans("ixi", folder, masks=tmp_path / "masks")
    assert [scan.mask.name for scan in scans if scan.mask] == [
        "IXI012-HH-1211-T1_DLMUSE.nii.gz",
        "IXI013-Guys-0731-T1_DLMUSE.nii.gz",
        "IXI014-IOP-1236-T2_DLMUSE.nii.gz",
    ]
    assert "one is needed" in reasons(left_out, kept=False)["IXI015"]


def test_the_table_may_lie_beside_the_folder_and_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = ixi(tmp_path / "T1")
    (folder / "IXI.csv").unlink()
    (tmp_path / "IXI.csv").write_text("\ufeff" + IXI_TABLE, encoding="utf-8")
    assert find_scans("ixi", folder)[0][0].known["age"] == 38.78


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (IXI_TABLE.replace("AGE", "YEARS"), "column 'AGE' is missing; the table has IXI_ID"),
        ("IXI_ID,AGE\n12,30\n", "column 'SEX_ID \\(1=m, 2=f\\)' is missing"),
        ("12,1,175,38.78\n13,2,164,\n", "its first line holds values .* put the line with 'IXI_ID'"),
        ("", "no rows"),
    ],
)
def test_a_wrong_ixi_table_is_refused_in_one_sentence(table: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        find_scans("ixi", ixi(tmp_path, table))
    assert "\n" not in str(caught.value)


def test_a_missing_table_a_damaged_one_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    folder = ixi(tmp_path / "ixi")
    (folder / "IXI.csv").unlink()
    with pytest.raises(SourceError, match=r"neither IXI\.xls nor IXI\.csv"):
        find_scans("ixi", folder)
    (folder / "IXI.xls").write_bytes(b"not a table")
    with pytest.raises(SourceError, match="not an Excel 97 table"):
        find_scans("ixi", folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "IXI.csv").write_text(IXI_TABLE)
    with pytest.raises(SourceError, match="no scan laid out as 'ixi'"):
        find_scans("ixi", empty)
    with pytest.raises(SourceError, match="no such folder"):
        find_scans("ixi", tmp_path / "nowhere")
    with pytest.raises(SourceError, match="unknown source 'adni'; possible: ixi, bids, simulated"):
        find_scans("adni", folder)


def cohort(folder: Path) -> Path:
    for subject in ("sub-0001", "sub-0002"):
        for suffix in ("T1w", "T2w", "PDw", "FLAIR", "dseg"):
            put(folder / subject / "anat" / f"{subject}_{suffix}.nii.gz")
    rows = "participant_id\tage\tsex\thandedness\nsub-0001\t71.5\tF\tR\nsub-0002\t89+\tother\tn/a\n"
    (folder / "participants.tsv").write_text(rows)
    return folder


def test_twins_of_ixi_are_one_family(tmp_path: Path) -> None:
    table = 'IXI_ID,"SEX_ID (1=m, 2=f)",AGE,DOB,STUDY_DATE\n' + "".join(
        f"{n},{sex},40,{born},{day}\n"
        for n, sex, born, day in (
            (12, 2, "1960-01-02", "2006-05-01"),
            (13, 2, "1960-01-02", "2006-05-01"),
            (14, 2, "1960-01-02", "2006-05-02"),
            (15, 1, "1960-01-02", "2006-05-01"),
        )
    )
    scans, _ = find_scans("ixi", ixi(tmp_path, table))
    assert {scan.subject: scan.family for scan in scans} == {
        "IXI012": "IXI012 and twin",
        "IXI013": "IXI012 and twin",
        "IXI014": "",
        "IXI015": "",
    }


def test_a_simulated_cohort_brings_its_true_labels(tmp_path: Path) -> None:
    scans, left_out = find_scans("simulated", cohort(tmp_path))
    assert [(scan.subject, scan.modality) for scan in scans[:4]] == [
        ("sub-0001", "FLAIR"),
        ("sub-0001", "PD"),
        ("sub-0001", "T1"),
        ("sub-0001", "T2"),
    ]
    assert scans[0].labels == tmp_path / "sub-0001" / "anat" / "sub-0001_dseg.nii.gz"
    assert scans[0].known == {"age": 71.5, "sex": "female", "handedness": "right", "health": "healthy"}
    assert scans[4].known == {"health": "healthy"}
    assert {note["reason"] for note in left_out} == {
        "age '89+' dropped: not a number of years above 0 and up to 120",
        "sex 'other' dropped: known are f, female, m, male",
    }
    assert all(note["kept"] for note in left_out)


def test_simulated_scans_without_labels_are_left_out(tmp_path: Path) -> None:
    folder = cohort(tmp_path)
    (folder / "sub-0002" / "anat" / "sub-0002_dseg.nii.gz").unlink()
    scans, left_out = find_scans("simulated", folder)
    assert {scan.subject for scan in scans} == {"sub-0001"}
    assert "true labels sub-0002_dseg.nii.gz are missing" in next(
        note["reason"] for note in left_out if not note["kept"] and note["path"].endswith("T1w.nii.gz")
    )


def test_bids_sessions_repeats_sidecars_and_strangers(tmp_path: Path) -> None:
    folder = cohort(tmp_path)
    put(folder / "sub-0003" / "ses-a" / "anat" / "sub-0003_ses-a_run-1_T1w.nii.gz")
    put(folder / "sub-0003" / "ses-a" / "anat" / "sub-0003_ses-a_run-2_T1w.nii.gz")
    put(folder / "sub-0003" / "ses-b" / "anat" / "sub-0003_ses-b_T2star.nii.gz")
    sidecar = folder / "sub-0003" / "ses-a" / "anat" / "sub-0003_ses-a_run-1_T1w.json"
    sidecar.write_text(json.dumps({"MagneticFieldStrength": 3}))
    with (folder / "participants.tsv").open("a") as file:
        file.write("sub-0004\t30\tM\tL\n")
    scans, left_out = find_scans("bids", folder)
    ours = [scan for scan in scans if scan.subject == "sub-0003"]
    assert [(scan.session, scan.modality, scan.path.name) for scan in ours] == [
        ("ses-a", "T1", "sub-0003_ses-a_run-1_T1w.nii.gz")
    ]
    assert ours[0].known == {"field_strength": 3.0}
    assert ours[0].labels is None
    told = " ".join(note["reason"] for note in left_out)
    for part in ("a further T1w", "T2star is not one of", "not listed in participants.tsv", "no such folder"):
        assert part in told


def test_a_wrong_or_missing_participants_table_is_refused(tmp_path: Path) -> None:
    folder = cohort(tmp_path)
    (folder / "participants.tsv").write_text("id\tage\n1\t20\n")
    with pytest.raises(SourceError, match="column 'participant_id' is missing; the table has id, age"):
        find_scans("bids", folder)
    (folder / "participants.tsv").write_text("participant_id age\nsub-01 20\n")
    with pytest.raises(SourceError, match="its columns are not separated by tabs"):
        find_scans("bids", folder)
    (folder / "participants.tsv").unlink()
    with pytest.raises(SourceError, match=r"participants\.tsv: missing; the simulator writes it last"):
        find_scans("simulated", folder)


def test_without_a_participants_table_everyone_stays_and_a_note_says_so(tmp_path: Path) -> None:
    put(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    scans, left_out = find_scans("bids", tmp_path)
    assert [(scan.subject, scan.known, scan.standing) for scan in scans] == [("sub-01", {}, None)]
    assert [(note["kept"], note["reason"]) for note in left_out] == [
        (True, "missing, so nobody's age, sex and health are known; everyone stays")
    ]


def test_a_link_to_a_file_that_was_not_fetched_is_no_scan(tmp_path: Path) -> None:
    folder = ixi(tmp_path)
    (folder / "IXI012-HH-1211-T1.nii.gz").unlink()
    (folder / "IXI012-HH-1211-T1.nii.gz").symlink_to(tmp_path / ".git" / "annex" / "x.nii.gz")
    scans, left_out = find_scans("ixi", folder)
    assert "IXI012" not in {scan.subject for scan in scans}
    assert "fetch it first" in reasons(left_out, kept=False)["IXI012"]
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    (lonely / "anna_T1.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    with pytest.raises(SourceError, match="fetch it first"):
        find_scans("folder", lonely)


@pytest.mark.parametrize(
    ("said", "column", "healthy"),
    [
        ("Healthy control subject", "group", True),
        ("cognitively normal older adults", "diagnosis", True),
        ("age-matched controls", "group", True),
        ("typically developing", "health", True),
        ("Non-demented", "group", True),
        ("none", "pathology", True),
        ("No", "diagnosis", True),
        ("no known disease", "health", True),
        ("no", "health", False),
        ("none", "group", False),
        ("", "pathology", False),
        ("no treatment", "group", False),
        ("normal pressure hydrocephalus", "diagnosis", False),
        ("unhealthy", "health", False),
        ("healthy relative of a patient", "group", False),
        ("control of epilepsy", "diagnosis", False),
    ],
)
def test_who_is_called_healthy(said: str, column: str, healthy: bool) -> None:
    assert is_healthy(said, column) is healthy


@pytest.mark.parametrize(("source", "table"), [("bids", "participants.tsv"), ("folder", "table.tsv")])
def test_no_pathology_in_a_table_makes_healthy(source: str, table: str, tmp_path: Path) -> None:
    for name in ("sub-01", "sub-02"):
        put(tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
    (tmp_path / table).write_text("participant_id\tpathology\nsub-01\tNone\nsub-02\tstroke\n")
    scans, _ = find_scans(source, tmp_path)
    assert [(scan.subject, scan.known) for scan in scans] == [("sub-01", {"health": "healthy"})]


@pytest.mark.parametrize("source", ["bids", "folder"])
def test_one_column_that_says_ill_outweighs_another_that_says_nothing_is_there(
    source: str, tmp_path: Path
) -> None:
    rows = {"sub-01": "none\tAD\t", "sub-02": "none\tcontrol\t", "sub-03": "\tcontrol\tn/a"}
    for name in rows:
        put(tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
    table = "participant_id\tpathology\tgroup\tdiagnosis\n"
    lines = "".join(f"{name}\t{row}\n" for name, row in rows.items())
    (tmp_path / "participants.tsv").write_text(table + lines)
    scans, left_out = find_scans(source, tmp_path)
    assert [(scan.subject, scan.known) for scan in scans] == [
        ("sub-02", {"health": "healthy"}),
        ("sub-03", {"health": "healthy"}),
    ]
    assert [row["reason"].rpartition(": ")[2] for row in left_out] == ["the table says ad"]


@pytest.mark.parametrize(
    ("column", "well", "ill"),
    [
        ("group", "CTL", "FTD"),
        ("group", "neurotypical", "Parkinson's disease"),
        ("dx_group", "control", "autism"),
        ("cohort", "HV", "early MCI"),
        ("patient", "no", "yes"),
        ("diagnosis", "cognitively unimpaired", "dementia"),
        ("status", "normal aging", "SMC"),
    ],
)
def test_patients_of_any_usual_column_are_left_out(column: str, well: str, ill: str, tmp_path: Path) -> None:
    for name in ("sub-01", "sub-02"):
        put(tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(f"participant_id\t{column}\nsub-01\t{well}\nsub-02\t{ill}\n")
    scans, _ = find_scans("bids", tmp_path)
    assert [(scan.subject, scan.known) for scan in scans] == [("sub-01", {"health": "healthy"})]


def test_bids_tables_may_say_gender_and_age_at_scan_and_what_is_not_read_is_noted(tmp_path: Path) -> None:
    put(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    put(tmp_path / "sub-01" / "anat" / "sub-01_space-MNI152NLin6Asym_T2w.nii.gz")
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage_at_scan\tGender\nsub-01\t31\tF\n")
    scans, left_out = find_scans("bids", tmp_path)
    assert [scan.known for scan in scans] == [{"age": 31.0, "sex": "female"}]
    assert "in another space" in reasons(left_out, kept=False)["sub-01"]
    assert "no column tells who is healthy" in reasons(left_out, kept=True)[""]
    table.write_text("participant_id\tage_group\tsex_at_birth\tgroup\nsub-01\told\tF\tcontrol\n")
    noted = [row["reason"] for row in find_scans("bids", tmp_path)[1] if row["kept"]]
    assert noted == [
        "column 'age_group' is not read; call it age if it is that",
        "column 'sex_at_birth' is not read; call it sex if it is that",
    ]


def test_masks_lie_as_the_scans_do_and_none_is_shared(tmp_path: Path) -> None:
    folder, masks = tmp_path / "scans", tmp_path / "masks"
    for name in ("anna", "bert"):
        put(folder / name / "T1.nii.gz")
        put(masks / name / "T1_mask.nii.gz")
    scans, _ = find_scans("folder", folder, masks=masks)
    assert [scan.mask for scan in scans] == [masks / name / "T1_mask.nii.gz" for name in ("anna", "bert")]
    put(masks / "one" / "T1_mask.nii.gz")
    with pytest.raises(SourceError, match="the mask of several scans"):
        find_scans("folder", folder, masks=masks / "one")


def test_a_decimal_comma_is_a_number_and_a_doubled_heading_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "anna_T1.nii.gz")
    (tmp_path / "table.csv").write_text("subject;age\nanna;30,5\n")
    assert find_scans("folder", tmp_path)[0][0].known == {"age": 30.5}
    (tmp_path / "table.csv").write_text("subject;age;Age \nanna;30;70\n")
    with pytest.raises(SourceError, match="the column 'age' is there twice; take one out"):
        find_scans("folder", tmp_path)


@pytest.mark.parametrize("said", ["A", "a", "ambidextrous", "Ambidextrous", "both"])
def test_both_hands_are_called_by_the_word_that_captions_say_and_prompts_are_read_by(said: str) -> None:
    facts, doubts = person_facts({"handedness": said})
    assert (facts, doubts) == ({"handedness": "ambidextrous"}, [])
    assert set(HANDS.values()) == set(wordings()["handedness"])
    slice_ = Facts(plane="axial", modality="T1", known=facts)
    texts = [caption(slice_, seed=seed) for seed in range(300)]
    stated = [one for one in texts if "handedness" in one.mentioned]
    assert stated
    for one in stated:
        assert "ambidextrous" in one.text.lower()
        assert read_prompt(one.text).facts.known["handedness"] == "ambidextrous"


def test_who_stays_besides_the_healthy_does_not_count_as_healthy() -> None:
    def scan(standing: str | None, **known: str) -> Scan:
        return Scan("bids", "a", "", "T1", Path("a.nii.gz"), dict(known), standing=standing)

    assert counts_as_healthy(scan("control", health="healthy"))
    assert counts_as_healthy(scan(None))  # the data set says nothing of health
    assert not counts_as_healthy(scan("0.5")) and not counts_as_healthy(scan(""))


def test_every_source_has_an_adapter() -> None:
    assert list(SOURCES) == ["ixi", "bids", "simulated", "oasis1", "oasis2", "oasis3", "hcp", "folder"]
    assert set(RULES) == set(SOURCES)


@pytest.mark.skipif(not (DATA / "ixi" / "IXI.xls").exists(), reason="needs IXI (BRAINCLIP_DATA)")
def test_the_real_ixi_folder_is_read_with_its_own_table() -> None:
    scans, left_out = find_scans("ixi", DATA / "ixi", masks=DATA / "ixi-dlmuse")
    assert len(scans) == 145
    assert all(scan.mask for scan in scans)
    ages = [scan.known["age"] for scan in scans if "age" in scan.known]
    assert (len(ages), round(min(ages), 1), round(max(ages), 1)) == (144, 20.2, 81.9)
    assert [scan.known["sex"] for scan in scans if "sex" in scan.known].count("female") == 78
    assert {note["subject"] for note in left_out} == {"IXI328"}  # two people share this id
    assert len(left_out) == 2


@pytest.mark.skipif(not (DATA / "tables" / "ixi" / "IXI.csv").exists(), reason="needs IXI (BRAINCLIP_DATA)")
def test_ixi_xls_and_ixi_csv_say_the_same(tmp_path: Path) -> None:
    found = []
    for ending in ("xls", "csv"):
        folder = ixi(tmp_path / ending)
        (folder / "IXI.csv").unlink()
        (folder / f"IXI.{ending}").write_bytes((DATA / "tables" / "ixi" / f"IXI.{ending}").read_bytes())
        found.append([scan.known for scan in find_scans("ixi", folder)[0]])
    assert found[0][0]["age"] == pytest.approx(38.78, abs=0.01)
    for left, right in zip(*found, strict=True):
        assert left == pytest.approx(right)
