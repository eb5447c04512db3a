"""The README's Python, as it would be pasted; the model is one of toy size in place of the bundled one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT
from toy_run import toy_run

from brainclip import model as model_module


@pytest.mark.filterwarnings("ignore::UserWarning")  # noise is no brain, and it says so
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_run(tmp_path)
    (tmp_path / "model").rename(tmp_path / "mini")
    monkeypatch.setattr(model_module, "BUNDLED", tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL):
        exec(block, {})
    written = {path.name for path in tmp_path.iterdir()}
    assert {"slice.png", "slice.nii.gz", "at_80.png", "stack.nii.gz"} <= written
