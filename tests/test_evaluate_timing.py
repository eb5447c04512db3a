from __future__ import annotations

import json
import subprocess
import sys

import pytest

from brainclip.evaluate.timing import LAUNCHER

MB = 2**20 if sys.platform == "darwin" else 2**10  # the units of ru_maxrss


def launched(code: str) -> dict[str, float]:
    command = [sys.executable, "-c", LAUNCHER, sys.executable, "-c", code]
    measured: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return measured


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_peak_memory_is_that_of_the_program_not_of_the_process_that_measures() -> None:
    ballast = bytearray(300 * 2**20)  # in this process, far above what the small programs take
    small, large = launched("pass"), launched("b'x' * (100 * 2**20)")
    assert len(ballast) == 300 * 2**20
    assert small["peak"] / MB < 100
    assert 100 < large["peak"] / MB < 200


def test_seconds_and_failure_of_the_program_are_reported() -> None:
    failed = launched("import sys, time; time.sleep(0.3); sys.exit('no')")
    assert failed["seconds"] >= 0.3
    assert failed["code"] == 1 and failed["stderr"] == "no\n"
