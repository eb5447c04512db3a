"""What a prompt says that is easily read as something else: absences, ranges, units, sides, other names."""

from __future__ import annotations

import pytest

from atlas.errors import PromptError
from atlas.facts import levels
from atlas.prompt import read_prompt


def understood(text: str) -> dict[str, object]:
    prompt = read_prompt(text)
    assert prompt.unknown == (), text
    return prompt.mentioned


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("coronal T1, no hippocampus visible", "no hippocampus"),
        ("not coronal, T1", "not coronal"),
        ("axial without a cerebellum", "without a cerebellum"),
        ("axial w/o hippocampus", "without hippocampus"),
        ("axial, hippocampus not visible", "hippocampus not visible"),
        ("coronal, the hippocampus cannot be seen", "the hippocampus cannot be seen"),
        ("axial, hippocampus absent", "hippocampus absent"),
        (
            "I don\N{RIGHT SINGLE QUOTATION MARK}t want to see the ventricles",
            "don't want to see the ventricles",
        ),
        ("axial instead of coronal", "instead of coronal"),
        ("axial, normal except ventriculomegaly", "except ventriculomegaly"),
        ("axial T2, not FLAIR", "not flair"),
        ("axial, no tiny thing or hippocampus", "no tiny thing or hippocampus"),
        ("axial, neither hippocampus nor amygdala", "neither hippocampus"),
        ("axial, a woman, not a man", "not a man"),
        ("axial, not 70 years old", "not"),
        ("axial T1, not normal", "not normal"),
    ],
)
def test_an_absence_is_refused_in_one_sentence_that_quotes_it(text, said):
    with pytest.raises(PromptError) as error:
        read_prompt(text)
    assert str(error.value).startswith((f"'{said}' asks for", f'"{said}" asks for'))
    assert "cannot be drawn; say what is there instead" in str(error.value)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("axial without enlarged ventricles", {"lateral ventricles": "normal"}),
        ("axial, no small hippocampi", {"hippocampi": "normal"}),
        ("axial, ventricles are not big", {"lateral ventricles": "normal"}),
        ("axial, ventricles that are not enlarged", {"lateral ventricles": "normal"}),
        ("axial, neither enlarged nor small ventricles", {"lateral ventricles": "normal"}),
        ("axial, lacking ventriculomegaly", {"lateral ventricles": "normal"}),
        (
            "axial. No ventriculomegaly, hippocampal atrophy or cortical thinning. Large thalami",
            {
                "lateral ventricles": "normal",
                "hippocampi": "normal",
                "cortex": "normal",
                "thalami": "enlarged",
            },
        ),
        (
            "axial without enlarged ventricles with small thalami",
            {"lateral ventricles": "normal", "thalami": "small"},
        ),
    ],
)
def test_a_size_that_is_denied_is_the_normal_size(text, sizes):
    assert read_prompt(text).facts.sizes == sizes


def test_no_disease_is_health_and_a_disease_is_unknown():
    assert understood("axial, no tumour in the left thalamus") == {
        "plane": "axial",
        "health": "healthy",
        "regions": ["left thalamus"],
    }
    assert understood("axial, no infarct or mass, 45 F")["health"] == "healthy"
    prompt = read_prompt("axial, tumour in the left thalamus")
    assert prompt.unknown == ("tumour",)
    assert "health" not in prompt.facts.known


def test_the_absence_of_what_no_picture_shows_is_named_as_unknown():
    prompt = read_prompt("axial T1, no metastases, 54F")
    assert prompt.unknown == ("no metastases",)
    assert prompt.facts.known == {"age": 54, "sex": "female"}


