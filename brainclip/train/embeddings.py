"""Whitened image embeddings, computed once per CLIP and pairs folder, for the prior and the decoder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from brainclip.clip import Clip
from brainclip.config import digest
from brainclip.data import PairDataset
from brainclip.train.clip import embed_all


@torch.no_grad()
def whitened_embeddings(clip: Clip, data: PairDataset, folder: Path) -> Tensor:
    """(N, D) float32 on the CPU, row i for pair i, computed where the CLIP is; a pairs folder that it has
    embedded before is read from `folder`."""
    from accelerate import PartialState

    parts = []
    for number, content in enumerate(data.contents):
        path = folder / f"{digest([clip.hash, content, data.split])}.safetensors"
        with PartialState().main_process_first():
            if not path.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                rows = np.arange(data.starts[number], data.starts[number + 1])
                whitened = clip.whiten(embed_all(clip, data, rows)).cpu().contiguous()
                temporary = path.with_name(path.name + ".tmp")
                save_file({"whitened": whitened}, temporary)
                os.replace(temporary, path)
        parts.append(load_file(path)["whitened"])
    return torch.cat(parts)
