"""One batch shared among the processes of a run (`accelerate launch`), and what a loss needs of the others.

The batch of a step is the same whatever the number of processes: each takes its rows of it. Where a loss is a
mean over rows, averaging the gradients is exact; a contrastive loss gathers the embeddings of all rows first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brainclip.errors import RecipeError

Batch = dict[str, Tensor]


def own_rows(batch: Batch, whole: Sequence[str], *, rank: int, processes: int) -> Batch:
    """The rows of process `rank` among so many, a block of equal size; tensors named in `whole` as they are.

    RecipeError when the rows cannot be shared equally.
    """
    if processes == 1:
        return batch
    rows = next(len(value) for key, value in batch.items() if key not in whole)
    if rows % processes:
        raise RecipeError(
            f"batch = {rows} cannot be shared equally among {processes} processes; "
            f"give a multiple of {processes}"
        )
    size = rows // processes
    return {
        key: value if key in whole else value[rank * size : (rank + 1) * size] for key, value in batch.items()
    }


def pieces(batch: Batch, size: int) -> list[Batch]:
    """The batch in parts of at most `size` rows; 0: one part."""
    if not size:
        return [batch]
    parts = zip(*(value.split(size) for value in batch.values()), strict=True)
    return [dict(zip(batch, part, strict=True)) for part in parts]


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes in order of rank, (B, ...), with gradients through all of them.

    Each process then computes the loss of the whole batch; averaging their gradients gives its gradient.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows.contiguous()))


def sharded(module: nn.Module) -> nn.Module:
    """The module with its weights split among the processes (FSDP2), block by block, in place.

    A block is an entry of a ModuleList (a transformer's layer, a UNet's level), gathered when it is computed.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(module.parameters()).device
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    blocks = [block for part in module.modules() if isinstance(part, nn.ModuleList) for block in part]
    for block in reversed(blocks):  # inner blocks first
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def whole_tensor(value: Any) -> Tensor:
    """A tensor of which each process has a part, put together in each of them; any other as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one of which this process may have a part only."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(tensor, DTensor):
        value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(value)
