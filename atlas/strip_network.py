"""The network of brain extraction: a small 3-D U-Net on heads at 2 mm, and its weight file.

Trained by brainclip.train.strip. Contrast does not matter to it, because it has seen random ones, after
SynthStrip (Hoopes et al. 2022).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from atlas.errors import WeightsError

BLOCK = 2  # voxels along a side that enter as channels: the U-Net counts in 4 mm, its answer is at 2 mm
MULTIPLE = 32  # a block and four halvings
SMALLEST = 64  # instance normalisation needs more than one voxel at the bottom


class BrainNetwork(nn.Module):
    """Logits of "inside the skull" (B, 1, X, Y, Z) from images (B, 1, X, Y, Z), RAS+ at 2 mm, scaled.

    widths: five, the channels of the U-Net from fine to coarse.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 96, 96)) -> None:
        super().__init__()
        from monai.networks.nets import BasicUNet  # 4 s

        self.widths = tuple(widths)
        voxels = BLOCK**3
        self.unet = BasicUNet(
            spatial_dims=3, in_channels=voxels, out_channels=voxels, features=(*self.widths, self.widths[0])
        )

    def forward(self, images: Tensor) -> Tensor:
        return from_blocks(self.unet(to_blocks(images)))


def to_blocks(images: Tensor) -> Tensor:
    """(B, 1, X, Y, Z) -> (B, 8, X/2, Y/2, Z/2): the eight voxels of a block as channels."""
    b, _, x, y, z = images.shape
    parts = images.reshape(b, x // BLOCK, BLOCK, y // BLOCK, BLOCK, z // BLOCK, BLOCK)
    return parts.permute(0, 2, 4, 6, 1, 3, 5).reshape(b, BLOCK**3, x // BLOCK, y // BLOCK, z // BLOCK)


def from_blocks(blocks: Tensor) -> Tensor:
    """(B, 8, X/2, Y/2, Z/2) -> (B, 1, X, Y, Z): the inverse of to_blocks."""
    b, _, x, y, z = blocks.shape
    parts = blocks.reshape(b, BLOCK, BLOCK, BLOCK, x, y, z).permute(0, 4, 1, 5, 2, 6, 3)
    return parts.reshape(b, 1, x * BLOCK, y * BLOCK, z * BLOCK)


def scaled(image: Tensor) -> Tensor:
    """An image (X, Y, Z) with its darkest hundredth at 0 and its bright tissue at 1, cut at 0 and 1.2.

    Bright tissue: the 99th percentile of what lies above the mean, which the amount of air hardly moves.
    """
    some = image[::2, ::2, ::2].flatten()  # torch refuses quantiles of more than 16 million
    low = some.quantile(0.01)
    high = some[some >= some.mean()].quantile(0.99)
    return ((image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1.2)


@torch.inference_mode()
def probability(values: np.ndarray, network: BrainNetwork) -> np.ndarray:
    """Probability (X, Y, Z) float32 of being inside the skull, of a head (X, Y, Z) at 2 mm, RAS+.

    The mean over the head and its mirror image.
    """
    image = scaled(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))
    pads = [max(SMALLEST, -(-n // MULTIPLE) * MULTIPLE) - n for n in image.shape]
    begin = [pad // 2 for pad in pads]
    margins = [side for b, pad in zip(begin[::-1], pads[::-1], strict=True) for side in (b, pad - b)]
    padded = F.pad(image, margins)[None, None]
    mirrored = network(padded.flip(2)).flip(2)
    found = (torch.sigmoid(network(padded)) + torch.sigmoid(mirrored))[0, 0] / 2
    i, j, k = (slice(b, b + n) for b, n in zip(begin, image.shape, strict=True))
    return found[i, j, k].numpy()


def save_network(network: BrainNetwork, path: Path) -> None:
    """Write the weights in half precision, with the widths beside them."""
    state = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file(state, temporary, metadata={"format": "pt", "widths": " ".join(map(str, network.widths))})
    os.replace(temporary, path)


@lru_cache(maxsize=2)
def load_network(path: Path) -> BrainNetwork:
    """The network of a weight file, for inference. WeightsError when missing, damaged or another's."""
    if not path.is_file():
        raise WeightsError(
            f"{path}: the weights of the brain extraction are missing; install the package again, "
            "train them with recipes/strip.py, or give brain masks"
        )
    try:
        with safe_open(path, framework="pt") as file:
            widths = tuple(int(width) for width in (file.metadata() or {})["widths"].split())
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # no mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: damaged or no weights of the brain extraction ({error}); install or train them again"
        ) from None
    network = BrainNetwork(widths)
    wanted = network.state_dict()
    wrong = sorted(set(state) ^ set(wanted))
    wrong += [name for name in state if name in wanted and state[name].shape != wanted[name].shape]
    if wrong:
        raise WeightsError(
            f"{path}: {len(wrong)} tensors do not fit the network, first {wrong[0]!r}; "
            "install the weights of this version or train them again"
        )
    network.load_state_dict(state)
    return network.eval()