def test_a_denial_that_can_be_read_in_two_ways_is_refused():
    for text in ("no ventriculomegaly and hippocampal atrophy", "no ventriculomegaly, hippocampal atrophy"):
        with pytest.raises(PromptError, match="can be read in two ways"):
            read_prompt(f"axial, {text}")


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30-40 year old", 35),
        ("30\N{EN DASH}40 y/o", 35),
        ("30 to 40 years", 35),
        ("aged 30 to 40", 35),
        ("between the ages of 30 and 40", 35),
        ("between 65 and 70 years old", 67),
        ("60-to-70-year-olds", 65),
        ("age range 20-30", 25),
        ("woman, 30-40", 35),
        ("twenty to thirty years", 25),
        ("aged seventy", 70),
        ("aged 35.5", 35),
        ("30 years and 6 months old", 30),
        ("30 \N{PLUS-MINUS SIGN} 5 years", 30),
        ("M/70", 70),
        ("elderly man, 82", 82),
    ],
)
def test_a_range_of_ages_is_its_midpoint_and_ages_in_words_are_numbers(text, age):
    known = read_prompt(f"axial T1, {text}").facts.known
    assert known["age"] == age
    assert "age_band" not in known


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("65+", "elderly"),
        ("over 65", "elderly"),
        ("aged 65 and over", "elderly"),
        ("age > 65", "elderly"),
        ("under 40", "young"),
        ("in his seventies", "70s"),
        ("an elderly woman in her seventies", "70s"),
        ("a septuagenarian", "70s"),
        ("a 70's woman", "70s"),
    ],
)
def test_an_open_range_that_is_a_band_of_ages_is_that_band(text, band):
    known = understood(f"axial T1, {text}")
    assert known["age_band"] == band
    assert "age" not in known


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("over 70", "'over 70' is no one age; say one, for example '75-year-old'"),
        ("80+ years", "'80+' is no one age"),
        ("under 30 years", "'under 30 years' is no one age; say one, for example '25-year-old'"),
        ("aged 7 months", "'7 months': ages are in years"),
        ("18-month-old", "'18-month-old': ages are in years"),
        ("10-year-old boy", "'boy': the brains that can be shown are those of adults"),
    ],
)
def test_what_is_no_one_age_of_an_adult_is_refused(text, said):
    with pytest.raises(PromptError) as error:
        read_prompt(f"axial T1, {text}")
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("16 years of education", ("16", "education")),
        ("follow-up after 2 years", ("follow", "up", "after", "2")),
        ("scanned 6 months after baseline", ("scanned", "6", "months", "after", "baseline")),
        ("subject 23", ("23",)),
        ("2 1/2 years", ("2", "1")),
        ("elderly 30-year-old", ("elderly",)),
    ],
)
def test_other_numbers_are_no_ages(text, unknown):
    prompt = read_prompt(f"axial T1, {text}")
    assert prompt.unknown == unknown
    assert prompt.facts.known in ({}, {"age": 30})


def test_a_mean_is_no_man_and_a_voxel_no_place():
    prompt = read_prompt("T1, participants aged 18-35 (M = 24.5), 1 x 1 x 1 mm")
    assert prompt.unknown == ("m = 24.5", "1 x 1 x 1 mm")
    assert prompt.mentioned == {"age": 26, "modality": "T1"}
    assert read_prompt("axial brain slice, I'm 45").unknown == ("i'm", "45")


@pytest.mark.parametrize(
    ("text", "plane", "position_mm"),
    [
        ("z = 1.2 cm", "axial", 12.0),
        ("z=1,2 cm", "axial", 12.0),
        ("y = -2cm", "coronal", -20.0),
        ("z-coordinate: -20 mm", "axial", -20.0),
        ("1 cm above the AC", "axial", 10.0),
        ("12 mm above the AC", "axial", 12.0),
        ("1.1 cm below the AC-PC line", "axial", -11.0),
        ("12 millimetres inferior to the anterior commissure", "axial", -12.0),
        ("2 cm behind the MNI origin", "coronal", -20.0),
        ("3 cm left of the midline", "sagittal", -30.0),
        ("axial, -20 mm", "axial", -20.0),
        ("coronal, AC-12 mm", "coronal", -12.0),
        ("sagittal +1 cm", "sagittal", 10.0),
    ],
)
def test_a_place_is_in_millimetres_from_the_anterior_commissure(text, plane, position_mm):
    assert understood(text) == {"plane": plane, "position_mm": position_mm}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-20 mm", "'-20 mm' is along no axis; say for example 'z = -20 mm'"),
        ("z = 10-20 mm", "'z = 10-20' is a range, and a slice has one place"),
        ("z 10 to 20 mm", "'z 10 to 20' is a range"),
        ("axial, 2 cm above the thalamus", "a place 'above the thalamus' cannot be read"),
        ("axial, 12 above the AC", "a place 'above the ac' cannot be read"),
        ("sagittal, slightly left of the midline", "a place 'left of the midline' cannot be read"),
        ("sagittal, 1 cm from the midline", "a place 'cm from the midline' cannot be read"),
        ("axial, just above the ventricles", "a place 'just above the ventricles' cannot be read"),
    ],
)
def test_a_place_that_is_none_is_refused(text, said):
    with pytest.raises(PromptError) as error:
        read_prompt(text)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axial T2*", "'t2*': no T2* contrast can be shown; did you mean T2?"),
        ("axial T2*-weighted GRE", "'t2* weighted': no T2* contrast can be shown; did you mean T2?"),
        ("axial T2 * weighted", "'t2* weighted': no T2* contrast can be shown; did you mean T2?"),
        ("axial T2 star", "'t2 star': no T2* contrast can be shown; did you mean T2?"),
        ("axial T1 with contrast", "'with contrast': no contrast agent can be shown; did you mean T1?"),
        ("axial T1 post contrast", "'post contrast': no contrast agent can be shown; did you mean T1?"),
        ("axial DWI", "'dwi': it cannot be shown; the contrasts are T1, T2, PD and FLAIR"),
    ],
)
def test_a_contrast_that_cannot_be_shown_is_refused(text, said):
    with pytest.raises(PromptError) as error:
        read_prompt(text)
    assert str(error.value).startswith(said)


