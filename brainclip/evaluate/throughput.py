"""Throughput of training programs side by side: ours and any other, each as it is, in turns on one machine.

A program is what follows `python` on a command line. It is run unchanged in a process of its own; a hook
after each step of its torch optimizer counts the steps and lets it wait while another has its turn. So a step
is all that the program does from one step of the optimizer to the next: data, both passes, averages, log.
"""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from brainclip.errors import BrainclipError

TURN = "from brainclip.evaluate.throughput import take_turns; take_turns()"
LAST_WORDS = 400  # letters of what a program wrote that an error shows


@dataclass(frozen=True)
class Turns:
    """seconds: (rounds,) of one program's turns, each of `steps` steps of `batch` rows; processor: seconds of
    processor time in them, of all its threads, which other work on the machine hardly lengthens."""

    program: str
    seconds: np.ndarray
    processor: np.ndarray
    steps: int
    batch: int

    @property
    def rates(self) -> np.ndarray:
        """Rows a second in each round."""
        return self.steps * self.batch / self.seconds


def side_by_side(programs: Sequence[str], *, batch: int, steps: int, rounds: int) -> list[Turns]:
    """The turns of each program, after a first one of as many steps that is not counted.

    batch: rows that a step of each takes, which nothing but the programs knows. The order changes from round
    to round, so that a machine that gets slower favours none. The programs are ended, not finished: what they
    would save at their end is not saved. BrainclipError when one ends by itself.
    """
    if min(batch, steps, rounds) < 1 or len(programs) < 2:
        raise BrainclipError("throughput compares two programs or more, over at least 1 step and 1 round")
    with ExitStack() as stack:
        runs = []
        for program in programs:
            runs.append(stack.enter_context(_Run(program, steps)))
            runs[-1].seconds()  # one after the other, so that no start disturbs another
        taken: list[list[tuple[float, float]]] = [[] for _ in runs]
        for number in range(rounds):
            order = range(len(runs)) if number % 2 == 0 else reversed(range(len(runs)))
            for k in order:
                runs[k].begin()
                taken[k].append(runs[k].seconds())
    found = []
    for program, pairs in zip(programs, taken, strict=True):
        seconds, processor = np.array(pairs).T
        found.append(Turns(program, seconds, processor, steps, batch))
    return found


def table(turns: Sequence[Turns]) -> str:
    """Lines of markdown: median and extremes over the rounds of rows a second, and of how many times those of
    the first program in the same round they are, also by processor time."""
    lines = ["| samples a second | times the first | by processor time | program |", "|---|---|---|---|"]
    first, rounds = turns[0], len(turns[0].seconds)
    for row in turns:
        by_time, by_processor = first.seconds / row.seconds, first.processor / row.processor
        spreads = " | ".join(_spread(values) for values in (row.rates, by_time, by_processor))
        lines.append(f"| {spreads} | `{row.program}` |")
    lines.append(f"\nMedian (extremes) of {rounds} rounds of {first.steps} steps of {first.batch}.")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.3g} ({values.min():.3g} to {values.max():.3g})"


class _Run:
    """A program in a process of its own, waiting after each turn."""

    def __init__(self, program: str, steps: int) -> None:
        self.program = program
        self.words: IO[Any] = tempfile.TemporaryFile()  # noqa: SIM115 closed by __exit__
        command = [sys.executable, "-c", TURN, str(steps), *shlex.split(program)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words, text=True
        )

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.words.close()

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def seconds(self) -> tuple[float, float]:
        """What the turn took, by the clock and of processor time; waits for its end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            wall, processor = map(float, line.split())
            return wall, processor
        code = self.process.wait()
        self.words.seek(0)
        words = " ".join(self.words.read().decode(errors="replace").split())[-LAST_WORDS:]
        raise BrainclipError(
            f"{self.program!r} ended (code {code}) before its turns were over; give it more steps, or see "
            f"what it says: {words}"
        )


def take_turns() -> None:
    """Run the program in sys.argv[2:], waiting for a line of stdin after each sys.argv[1] steps.

    Its first turn begins at once. The seconds of each turn go to stdout, what the program prints to stderr.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps, program = int(sys.argv[1]), sys.argv[2:]
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    done, begun = 0, _clocks()

    def stepped(*_: Any) -> None:
        nonlocal done, begun
        done += 1
        if done % steps:
            return
        _wait_for_device()
        print(*(_clocks() - begun), file=report, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # whoever measured has enough, or is gone: nothing is to be saved
        begun = _clocks()

    register_optimizer_step_post_hook(stepped)
    sys.argv = program
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(program[0]).parent))
        runpy.run_path(program[0], run_name="__main__")


def _clocks() -> np.ndarray:
    """Seconds by the clock, and of this process's processor time."""
    return np.array([time.perf_counter(), time.process_time()])


def _wait_for_device() -> None:
    """Until a GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
