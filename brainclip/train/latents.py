"""Latents of all slices, computed once per autoencoder and pairs folder by all processes of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from brainclip.config import digest
from brainclip.data import PairDataset
from brainclip.layouts import Layout
from brainclip.weights import hash_weights

ROWS = 512  # slices in a file; a killed run computes one file again
AT_ONCE = 16  # slices that the autoencoder takes


def cached_latents(layout: Layout, data: PairDataset, folder: Path) -> Callable[[np.ndarray], Tensor]:
    """A function from indices (B,) to the autoencoder's own latents (B, C, h, w), float32 on the CPU.

    The files in `folder` are named after what they hold: the weights, the pixels along a side and the content
    of the pairs. They stay on the disk, only rows that are asked for are read.
    """
    from accelerate import PartialState

    processes = PartialState()
    weights = hash_weights(layout.parts[layout.autoencoder])
    parts = []  # (path, first row, end)
    for number, content in enumerate(data.contents):
        name = digest([weights, layout.decoded, content, data.split])
        firsts = range(data.starts[number], data.starts[number + 1], ROWS)
        for place, first in enumerate(firsts):
            end = min(first + ROWS, data.starts[number + 1])
            parts.append((folder / name / f"{place:05d}.safetensors", first, end))
    missing = [part for part in parts if not part[0].is_file()]
    processes.wait_for_everyone()  # each has seen the same files missing
    own = missing[processes.process_index :: processes.num_processes]
    for path, first, end in tqdm(own, desc="latents", unit="file", disable=not own):
        _write(layout, data, np.arange(first, end), path)
    processes.wait_for_everyone()
    files = [load_file(path)["latents"] for path, _, _ in parts]  # mapped into memory
    ends = np.array([end for _, _, end in parts])

    def rows(indices: np.ndarray) -> Tensor:
        found = np.searchsorted(ends, indices, side="right")
        return torch.stack(
            [files[part][index - parts[part][1]] for part, index in zip(found, indices, strict=True)]
        )

    return rows


def _write(layout: Layout, data: PairDataset, indices: np.ndarray, path: Path) -> None:
    """The latents of these slices as a file, whole or not there."""
    latents = [
        layout.encode(data.images(indices[k : k + AT_ONCE])).cpu() for k in range(0, len(indices), AT_ONCE)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file({"latents": torch.cat(latents).contiguous()}, temporary)
    os.replace(temporary, path)
