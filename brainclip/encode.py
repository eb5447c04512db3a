"""Slices through a CLIP's image tower: in batches, the next batch fetched while one is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from brainclip.clip import Clip
from brainclip.errors import BrainclipError
from brainclip.towers.grey import GreyTower

BATCH = 32  # slices; on one thread 16 and 32 are equal, 4 and 64 a tenth slower, see docs/embedding


def encode_images(
    clip: Clip,
    slices: Iterable[np.ndarray],
    *,
    batch: int = BATCH,
    device: str | torch.device | None = None,
    progress: bool = False,
    total: int | None = None,
) -> Tensor:
    """Embeddings (N, D) float32 on the CPU, unit length, in the order of the slices.

    slices: (H, W) float32 in [0, 1] each, all of one size; drawn as they are needed, so that N may be larger
    than the memory. device: where to compute, such as "cuda"; None: where the CLIP is. progress: a bar on
    stderr, of `total` slices where that is known. BrainclipError for a device that is not there.
    """
    parts = []
    with tqdm(total=total, desc="embed", unit="slice", disable=not progress) as bar:
        for part in encoded(clip, slices, batch=batch, device=device):
            parts.append(part)
            bar.update(len(part))
    return torch.cat(parts) if parts else torch.zeros(0, clip.embedding_width)


def encoded(
    clip: Clip, slices: Iterable[np.ndarray], *, batch: int = BATCH, device: str | torch.device | None = None
) -> Iterator[Tensor]:
    """The same batch by batch, each (B, D) float32 on the CPU."""
    clip = on_device(clip, device)
    where = clip.embedding_mean.device
    known = GreyTower.fits(clip.layout, clip.towers)
    features = GreyTower(clip.layout, clip.towers) if known else clip.encode_image
    for part in _ahead(slices, batch):
        images = torch.from_numpy(np.stack(part))[:, None]  # (B, H, W) -> (B, 1, H, W)
        with torch.inference_mode():
            made = features(images.to(where, non_blocking=True)).float()
            yield functional.normalize(made, dim=-1).cpu()


def on_device(clip: Clip, device: str | torch.device | None) -> Clip:
    """The CLIP itself where it is on the device already, else a copy there."""
    try:
        if device is None or torch.device(device).type == clip.embedding_mean.device.type:
            return clip
        return copy.deepcopy(clip).to(device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise BrainclipError(f"device {str(device)!r} is not there ({why}); leave it away for cpu") from None


def _ahead(items: Iterable[Any], batch: int) -> Iterator[list[Any]]:
    """Lists of `batch` items; while one is used, another thread fetches the next."""
    iterator = iter(items)

    def take() -> list[Any]:
        return list(islice(iterator, batch))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(take)
        while part := waiting.result():
            waiting = pool.submit(take)
            yield part
