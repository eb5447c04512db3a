"""What the training loop keeps in a run folder: run.json, log.jsonl, and state.pt to resume."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from brainclip.errors import RecipeError, WeightsError
from brainclip.weights import read_json

# what may change between the parts of a run: how long it is, how it is saved, on what it runs
FREE = {"steps", "decay", "save_every", "sample_every", "device", "piece", "shard", "track"}
FREE |= {"cache", "checkpointing"}
# of generating, not of training
FREE |= {"sampler", "sampling_steps", "guidance", "age_guidance", "candidates", "restate"}
FREE |= {"default", "modalities"}


def check_same_recipe(run: Path, facts: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse (RecipeError) to continue the run in this folder under another recipe or on other inputs.

    facts: {"recipe": ..., "inputs": ...}. defaults: what a key means that is newer than the run.
    """
    path = run / "run.json"
    if not path.is_file():
        return
    before = read_json(path)
    for key, value in facts["recipe"].items():
        found = before["recipe"].get(key, defaults.get(key))
        if key not in FREE and found != value:
            raise RecipeError(
                f"{run}: holds a run with {key} = {found!r}, the recipe says "
                f"{value!r}; use another folder or delete this one"
            )
    if before["inputs"] != facts["inputs"]:
        raise RecipeError(
            f"{run}: was begun on {before['inputs']}, now {facts['inputs']}; delete it to train anew"
        )


def open_log(run: Path, start: int) -> Any:
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


def write_state(run: Path, state: dict[str, Any]) -> None:
    """state.pt, whole or as it was before: a kill during the write leaves the older one."""
    temporary = run / "state.pt.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, run / "state.pt")


def read_state(run: Path) -> dict[str, Any] | None:
    """What write_state wrote last, on the CPU; None for a new run, WeightsError when it is damaged."""
    path = run / "state.pt"
    if not path.is_file():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise WeightsError(f"{path}: damaged ({error}); delete it to train from the beginning") from None
