"""Throughput: small programs with a torch optimizer, in turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainclip.errors import BrainclipError
from brainclip.evaluate.throughput import Turns, side_by_side, table

PROGRAM = """
import sys, time
import torch
print("a word on stdout, as training programs have them")
weight = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([weight], lr=0.1)
seconds, steps, log = float(sys.argv[1]), int(sys.argv[2]), open(sys.argv[3], "a", buffering=1)
for step in range(steps):
    time.sleep(seconds)
    weight.grad = torch.ones(1)
    optimizer.step()
    log.write(sys.argv[1] + "\\n")
"""


def test_programs_take_turns_and_the_first_turn_is_not_counted(tmp_path: Path) -> None:
    script, log = tmp_path / "program.py", tmp_path / "log.txt"
    script.write_text(PROGRAM)
    programs = [f"{script} {seconds} 1000 {log}" for seconds in ("0.02", "0.06")]
    quick, slow = side_by_side(programs, batch=6, steps=2, rounds=3)
    assert quick.program == programs[0]
    assert len(quick.seconds) == len(slow.seconds) == 3
    assert quick.seconds.min() >= 0.04 and slow.seconds.min() >= 0.12  # what it slept at least
    assert quick.processor.max() < slow.seconds.min()  # sleep takes none
    turn = {"quick": ["0.02"] * 2, "slow": ["0.06"] * 2}
    order = ["quick", "slow", "slow", "quick", "quick", "slow"]
    # a program waits in the middle of a turn's last step, whose line is written when its next turn begins
    assert log.read_text().split() == ["0.02", "0.06"] + [line for name in order for line in turn[name]]


def test_a_program_that_ends_before_its_turns_are_over_is_named_with_its_last_words(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import sys\nsys.exit('no such data')")
    with pytest.raises(BrainclipError, match=r"program\.py' ended \(code 1\).*no such data"):
        side_by_side([str(script), str(script)], batch=1, steps=1, rounds=1)


def test_rates_and_ratios_are_of_the_same_round() -> None:
    ours = Turns("ours", np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0]), steps=2, batch=8)
    theirs = Turns("theirs", np.array([2.0, 4.0, 4.0]), np.array([3.0, 2.0, 2.0]), steps=2, batch=8)
    assert ours.rates.tolist() == [16, 8, 4]
    lines = table([theirs, ours]).splitlines()
    assert lines[2] == "| 4 (4 to 8) | 1 (1 to 1) | 1 (1 to 1) | `theirs` |"
    assert lines[3] == "| 8 (4 to 16) | 2 (1 to 2) | 2 (1 to 3) | `ours` |"
    assert lines[-1] == "Median (extremes) of 3 rounds of 2 steps of 8."


def test_one_program_alone_is_refused() -> None:
    with pytest.raises(BrainclipError, match="two programs or more"):
        side_by_side(["train.py"], batch=1, steps=1, rounds=1)