def test_a_field_strength_with_a_decimal_comma_is_read_whole():
    assert understood("axial at 1,5 T") == {"plane": "axial", "field_strength": 1.5}


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("inferior horn of the left lateral ventricle", ["left temporal horn of the lateral ventricle"]),
        ("temporal horn of right lateral ventricle", ["right temporal horn of the lateral ventricle"]),
        ("right-sided hippocampus", ["right hippocampus"]),
        ("L hippocampus, R amygdala", ["left hippocampus", "right amygdala"]),
        ("Lt. hippocampus", ["left hippocampus"]),
        ("hippocampus on the left", ["left hippocampus"]),
        ("hippocampus on the left-hand side", ["left hippocampus"]),
        ("hippocampus of the right hemisphere", ["right hippocampus"]),
        ("hippocampus, left", ["left hippocampus"]),
        ("hippocampus (right) and left amygdala", ["right hippocampus", "left amygdala"]),
        ("hippocampus left, amygdala right", ["left hippocampus", "right amygdala"]),
        ("hippocampus left amygdala", ["hippocampus", "left amygdala"]),
        ("hippocampus, left amygdala", ["hippocampus", "left amygdala"]),
        ("left and right thalamus", ["left thalamus", "right thalamus"]),
        ("bilateral thalami", ["left thalamus", "right thalamus"]),
        ("thalami bilaterally", ["left thalamus", "right thalamus"]),
        ("thalami on both sides", ["left thalamus", "right thalamus"]),
    ],
)
def test_the_side_of_a_region_is_kept_wherever_it_stands(text, regions):
    assert understood(f"coronal T1, {text}") == {"plane": "coronal", "modality": "T1", "regions": regions}


def test_a_hand_is_not_the_side_of_a_region():
    assert understood("axial, hippocampus, right-handed man") == {
        "plane": "axial",
        "regions": ["hippocampus"],
        "handedness": "right",
        "sex": "male",
    }


def test_the_side_of_a_level_is_kept():
    assert understood("sagittal through the insula on the right")["level"] == "right insula"


def test_basal_nuclei_are_the_basal_ganglia():
    for plane, level in (("axial", "basal ganglia"), ("coronal", "anterior commissure")):
        assert understood(f"{plane}, basal nuclei") == {"plane": plane, "level": level}
        assert understood(f"{plane}, basal ganglia") == {"plane": plane, "level": level}
    assert understood("sagittal, left basal nuclei")["level"] == "left hippocampus"


@pytest.mark.parametrize(
    ("text", "regions", "level"),
    [
        ("left basal nuclei", ["left caudate nucleus", "left putamen", "left globus pallidus"], None),
        ("right lentiform nucleus", ["right putamen", "right globus pallidus"], None),
        ("left striatum", ["left caudate nucleus", "left putamen"], None),
        ("left caudate head", ["left caudate nucleus"], "caudate heads"),
        ("head of the right caudate", ["right caudate nucleus"], "caudate heads"),
        ("left hippocampal head", ["left hippocampus"], "amygdala"),
        ("frontal horn of the left lateral ventricle", ["left lateral ventricle"], "frontal horns"),
        ("body of the corpus callosum", ["middle body of the corpus callosum"], None),
        ("left posterior cingulate gyrus", ["left posterior cingulate cortex"], None),
        ("left island of Reil", ["left insula"], None),
        ("cerebellar hemispheres visible, IV ventricle", ["cerebellar cortex", "fourth ventricle"], None),
        ("brain stem", ["brainstem"], None),
    ],
)
def test_other_names_of_structures_are_understood(text, regions, level):
    mentioned = understood(f"coronal, {text}")
    assert (mentioned.get("regions"), mentioned.get("level")) == (regions, level)


def test_a_structure_that_the_atlas_does_not_have_is_named():
    assert read_prompt("axial, claustrum").unknown == ("claustrum",)
    assert read_prompt("axial, basel nuclei").suggestions["basel"] == "basal"
    assert read_prompt("axial, unhealthy man").suggestions == {}


def test_a_view_is_a_plane():
    for text, plane in (("from above", "axial"), ("from the front", "coronal"), ("side view", "sagittal")):
        assert understood(f"a woman's brain, {text}") == {"plane": plane, "sex": "female"}


def test_every_level_that_is_denied_is_refused():
    for plane, rows in levels().items():
        for level in rows:
            with pytest.raises(PromptError, match="asks for what is not there"):
                read_prompt(f"{plane} T1 slice, not at the level of the {level.name}")
