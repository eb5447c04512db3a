"""Training images from heads: random pose, contrast, shading, slice thickness, noise and field of view.

After SynthSeg (Billot et al. 2023) and SynthStrip (Hoopes et al. 2022): a network that has seen every
contrast needs none in particular. Lengths are in voxels of 2 mm unless said otherwise.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from atlas.simulate_shape import voxel_grid
from atlas.simulate_signal import enlarge, smooth
from atlas.strip_network import scaled
from brainclip.train.heads import Head

SHIFT = (4.0, 8.0, 9.0)  # standard deviation of the brain's place in the field: the neck is long
LARGEST_SHIFT = 20.0
TURN = math.radians(9)  # standard deviation about each axis
LARGEST_TURN = math.radians(25)
WARP = 3.0  # largest standard deviation of the warp's knots
WARP_KNOTS = (5, 6, 5)
LEVELS = 256  # of a scan's intensities, before a random contrast is given to them


def draw_example(head: Head, shape: tuple[int, ...], generator: Generator) -> tuple[Tensor, Tensor]:
    """An image (X, Y, Z) float32, scaled as at inference, and its brain (X, Y, Z), 1 inside, else 0."""
    values, brain = pose(head, shape, generator)
    image = paint(values, head.labels, generator) if head.labels else recolour(values, generator)
    image = degrade(image, generator)
    if chance(0.12, generator):  # a brain that is stripped already, more or less tightly, stays whole
        brain = eroded(brain, int(torch.randint(0, 3, (1,), generator=generator)))
        image = image * brain
    seen = field_of_view(shape, generator)
    return scaled(image * seen), brain * seen


def uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))


def chance(share: float, generator: Generator) -> bool:
    return float(torch.rand(1, generator=generator)) < share


def pose(head: Head, shape: tuple[int, ...], generator: Generator) -> tuple[Tensor, Tensor]:
    """The head's values and brain (X, Y, Z) after a random turn, size, shift, mirroring and smooth warp."""
    turns = (TURN * torch.randn(3, generator=generator)).clamp(-LARGEST_TURN, LARGEST_TURN)
    size = uniform(0.85, 1.15, generator) * (1 + 0.04 * torch.randn(3, generator=generator).clamp(-2, 2))
    shear = 0.03 * torch.randn(3, 3, generator=generator).clamp(-2, 2)
    matrix = rotation(turns) @ (torch.diag(size) + shear)
    if chance(0.5, generator):
        matrix[:, 0] *= -1  # what is inside the skull does not depend on the side
    shift = (torch.randn(3, generator=generator) * torch.tensor(SHIFT)).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
    middle = (torch.tensor(shape) - 1) / 2
    places = voxel_grid(shape) - (middle + shift)[:, None, None, None]
    knots = uniform(0, WARP, generator) * torch.randn(3, *WARP_KNOTS, generator=generator)
    places = torch.tensordot(matrix, places, dims=1) + enlarge(knots, shape)
    places += head.centre[:, None, None, None]
    last = torch.tensor(head.values.shape, dtype=torch.float32) - 1
    grid = (2 * places / last[:, None, None, None] - 1).flip(0).movedim(0, -1)[None]
    brain = look(head.brain, grid, "bilinear").round()
    return look(head.values, grid, "nearest" if head.labels else "bilinear"), brain


def rotation(turns: Tensor) -> Tensor:
    """The (3, 3) rotation by angles (3,) in radians about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = turns.cos().tolist(), turns.sin().tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def look(volume: Tensor, grid: Tensor, mode: str) -> Tensor:
    """`volume` (X, Y, Z) read at grid_sample's grid, 0 outside."""
    return F.grid_sample(volume.float()[None, None], grid, mode=mode, align_corners=True)[0, 0]


def paint(labels: Tensor, count: int, generator: Generator) -> Tensor:
    """An image of labels (X, Y, Z): a random grey and grain for each, label 0 mostly black."""
    grey = torch.rand(count, generator=generator)
    grain = 0.12 * torch.rand(count, generator=generator)
    air = 0.3 * chance(0.3, generator)
    grey[0], grain[0] = grey[0] * air, grain[0] * air
    index = labels.long()
    image = grey[index] + grain[index] * torch.randn(labels.shape, generator=generator)
    return smooth(image.clamp(min=0)[None], uniform(0.3, 0.9, generator))[0]


def recolour(image: Tensor, generator: Generator) -> Tensor:
    """A scan (X, Y, Z) as it is, or with its grey values replaced along a random curve; air stays dark."""
    if chance(0.4, generator):
        return image
    heights = torch.rand(1, 1, int(torch.randint(3, 9, (1,), generator=generator)), generator=generator)
    heights[..., 0] *= 0.1
    curve = F.interpolate(heights, size=LEVELS, mode="linear", align_corners=True)[0, 0]
    return curve[(image.clamp(0, 1) * (LEVELS - 1)).long()]


def degrade(image: Tensor, generator: Generator) -> Tensor:
    """The image (X, Y, Z) with shading, gamma, thick slices or blur, and noise; never negative."""
    shape = tuple(image.shape)
    shading = uniform(0, 0.4, generator) * torch.randn(1, 4, 4, 4, generator=generator)
    image = image * enlarge(shading, shape)[0].exp()
    if chance(0.5, generator):
        top = image.max().clamp(min=1e-6)
        image = top * (image / top) ** math.exp(uniform(-0.5, 0.5, generator))
    if chance(0.35, generator):
        image = thick(image, int(torch.randint(0, 3, (1,), generator=generator)), uniform(1.5, 4, generator))
    elif chance(0.4, generator):
        image = smooth(image[None], uniform(0.3, 1.2, generator))[0]
    noise = uniform(0, 0.06, generator) * torch.randn(shape, generator=generator)
    return (image + noise).abs()


def thick(image: Tensor, axis: int, factor: float) -> Tensor:
    """The image (X, Y, Z) as slices `factor` voxels thick along an axis, interpolated back."""
    shape = list(image.shape)
    few = shape.copy()
    few[axis] = max(4, round(shape[axis] / factor))
    slices = F.interpolate(image[None, None], size=few, mode="area")
    return F.interpolate(slices, size=shape, mode="trilinear", align_corners=False)[0, 0]


def eroded(brain: Tensor, times: int) -> Tensor:
    """The brain (X, Y, Z) without its outer `times` voxels."""
    for _ in range(times):
        brain = -F.max_pool3d(-brain[None], 3, stride=1, padding=1)[0]
    return brain


def field_of_view(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """1 where the scanner looked, else 0 (X, Y, Z): the neck is often cut, another side now and then."""
    seen = torch.ones(shape)
    for axis, n in enumerate(shape):
        for side in (0, 1):
            often = axis == 2 and side == 0
            if chance(0.4 if often else 0.08, generator):
                cut = int(uniform(0, 0.35 if often else 0.2, generator) * n)
                seen.narrow(axis, n - cut if side else 0, cut).zero_()
    return seen
