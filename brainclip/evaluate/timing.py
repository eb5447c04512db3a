"""Timing: from the shell's command to the picture, and a slice with the model at hand."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainclip.errors import BrainclipError
from brainclip.model import BrainCLIP

PROMPT = "axial T1 slice at the level of the thalamus, healthy 70-year-old man"
COMMAND = "import sys; from brainclip.cli import main; sys.exit(main())"
# A process in between: Linux counts the memory of the process that starts a program as the program's own
LAUNCHER = """
import json, resource, subprocess, sys, time
begun = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
seconds = time.monotonic() - begun
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"seconds": seconds, "peak": peak, "code": done.returncode, "stderr": done.stderr[-400:]}))
"""


def cold(model: Path, *, repeats: int = 3) -> dict[str, Any]:
    """Seconds from `brainclip generate` to the written picture in a fresh process, and its peak memory in MB.

    Median of `repeats`, after one that fills the file cache and compiles bytecode, reported as
    `first_seconds`.
    """
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(repeats + 1):
            out = Path(folder) / f"{k}.png"
            arguments = ["generate", PROMPT, "--model", str(model), "--out", str(out)]
            command = [sys.executable, "-c", LAUNCHER, sys.executable, "-c", COMMAND, *arguments]
            run = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            if run["code"] != 0 or not out.is_file():
                raise BrainclipError(f"`brainclip generate` failed with code {run['code']}: {run['stderr']}")
            runs.append(run)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes on macOS, in KB elsewhere
    return {
        "first_seconds": round(runs[0]["seconds"], 2),
        "seconds": _median([run["seconds"] for run in runs[1:]]),
        "peak_mb": round(max(run["peak"] for run in runs) / unit),
    }


def warm(model: BrainCLIP, *, repeats: int = 5, together: int = 8) -> dict[str, Any]:
    """Seconds for a picture with the model loaded, alone and in a call of `together`; median and extremes."""
    model.generate(PROMPT)
    result = {}
    for name, n in (("one", 1), ("together", together)):
        seconds = []
        for k in range(repeats):
            begun = time.monotonic()
            model.generate(PROMPT, n=n, seed=k)
            seconds.append((time.monotonic() - begun) / n)
        result[name] = _median(seconds) | {"pictures": n}
    return result


def _median(seconds: list[float]) -> dict[str, Any]:
    """Median with the extremes as low and high."""
    ordered = {"value": float(np.median(seconds)), "low": min(seconds), "high": max(seconds)}
    return {key: round(value, 3) for key, value in ordered.items()} | {"n": len(seconds)}


def timing(model: BrainCLIP) -> dict[str, Any]:
    """Cold and warm figures, and the machine they were taken on; low and high are extremes, no interval."""
    settings = model.card["generate"]
    machine: dict[str, Any] = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    if hasattr(os, "getloadavg"):  # not on Windows; other work on the machine lengthens every time
        machine["load"] = round(os.getloadavg()[0], 1)
    figures = {"cold": cold(model.folder), "warm_seconds_a_slice": warm(model)}
    return figures | {"machine": machine, "settings": settings}
