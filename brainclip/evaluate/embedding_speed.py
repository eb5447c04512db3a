"""Slices a second: brainclip's embed_image beside a plain open_clip loop over the same files and weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from brainclip.embedding.embedded import embed
from brainclip.model import BrainCLIP

ROUNDS = 5
TOGETHER = 32  # slices in a batch of the second loop

Way = Callable[[Sequence[Path]], Tensor]


def ways(model: BrainCLIP) -> dict[str, Way]:
    """Programs that read slices from PNG files and give their embeddings (N, D), unit length.

    one: what open_clip's README shows, in a loop; batches: the same with TOGETHER slices in a batch;
    brainclip: embed_image; checked: embed, which compares the slices with the fingerprint as well.
    """
    import open_clip

    towers, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model.folder / 'clip'}")
    towers.eval()

    def one(files: Sequence[Path]) -> Tensor:
        rows = []
        with torch.no_grad():
            for path in files:
                image = preprocess(Image.open(path)).unsqueeze(0)
                rows.append(functional.normalize(towers.encode_image(image), dim=-1))
        return torch.cat(rows)

    def batches(files: Sequence[Path]) -> Tensor:
        rows = []
        with torch.no_grad():
            for start in range(0, len(files), TOGETHER):
                images = [preprocess(Image.open(path)) for path in files[start : start + TOGETHER]]
                rows.append(functional.normalize(towers.encode_image(torch.stack(images)), dim=-1))
        return torch.cat(rows)

    def ours(files: Sequence[Path]) -> Tensor:
        return model.embed_image(list(files))

    def checked(files: Sequence[Path]) -> Tensor:
        return embed(list(files), model=model).embeddings

    return {"one": one, "batches": batches, "brainclip": ours, "checked": checked}


def speed(model: BrainCLIP, files: Sequence[Path], *, rounds: int = ROUNDS) -> dict[str, Any]:
    """Slices a second of each way: the median of `rounds`, in turns, and their range; times: how many times
    as fast as "one", median and range over rounds; the largest difference of the embeddings to those of
    "one"; and threads. A short round before the first is not counted."""
    programs = ways(model)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    processor: dict[str, list[float]] = {name: [] for name in programs}
    made = {name: program(files[: 2 * TOGETHER]) for name, program in programs.items()}
    for _ in range(rounds):
        for name, program in programs.items():
            begun, worked = time.perf_counter(), time.process_time()
            made[name] = program(files)
            seconds[name].append(time.perf_counter() - begun)
            processor[name].append(time.process_time() - worked)
    found: dict[str, Any] = {"slices": len(files), "rounds": rounds, "threads": torch.get_num_threads()}
    for name in programs:
        rate, busy = len(files) / np.array(seconds[name]), len(files) / np.array(processor[name])
        found[name] = {
            "per_second": round(float(np.median(rate)), 1),
            "range": [round(float(rate.min()), 1), round(float(rate.max()), 1)],
            "per_processor_second": round(float(np.median(busy)), 1),
            "difference": float((made[name] - made["one"]).abs().max()),
        }
        turns = np.array(seconds["one"]) / np.array(seconds[name])
        found[name]["times"] = [round(float(x), 2) for x in (np.median(turns), turns.min(), turns.max())]
    return found
