"""The only training loop. Step k depends on (seed, k) alone, so stopped and resumed equals straight, bit
for bit in one set-up; neither batch nor rate changes with the number of processes.

A run folder holds recipe.json, run.json, log.jsonl (a line a step), state.pt (to resume) and, when done,
what the stage saves.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from brainclip.config import TrainingRecipe, as_dict
from brainclip.errors import RecipeError
from brainclip.train.checks import check_settings
from brainclip.train.estimate import Estimate, estimate, peak_mb
from brainclip.train.processes import Batch, own_rows, pieces
from brainclip.train.run_folder import check_same_recipe, open_log, read_state, write_state
from brainclip.train.training import Training
from brainclip.weights import hash_file, write_json


@dataclass(frozen=True)
class Stage:
    """What the loop needs to know of a stage.

    objective: a module whose forward(**batch) gives (loss, dict of scalar tensors to log). batch: step ->
    tensors of equally many rows, from (seed, step) alone. save: writes the stage's folder from the current
    weights. sample: step -> pictures to look at. whole: names of the tensors that each process needs whole;
    the objective of such a stage gathers the rows of other processes and takes pieces itself. Without any the
    loss is a mean over rows. rates: start of parameters' names in the objective -> their own rate.
    """

    name: str
    objective: nn.Module
    batch: Callable[[int], Batch]
    save: Callable[[Path], None]
    sample: Callable[[Path, int], None] | None = None
    whole: tuple[str, ...] = ()
    rates: dict[str, float] = field(default_factory=dict)


def rate_at(step: int, recipe: TrainingRecipe, own: float | None = None) -> float:
    """Learning rate of a step: linear warm-up, constant, linear decay over the last `decay` steps.

    own: a rate to be used in the recipe's place.
    """
    rise = min(1.0, (step + 1) / max(1, recipe.warmup))
    fall = min(1.0, (recipe.steps - step) / max(1, recipe.decay)) if recipe.decay else 1.0
    return (recipe.rate if own is None else own) * rise * fall


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's noise and dropout."""
    return (seed * 1_000_003 + step) % 2**63


def started_from(start: str, weights: str) -> dict[str, str]:
    """What run.json says of the weights a run went on from; nothing for a run from random weights."""
    return {"start": hash_file(Path(start) / weights)} if start else {}


def train(stage: Stage, recipe: TrainingRecipe, run: Path, facts: dict[str, Any]) -> dict[str, float]:
    """Train a stage to recipe.steps and save it into `run`; continues where an earlier call stopped.

    In a run of several processes each calls it; the first one writes. Returns the last step's numbers.
    RecipeError when the folder holds a run of another recipe (a change of what run_folder.FREE names is
    allowed), for settings that no training has, when the batch cannot be shared equally, and when the loss is
    NaN.
    """
    check_settings(stage.name.replace(" ", "."), recipe)
    run.mkdir(parents=True, exist_ok=True)
    check_same_recipe(run, facts, as_dict(type(recipe)()))
    training = Training(stage.objective, recipe, run, stage.rates)
    start = training.resume(read_state(run))
    if training.first:
        write_json(run / "run.json", facts)
    expected = estimate(lambda: _passes(training, stage, recipe, start), training, recipe.steps - start)
    numbers: dict[str, float] = {}
    begun = time.monotonic()
    with _log(training, stage, recipe, run, start) as log:
        for step in range(start, recipe.steps):
            numbers = _step(training, stage, recipe, step)
            log(step, numbers, round(time.monotonic() - begun, 3))
            if numbers["loss"] != numbers["loss"]:
                raise RecipeError(
                    f"{run}: the loss is NaN at step {step}; lower [{stage.name}] rate, now {recipe.rate}"
                )
            if stage.sample and recipe.sample_every and (step + 1) % recipe.sample_every == 0:
                training.averaged(lambda at=step + 1: stage.sample(run, at))  # type: ignore[misc]
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                state = training.state(step + 1)
                if training.first:
                    write_state(run, state)
    if expected and training.first:
        _compare(expected, time.monotonic() - begun, training, run, stage.name)
    training.averaged(lambda: stage.save(run), at_the_end=True)
    return numbers


def _step(training: Training, stage: Stage, recipe: TrainingRecipe, step: int) -> dict[str, float]:
    """One step of the optimizer; its numbers, of the whole batch."""
    sums = _passes(training, stage, recipe, step)
    norm = training.optimize(partial(rate_at, step, recipe), recipe.clip_norm)
    return training.shared(sums) | {"gradient_norm": norm, "rate": rate_at(step, recipe)}


def _passes(training: Training, stage: Stage, recipe: TrainingRecipe, step: int) -> dict[str, Tensor]:
    """The gradient of a step's batch, in pieces if asked for; loss and extras of this process's rows."""
    training.seed(step_seed(recipe.seed, step))
    batch = own_rows(stage.batch(step), stage.whole, rank=training.rank, processes=training.processes)
    batch = {key: value.to(training.device) for key, value in batch.items()}
    parts = [batch] if stage.whole else pieces(batch, recipe.piece)
    sums: dict[str, Tensor] = {}
    stage.objective.train()
    for number, part in enumerate(parts):
        share = 1.0 if len(parts) == 1 else len(next(iter(part.values()))) / len(next(iter(batch.values())))
        loss, extras = training.backward(part, share, last=number + 1 == len(parts))
        for key, value in ({"loss": loss} | extras).items():
            sums[key] = sums.get(key, 0) + share * value.detach().float()
    return sums


@contextmanager
def _log(
    training: Training, stage: Stage, recipe: TrainingRecipe, run: Path, start: int
) -> Iterator[Callable[[int, dict[str, float], float], None]]:
    """A function that writes a step's line to log.jsonl, to the trackers and to the progress bar."""
    if not training.first:
        yield lambda step, numbers, seconds: None
        return
    with (
        open_log(run, start) as file,
        tqdm(total=recipe.steps, initial=start, desc=stage.name, unit="step") as bar,
    ):

        def log(step: int, numbers: dict[str, float], seconds: float) -> None:
            line = {"step": step} | numbers | {"seconds": seconds, "memory_mb": peak_mb(training.device)}
            file.write(json.dumps(line) + "\n")
            training.track(line, step)
            bar.update()
            bar.set_postfix(loss=f"{numbers['loss']:.4f}", refresh=False)
            if (step + 1) % recipe.save_every == 0:
                file.flush()

        yield log
    training.stop_tracking()


def _compare(expected: Estimate, seconds: float, training: Training, run: Path, name: str) -> None:
    """estimate.json and a line on stderr: what was expected before the run beside what it took."""
    taken = Estimate(round(seconds, 1), peak_mb(training.device))
    write_json(run / "estimate.json", {"expected": vars(expected), "taken": vars(taken)})
    tqdm.write(f"{name}: took {taken}; expected {expected}", file=sys.stderr)
