"""What a radiologist or a neuroscientist types, and what must be understood of it."""

from __future__ import annotations

import pytest

from atlas.prompt import read_prompt

PROMPTS = [
    (
        "transverse T1-weighted image through the basal ganglia",
        {"plane": "axial", "modality": "T1", "level": "basal ganglia"},
    ),
    (
        "axial MPRAGE at the level of the internal capsule",
        {"plane": "axial", "modality": "T1", "level": "thalamus"},
    ),
    ("axial SPGR, centrum semiovale", {"plane": "axial", "modality": "T1", "level": "centrum semiovale"}),
    (
        "3D T1, coronal, body of the hippocampus",
        {"plane": "coronal", "modality": "T1", "level": "hippocampus"},
    ),
    (
        "coronal T2 turbo spin echo through the hippocampi",
        {"plane": "coronal", "modality": "T2", "level": "hippocampus"},
    ),
    ("axial T2 FSE through the posterior fossa", {"plane": "axial", "modality": "T2", "level": "medulla"}),
    ("axial proton density fast spin echo", {"plane": "axial", "modality": "PD"}),
    (
        "axial T2 dark fluid at the corona radiata",
        {"plane": "axial", "modality": "FLAIR", "level": "corona radiata"},
    ),
    (
        "coronal T1 showing the temporal horns",
        {"plane": "coronal", "modality": "T1", "regions": ["temporal horn of the lateral ventricle"]},
    ),
    (
        "axial T1 through the body of the lateral ventricle",
        {"plane": "axial", "modality": "T1", "level": "lateral ventricles"},
    ),
    ("coronal section through the septum pellucidum", {"plane": "coronal", "level": "caudate heads"}),
    (
        "axial T1 at the level of the septum pellucidum",
        {"plane": "axial", "modality": "T1", "level": "lateral ventricles"},
    ),
    ("axial slice at the convexity", {"plane": "axial", "level": "high convexity"}),
    ("near the vertex, axial T1", {"plane": "axial", "level": "vertex", "modality": "T1"}),
    ("axial suprasellar T1", {"plane": "axial", "level": "medial temporal lobes", "modality": "T1"}),
    ("suprasellar cistern, axial T2", {"plane": "axial", "level": "medial temporal lobes", "modality": "T2"}),
    (
        "axial T1 through the midbrain, 65 year old male",
        {"age": 65, "plane": "axial", "modality": "T1", "level": "midbrain", "sex": "male"},
    ),
    (
        "mid-sagittal T1 showing the corpus callosum",
        {"plane": "sagittal", "level": "midline", "modality": "T1"},
    ),
    ("midline sagittal T1", {"plane": "sagittal", "level": "midline", "modality": "T1"}),
    ("right parasagittal FLAIR", {"plane": "sagittal", "level": "right medial surface", "modality": "FLAIR"}),
    (
        "axial FLAIR, periventricular white matter",
        {"plane": "axial", "modality": "FLAIR", "level": "lateral ventricles"},
    ),
    (
        "ventricular enlargement, axial T1, 80-year-old woman",
        {
            "age": 80,
            "plane": "axial",
            "sizes": {"lateral ventricles": "enlarged"},
            "modality": "T1",
            "sex": "female",
        },
    ),
    (
        "axial T1, ventricles are dilated",
        {"plane": "axial", "modality": "T1", "sizes": {"lateral ventricles": "enlarged"}},
    ),
    (
        "axial T1, prominent ventricles for age",
        {"plane": "axial", "modality": "T1", "sizes": {"lateral ventricles": "enlarged"}},
    ),
    (
        "coronal T1, hippocampal atrophy",
        {"plane": "coronal", "modality": "T1", "sizes": {"hippocampi": "small"}},
    ),
    (
        "coronal T1, small hippocampi, 75F",
        {"sex": "female", "age": 75, "plane": "coronal", "modality": "T1", "sizes": {"hippocampi": "small"}},
    ),
    (
        "coronal T1 with hippocampi of normal size for his age",
        {"plane": "coronal", "modality": "T1", "sizes": {"hippocampi": "normal"}, "sex": "male"},
    ),
    (
        "axial T1 normal ventricular size",
        {"plane": "axial", "modality": "T1", "sizes": {"lateral ventricles": "normal"}},
    ),
    (
        "axial T1, no ventriculomegaly",
        {"plane": "axial", "modality": "T1", "sizes": {"lateral ventricles": "normal"}},
    ),
    ("axial T1, cortical atrophy", {"plane": "axial", "modality": "T1", "sizes": {"cortex": "small"}}),
    (
        "axial T1, thin cortex, 80 years",
        {"age": 80, "plane": "axial", "modality": "T1", "sizes": {"cortex": "small"}},
    ),
    (
        "axial T1, large thalami and small caudates",
        {"plane": "axial", "modality": "T1", "sizes": {"thalami": "enlarged", "caudates": "small"}},
    ),
    (
        "axial T1: lateral ventricles wide, thalami normal",
        {
            "plane": "axial",
            "modality": "T1",
            "sizes": {"lateral ventricles": "enlarged", "thalami": "normal"},
        },
    ),
    (
        "axial T1, slit-like ventricles, young woman",
        {
            "plane": "axial",
            "modality": "T1",
            "sizes": {"lateral ventricles": "small"},
            "age_band": "young",
            "sex": "female",
        },
    ),
    (
        "axial T1, reduced white matter volume",
        {"plane": "axial", "modality": "T1", "sizes": {"white matter": "small"}},
    ),
    (
        "sagittal T1, cerebellar atrophy",
        {"plane": "sagittal", "modality": "T1", "sizes": {"cerebellum": "small"}},
    ),
    (
        "sagittal T1, large cerebellum",
        {"plane": "sagittal", "modality": "T1", "sizes": {"cerebellum": "enlarged"}},
    ),
    (
        "axial T1 in a right-handed 25yo man",
        {"age": 25, "plane": "axial", "modality": "T1", "handedness": "right", "sex": "male"},
    ),
    (
        "axial T1w brain MRI of a 40-year-old at 1.5 tesla",
        {"age": 40, "field_strength": 1.5, "plane": "axial", "modality": "T1"},
    ),
    ("AX T1 MPRAGE", {"plane": "axial", "modality": "T1"}),
    ("COR T2 TSE", {"plane": "coronal", "modality": "T2"}),
    ("SAG T1 SPGR", {"plane": "sagittal", "modality": "T1"}),
    ("T1 axial z=10", {"plane": "axial", "position_mm": 10.0, "modality": "T1"}),
    ("axial, z 10 mm above AC", {"plane": "axial", "position_mm": 10.0}),
    ("coronal slice 20 mm posterior to the anterior commissure", {"plane": "coronal", "position_mm": -20.0}),
    ("axial head of the caudate", {"plane": "axial", "level": "thalamus"}),
    ("axial lentiform nucleus", {"plane": "axial", "level": "basal ganglia"}),
    ("axial foramen of Monro", {"plane": "axial", "level": "thalamus"}),
    ("axial at the level of the third ventricle", {"plane": "axial", "level": "basal ganglia"}),
    ("axial at the level of the fourth ventricle", {"plane": "axial", "level": "pons"}),
    ("axial cerebellar tonsils", {"plane": "axial", "level": "inferior cerebellum"}),
    ("axial at the foramen magnum", {"plane": "axial", "level": "inferior cerebellum"}),
    ("axial circle of Willis", {"plane": "axial", "level": "midbrain"}),
    ("axial superior frontal gyrus visible", {"plane": "axial", "regions": ["superior frontal gyrus"]}),
    ("axial temporal poles", {"plane": "axial", "regions": ["temporal pole"]}),
    ("axial at the pons", {"plane": "axial", "level": "pons"}),
    ("coronal amygdala", {"plane": "coronal", "regions": ["amygdala"]}),
    ("coronal splenium", {"plane": "coronal", "regions": ["splenium of the corpus callosum"]}),
    ("coronal through the atria", {"plane": "coronal", "level": "atria of the lateral ventricles"}),
    ("sagittal through the right putamen", {"plane": "sagittal", "level": "right hippocampus"}),
    ("axial hand knob", {"plane": "axial", "level": "high convexity"}),
    ("axial motor cortex", {"plane": "axial", "level": "paracentral lobules"}),
    ("axial roof of the lateral ventricles", {"plane": "axial", "level": "corona radiata"}),
    ("axial internal capsules", {"plane": "axial", "level": "thalamus"}),
    ("coronal optic chiasm", {"plane": "coronal", "regions": ["optic chiasm"]}),
    ("coronal frontal horns of the lateral ventricles", {"plane": "coronal", "level": "frontal horns"}),
    ("horizontal section of the brain, T2-weighted", {"plane": "axial", "modality": "T2"}),
    ("brain MRI, transversal, T1", {"plane": "axial", "modality": "T1"}),
    (
        "axial 3T MRI of a healthy control, male, 52 years",
        {"age": 52, "field_strength": 3.0, "plane": "axial", "health": "healthy", "sex": "male"},
    ),
    (
        "axial T1 of an elderly woman with enlarged lateral ventricles for her age",
        {
            "plane": "axial",
            "modality": "T1",
            "age_band": "elderly",
            "sex": "female",
            "sizes": {"lateral ventricles": "enlarged"},
        },
    ),
    ("normal MRI brain of a 30 year old", {"age": 30, "health": "healthy"}),
    ("axial T1 of the cerebellum", {"plane": "axial", "modality": "T1", "regions": ["cerebellar cortex"]}),
    ("axial T1 without contrast", {"plane": "axial", "modality": "T1"}),
    ("axial T1 caudothalamic groove", {"plane": "axial", "modality": "T1", "level": "thalamus"}),
    (
        "axial T1 genu and posterior limb of the internal capsule",
        {"plane": "axial", "modality": "T1", "regions": ["genu of the corpus callosum"], "level": "thalamus"},
    ),
    ("axial T1 sylvian fissure", {"plane": "axial", "modality": "T1", "level": "thalamus"}),
    ("axial T1 insular level", {"plane": "axial", "modality": "T1", "level": "basal ganglia"}),
    ("axial T1 level of ventricles", {"plane": "axial", "modality": "T1", "level": "lateral ventricles"}),
    ("axial T1 at ventricular level", {"plane": "axial", "modality": "T1", "level": "lateral ventricles"}),
    ("axial supraventricular level", {"plane": "axial", "level": "corona radiata"}),
    ("infratentorial axial T2", {"plane": "axial", "level": "medulla", "modality": "T2"}),
    (
        "axial T1 at the level of the cerebellar peduncles",
        {"plane": "axial", "modality": "T1", "level": "pons"},
    ),
    ("axial T1 orbitofrontal region", {"plane": "axial", "modality": "T1", "level": "medial temporal lobes"}),
    ("axial T1 quadrigeminal cistern", {"plane": "axial", "modality": "T1", "level": "midbrain"}),
    ("axial T1 ambient cistern", {"plane": "axial", "modality": "T1", "level": "midbrain"}),
    (
        "axial T1 trigone of lateral ventricle",
        {"plane": "axial", "modality": "T1", "level": "lateral ventricles"},
    ),
    ("axial T1 occipital horns", {"plane": "axial", "modality": "T1", "level": "thalamus"}),
    ("axial T1 subject aged 33 years", {"age": 33, "plane": "axial", "modality": "T1"}),
    (
        "axial T1 image of a 6th decade male",
        {"plane": "axial", "modality": "T1", "age_band": "50s", "sex": "male"},
    ),
    (
        "axial T1 woman in her mid-thirties",
        {"plane": "axial", "modality": "T1", "sex": "female", "age_band": "30s"},
    ),
    (
        "axial T1, 35 y.o. female, left handed",
        {"age": 35, "plane": "axial", "modality": "T1", "sex": "female", "handedness": "left"},
    ),
    (
        "T1 mprage transverse slice at basal ganglia level, female, 23",
        {"age": 23, "plane": "axial", "modality": "T1", "level": "basal ganglia", "sex": "female"},
    ),
    (
        "show me the hippocampus in a coronal T1 slice",
        {"plane": "coronal", "regions": ["hippocampus"], "modality": "T1"},
    ),
    ("hippocampal head coronal", {"plane": "coronal", "level": "amygdala"}),
    (
        "Axial T1 slice, lateral ventricles not enlarged",
        {"plane": "axial", "modality": "T1", "sizes": {"lateral ventricles": "normal"}},
    ),
    ("level of thalami, transverse", {"plane": "axial", "level": "thalamus"}),
]


