from __future__ import annotations

import json
import subprocess
import sys

from conftest import ROOT

import atlas
import brainclip

HEAVY = [
    "ants",
    "diffusers",
    "nilearn",
    "sklearn",
    "open_clip",
    "pandas",
    "peft",
    "pyarrow",
    "scipy",
    "torch",
    "transformers",
]


def test_public_names_are_these_and_no_others() -> None:
    assert sorted(brainclip.__all__) == [
        "BrainCLIP",
        "BrainclipError",
        "Embedded",
        "Picture",
        "__version__",
        "edit",
        "embed",
        "embed_image",
        "embed_text",
        "generate",
        "inpaint",
        "interpolate",
        "load",
        "mark",
        "redraw",
        "stack",
        "trajectory",
        "vary",
    ]
    assert dir(brainclip) == brainclip.__all__


def test_every_public_name_can_be_had() -> None:
    for package in (brainclip, atlas):
        for name in package.__all__:
            assert getattr(package, name) is not None
            if callable(getattr(package, name)):
                assert getattr(package, name).__doc__, f"{package.__name__}.{name} has no docstring"


def test_packages_come_from_this_checkout() -> None:
    # a folder tests/atlas with an __init__.py, or an older installation, would take their place
    assert atlas.__file__ == str(ROOT / "atlas" / "__init__.py")
    assert brainclip.__file__ == str(ROOT / "brainclip" / "__init__.py")


def test_import_is_quick_and_loads_nothing_heavy() -> None:
    script = (
        "import sys, time, json; begun = time.perf_counter(); import brainclip, atlas;"
        "brainclip.BrainclipError; taken = time.perf_counter() - begun; import brainclip.cli;"
        f"print(json.dumps([taken, [name for name in {HEAVY} if name in sys.modules]]))"
    )
    best = 9.9
    for _ in range(3):  # the machine may be busy
        argv = [sys.executable, "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
        taken, loaded = json.loads(done.stdout)
        assert loaded == []
        best = min(best, taken)
    assert best < 0.5


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(brainclip, "imagine")
