"""From tissue fractions to T1, T2, PD and FLAIR pictures: relaxation times, signal equations, scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# proton density (1 = water), T1 and T2 in ms at 3 T: Wansapura 1999, Stanisz 2005, Lu 2005 and their spread
RELAXATION = {
    "csf": (1.00, 4200.0, 1600.0),
    "cortex": (0.83, 1380.0, 95.0),
    "white": (0.70, 850.0, 70.0),
    "grey": (0.81, 1280.0, 86.0),
    "thalamus": (0.77, 1120.0, 82.0),
    "striatum": (0.81, 1240.0, 84.0),
    "pallidum": (0.75, 980.0, 66.0),
    "brainstem": (0.73, 960.0, 76.0),
    "lesion": (0.82, 1300.0, 140.0),  # white-matter hyperintensity
}
IRON_PER_DECADE = {"striatum": 0.012, "pallidum": 0.02}  # T2 shortens as iron gathers, Hallgren 1958


@dataclass(frozen=True)
class Scanner:
    """What differs between machines: sequence times (ms), point spread (mm), bias, noise (of the signal)."""

    inversion: float
    inversion_time: float
    echo_scale: float
    blur_mm: float
    bias: float
    noise: float


def draw_scanner(generator: torch.Generator) -> Scanner:
    """A random scanner."""
    low = torch.tensor([1.08, 820.0, 0.94, 0.38, 0.03, 0.008])
    high = torch.tensor([1.20, 900.0, 1.06, 0.60, 0.10, 0.022])
    values = low + (high - low) * torch.rand(6, generator=generator)
    return Scanner(*values.tolist())


def signal(modality: str, density: Tensor, t1: Tensor, t2: Tensor, scanner: Scanner) -> Tensor:
    """Signal of tissues with these proton densities and relaxation times (ms), any one shape.

    T1 is an inversion-prepared gradient echo: readout keeps the inversion below 2. T2 and PD are spin echoes
    with long repetition. FLAIR inverts so that fluid crosses zero. All magnitudes.
    """
    echo = scanner.echo_scale
    if modality == "T1":
        recovered = density * (1 - scanner.inversion * torch.exp(-scanner.inversion_time / t1))
        return recovered.abs()
    if modality == "T2":
        return density * torch.exp(-95 * echo / t2) * (1 - torch.exp(-5000 / t1))
    if modality == "PD":
        return density * torch.exp(-12 * echo / t2) * (1 - torch.exp(-6500 / t1))
    if modality == "FLAIR":
        recovered = 1 - 2 * torch.exp(-2480 / t1) + torch.exp(-9000 / t1)
        return density * torch.exp(-105 * echo / t2) * recovered.abs()
    raise ValueError(f"modality {modality!r}; possible: T1, T2, PD, FLAIR")


def tissue_values(tissues: tuple[str, ...], age: float, generator: torch.Generator) -> Tensor:
    """One person's (tissues, 3) proton density, T1 and T2: the table, a little scatter, iron with age."""
    values = torch.tensor([RELAXATION[name] for name in tissues])
    scatter = torch.tensor([0.01, 0.02, 0.02]) * torch.randn(len(tissues), 3, generator=generator)
    values = values * (1 + scatter)
    for name, rate in IRON_PER_DECADE.items():
        values[tissues.index(name), 2] *= 1 - rate * (age - 20) / 10
    return values


def weights_of_texture(modality: str, values: Tensor, scanner: Scanner) -> Tensor:
    """The (tissues, 4) signal and its slope for relative changes of proton density, T1 and T2.

    Texture is small, so a line is enough, and one matrix product then makes the whole picture.
    """
    at = [signal(modality, values[:, 0], values[:, 1], values[:, 2], scanner)]
    for k in range(3):
        step = values.clone()
        step[:, k] *= 1.01
        at.append((signal(modality, step[:, 0], step[:, 1], step[:, 2], scanner) - at[0]) / 0.01)
    return torch.stack(at, 1)


def picture(
    weights: Tensor,
    fractions: Tensor,
    texture: Tensor,
    *,
    brain: Tensor,
    psf: float,
    bias: Tensor,
    noise: float,
    generator: torch.Generator,
) -> Tensor:
    """A magnitude image (X, Y, Z), 98 % of `brain` below 1: mixed signals, blurred, with bias and noise.

    weights: (tissues, 4). fractions: (tissues, X, Y, Z). texture: (3, X, Y, Z) relative changes of proton
    density, T1 and T2. psf: standard deviation in voxels. Noise is Rician.
    """
    parts = torch.tensordot(weights.T, fractions, dims=1)  # voxels mix signals, not times
    image = parts[0] + (parts[1:] * texture).sum(0)
    image = smooth(image[None], psf)[0] * bias
    image = image / image[brain][::17].quantile(0.98)
    real, imaginary = torch.randn(2, *image.shape, generator=generator) * noise
    return torch.sqrt((image + real) ** 2 + imaginary**2)


def smooth(image: Tensor, sigma: float) -> Tensor:
    """(C, X, Y, Z) blurred with a Gaussian of `sigma` voxels, borders replicated."""
    if sigma < 0.15:
        return image
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    image = image[:, None]
    for axis in range(3):
        size, pad = [1] * 5, [0] * 6
        size[2 + axis] = len(kernel)
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = reach
        image = F.conv3d(F.pad(image, pad, mode="replicate"), kernel.reshape(size))
    return image[:, 0]


def smooth_field(
    generator: torch.Generator, shape: tuple[int, ...], sigma: float, channels: int = 1
) -> Tensor:
    """A smooth Gaussian random field (channels, X, Y, Z) of unit variance; `sigma` in voxels.

    Made on a coarser grid where the field is smooth enough, then enlarged.
    """
    step = max(1.0, sigma / 2)
    coarse = [max(4, math.ceil(n / step) + 2) for n in shape]
    field = smooth(torch.randn(channels, *coarse, generator=generator), sigma / step)
    field = field / field.std()
    return enlarge(field, shape)


def enlarge(field: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(C, X, Y, Z) interpolated to `shape`, corners on corners."""
    if tuple(field.shape[1:]) == tuple(shape):
        return field
    return F.interpolate(field[None], size=shape, mode="trilinear", align_corners=True)[0]
