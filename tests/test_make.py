"""The README's two commands, as far as they go without an installation."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT


def test_ci_runs_the_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert command == "python make.py test"
    assert f"\n{command}\n```" in readme
    assert '\npython make.py picture "' in readme


@pytest.mark.parametrize("arguments", [[], ["picture"], ["paint", "x"], ["test", "quickly"]])
def test_wrong_call_installs_nothing_and_says_how(arguments: list[str]) -> None:
    argv = [sys.executable, str(ROOT / "make.py"), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "python make.py test" in done.stderr
    assert not done.stdout
