"""Whitened image embeddings of a dataset, computed once per CLIP and kept for the prior and the decoder."""

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
    """(N, D) float32, row i for pair i; read from `folder` when this CLIP has embedded this data before."""
    path = folder / f"{digest([clip.hash, data.hash, data.split])}.safetensors"
    if path.is_file():
        return load_file(path)["whitened"]
    folder.mkdir(parents=True, exist_ok=True)
    whitened = clip.whiten(embed_all(clip, data, np.arange(len(data)))).contiguous()
    temporary = path.with_name(path.name + ".tmp")
    save_file({"whitened": whitened}, temporary)
    os.replace(temporary, path)
    return whitened
