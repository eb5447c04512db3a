"""The only training loop. Step k depends on (seed, k) alone, so stopped and resumed equals straight, bit
for bit.

A run folder holds recipe.json, run.json, log.jsonl (a line a step), state.pt (to resume) and, when done,
what the stage saves.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from brainclip.config import TrainingRecipe, as_dict
from brainclip.errors import RecipeError, WeightsError
from brainclip.train.optimizers import new_optimizer
from brainclip.weights import hash_file, read_json, write_json

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """What the loop needs to know of a stage.

    objective: a module whose forward(**batch) gives (loss, dict of scalar tensors to log). batch: step ->
    tensors, from (seed, step) alone. save: writes the stage's folder from the current weights. sample: step
    -> pictures to look at.
    """

    name: str
    objective: nn.Module
    batch: Callable[[int], Batch]
    save: Callable[[Path], None]
    sample: Callable[[Path, int], None] | None = None


def rate_at(step: int, recipe: TrainingRecipe) -> float:
    """Learning rate of a step: linear warm-up, constant, linear decay over the last `decay` steps."""
    rise = min(1.0, (step + 1) / max(1, recipe.warmup))
    fall = min(1.0, (recipe.steps - step) / max(1, recipe.decay)) if recipe.decay else 1.0
    return recipe.rate * rise * fall


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's noise and dropout."""
    return (seed * 1_000_003 + step) % 2**63


def started_from(start: str, weights: str) -> dict[str, str]:
    """What run.json says of the weights a run went on from; nothing for a run from random weights."""
    return {"start": hash_file(Path(start) / weights)} if start else {}


def train(stage: Stage, recipe: TrainingRecipe, run: Path, facts: dict[str, Any]) -> dict[str, float]:
    """Train a stage to recipe.steps and save it into `run`; continues where an earlier call stopped.

    Returns the last step's numbers. RecipeError when the folder holds a run of another recipe (a change of
    `steps`, `decay`, saving, and what only generating uses is allowed).
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    accelerator = Accelerator(cpu=recipe.device == "cpu", mixed_precision=recipe.precision)
    run.mkdir(parents=True, exist_ok=True)
    _check_same_recipe(run, facts, as_dict(type(recipe)()))
    parameters = [
        p for p in stage.objective.parameters() if p.requires_grad
    ]  # a list: it is walked many times
    optimizer = new_optimizer(recipe, parameters)
    objective, optimizer = accelerator.prepare(stage.objective, optimizer)
    average = EMAModel(parameters, decay=recipe.ema, foreach=True)
    start = _resume(run, stage.objective, optimizer, average)
    numbers: dict[str, float] = {}
    begun = time.monotonic()
    with (
        _log(run, start) as log,
        tqdm(total=recipe.steps, initial=start, desc=stage.name, unit="step") as bar,
    ):
        for step in range(start, recipe.steps):
            set_seed(step_seed(recipe.seed, step))
            batch = {key: value.to(accelerator.device) for key, value in stage.batch(step).items()}
            stage.objective.train()
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, recipe)
            with accelerator.autocast():
                loss, extras = objective(**batch)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.step(parameters)
            numbers = {"loss": loss.item(), "gradient_norm": float(norm), "rate": rate_at(step, recipe)}
            numbers |= {key: float(value) for key, value in extras.items()}
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # most so far, MB on Linux
            cost = {"seconds": round(time.monotonic() - begun, 3), "memory_mb": memory}
            line = {"step": step} | numbers | cost
            log.write(json.dumps(line) + "\n")
            bar.update()
            bar.set_postfix(loss=f"{numbers['loss']:.4f}", refresh=False)
            if numbers["loss"] != numbers["loss"]:
                raise RecipeError(
                    f"{run}: the loss is NaN at step {step}; lower [{stage.name}] rate, now {recipe.rate}"
                )
            if stage.sample and recipe.sample_every and (step + 1) % recipe.sample_every == 0:
                _with_average(average, parameters, stage, lambda at=step + 1: stage.sample(run, at))  # type: ignore[misc]
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                log.flush()
                _save_state(run, step + 1, stage.objective, optimizer, average)
    _with_average(average, parameters, stage, lambda: stage.save(run))
    return numbers


def _with_average(
    average: EMAModel, parameters: list[nn.Parameter], stage: Stage, call: Callable[[], None]
) -> None:
    """Run `call` with the averaged weights in place, then put the trained ones back."""
    stage.objective.eval()
    average.store(parameters)
    average.copy_to(parameters)
    try:
        call()
    finally:
        average.restore(parameters)


def _check_same_recipe(run: Path, facts: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse to continue a run under another recipe; write run.json for a new one.

    defaults: what a key means that is newer than the run.
    """
    free = {"steps", "decay", "save_every", "sample_every", "device"}
    free |= {"sampling_steps", "guidance", "restate", "default"}  # of generating, not of training
    path = run / "run.json"
    if path.is_file():
        before = read_json(path)
        for key, value in facts["recipe"].items():
            found = before["recipe"].get(key, defaults.get(key))
            if key not in free and found != value:
                raise RecipeError(
                    f"{run}: holds a run with {key} = {found!r}, the recipe says "
                    f"{value!r}; use another folder or delete this one"
                )
        if before["inputs"] != facts["inputs"]:
            raise RecipeError(
                f"{run}: was begun on {before['inputs']}, now {facts['inputs']}; delete it to train anew"
            )
    write_json(path, facts)


def _log(run: Path, start: int) -> Any:
    """log.jsonl opened for appending, lines from a step that is done again taken off."""
    path = run / "log.jsonl"
    if path.is_file():
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] < start:
                    kept.append(line)
            except (ValueError, KeyError):
                continue  # the half line of a killed process
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _save_state(run: Path, step: int, objective: nn.Module, optimizer: Any, average: EMAModel) -> None:
    state = {
        "step": step,
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": {"shadow_params": average.shadow_params, "optimization_step": average.optimization_step},
    }
    temporary = run / "state.pt.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, run / "state.pt")  # a kill during the write leaves the older state


def _resume(run: Path, objective: nn.Module, optimizer: Any, average: EMAModel) -> int:
    """The step to go on from: 0 for a new run."""
    path = run / "state.pt"
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path}: damaged ({error}); delete it to train from the beginning") from None
    objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    for kept, saved in zip(average.shadow_params, state["average"]["shadow_params"], strict=True):
        kept.copy_(saved)
    average.optimization_step = state["average"]["optimization_step"]
    return int(state["step"])
