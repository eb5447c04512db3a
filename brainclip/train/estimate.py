"""What a run will take, from two trial passes before its first step."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

if TYPE_CHECKING:
    from brainclip.train.training import Training

LEAST_STEPS = 50  # a shorter run is over before an estimate helps
MOMENTS = {"adafactor": 0.0, "adamw8bit": 0.5, "prodigy": 4.0}  # numbers kept per weight; else 2


@dataclass(frozen=True)
class Estimate:
    """Seconds, and MB at the peak: of the GPU's memory, or of the process on a CPU."""

    seconds: float
    memory_mb: int

    def __str__(self) -> str:
        minutes = self.seconds / 60
        shown = f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.1f} min"
        return f"{shown} and {self.memory_mb / 1000:.1f} GB"


def peak_mb(device: torch.device) -> int:
    """MB of memory used at most so far: on a GPU by torch, else by the process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def estimate(passes: Callable[[], Any], training: Training, steps: int) -> Estimate | None:
    """The Estimate of so many steps, also said on stderr; None for a short run. Weights and buffers (a batch
    norm's statistics) stay as they are.

    passes: computes the gradient of one step. The second of two is timed, as the first also compiles and
    caches. The optimizer's memory comes from the number of weights; saving and sampling are left
    out.
    """
    if steps < LEAST_STEPS:
        return None
    buffers = {name: buffer.clone() for name, buffer in training.module.named_buffers()}
    passes()
    begun = time.monotonic()
    passes()
    seconds = time.monotonic() - begun
    with torch.no_grad():
        for name, buffer in training.module.named_buffers():
            buffer.copy_(buffers[name])
    training.optimizer.zero_grad(set_to_none=True)
    weights = sum(parameter.numel() for parameter in training.parameters)
    kept = MOMENTS.get(training.recipe.optimizer, 2.0) * weights * 4
    found = Estimate(round(steps * seconds, 1), peak_mb(training.device) + round(kept / 2**20))
    if training.first:
        tqdm.write(f"{steps} steps on {training.device}: about {found}", file=sys.stderr)
    return found
