from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over the packages in a folder."""
    script = f"import sys; sys.path.insert(0, {str(folder)!r}); {LINT}"
    argv = [sys.executable, "-c", script, "--no-cache"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in ("atlas", "brainclip"):
        ignored = shutil.ignore_patterns("__pycache__", "models")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_module_keeps_to_its_layer(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("brainclip/errors.py", "import brainclip.config", "imports from the layers below it only"),
        ("brainclip/clip.py", "import brainclip.model", "imports from the layers below it only"),
        ("atlas/volume.py", "import brainclip.errors", "atlas knows nothing of models"),
        ("atlas/volume.py", "import diffusers", "atlas knows nothing of models"),
        ("atlas/volume.py", "import torch", "and the brain extraction alone"),
    ],
)
def test_planted_import_from_above_is_caught(copy: Path, module: str, line: str, contract: str) -> None:
    path = copy / module
    path.write_text(path.read_text() + f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in re.sub(r"\s+", " ", done.stdout)


def test_every_module_of_brainclip_has_a_layer() -> None:
    layers = SETTINGS["contracts"][0]["layers"]
    placed = {name.strip(" ()") for layer in layers for name in layer.split("|")}
    modules = {path.stem for path in (ROOT / "brainclip").glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in (ROOT / "brainclip").glob("*/__init__.py")}
    assert {f"brainclip.{name}" for name in modules} <= placed