@pytest.mark.parametrize(("text", "expected"), PROMPTS)
def test_a_prompt_is_understood_whole(text, expected):
    prompt = read_prompt(text)
    assert prompt.unknown == ()
    assert prompt.mentioned == expected


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("coronal oblique T2", ("oblique",)),
        ("axial T1 with narrow sulci", ("narrow", "sulci")),
        ("axial T1, small left hippocampus", ("small",)),
        ("axial T1, small ventricles, enlarged ventricles", ("enlarged ventricles",)),
        ("axial T1, 70-65 years", ("70", "65")),
        ("axial T1 for age 3 tesla at 1.5 T", ("1.5 t",)),
    ],
)
def test_what_the_captions_cannot_say_is_named(text, unknown):
    assert read_prompt(text).unknown == unknown


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("tranverse", "transverse"),
        ("saggital", "sagittal"),
        ("coronel", "coronal"),
        ("thalmus", "thalamus"),
        ("putaman", "putamen"),
        ("cerebelum", "cerebellum"),
        ("ventricals", "ventricles"),
        ("ventriculomegally", "ventriculomegaly"),
        ("hippocampas", "hippocampus"),
        ("mprge", "mprage"),
        ("enlargd", "enlarged"),
    ],
)
def test_a_slip_of_the_pen_brings_the_word_that_was_meant(word, meant):
    assert read_prompt(f"axial T1, {word}").suggestions == {word: meant}
