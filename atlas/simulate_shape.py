"""What makes one simulated person of an anatomy: age and sex, pose, warp, cortex, white-matter lesions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atlas.anatomy import TISSUES, Anatomy
from atlas.errors import SourceError
from atlas.simulate_signal import smooth, smooth_field
from atlas.slices import MODALITIES

AGES = (18.0, 90.0)
# MNI mm that every output covers: the template's brain and room for pose and warps
FIELD_LOW, FIELD_HIGH = np.array([-84.0, -122.0, -84.0]), np.array([84.0, 88.0, 96.0])
WARP_SPACING_MM = 3.0
WARPS_MM = ((24.0, 2.2), (12.0, 1.3), (6.5, 0.75))  # scale and size of the random velocities
PUSH = 1.5  # velocity for 1 mm of wall: it vanishes at the middle of a narrow ventricle (three anatomies)
STAGES = ("person", "pose", "warp", "ageing", "lesions", "texture", "tissues", "scanner", *MODALITIES)
CORTEX, WHITE, CSF = (TISSUES.index(name) for name in ("cortex", "white", "csf"))


@dataclass(frozen=True)
class Person:
    """Age in years, sex, and what age has done to this brain."""

    age: float
    sex: str
    ventricles_ml: float
    cortex_mm: float
    lesion_load: float


def generator_for(seed: int, stage: str) -> torch.Generator:
    """A generator of its own for each stage, so that a change in one stage moves no draw in another."""
    state = np.random.SeedSequence([seed, STAGES.index(stage)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def draw_person(seed: int, age: float | None, sex: str | None) -> Person:
    """The person of a seed; draws are the same whether or not age and sex are given.

    Raises SourceError for an age outside AGES or another sex than female or male.
    """
    generator = generator_for(seed, "person")
    drawn_age, drawn_sex = torch.rand(2, generator=generator).tolist()
    ventricle_z, cortex_z, lesion_z = torch.randn(3, generator=generator).clamp(-2, 2).tolist()
    age = round(AGES[0] + (AGES[1] - AGES[0]) * drawn_age, 1) if age is None else float(age)
    sex = ("female" if drawn_sex < 0.5 else "male") if sex is None else sex
    if not AGES[0] <= age <= AGES[1]:
        raise SourceError(f"age {age}: simulated people are {AGES[0]:.0f} to {AGES[1]:.0f} years old")
    if sex not in ("female", "male"):
        raise SourceError(f"sex {sex!r}; possible: female, male")
    years = max(0.0, (age - 20) / 70)
    # medians by age: 14 ml at 20, 20 ml at 50, 39 ml at 80 years; spread log-normal
    ventricles_ml = 14 * (1 + 2.4 * years**2) * math.exp(0.28 * ventricle_z)
    cortex_mm = 3.2 - 0.6 * years - 0.5 * years**2 + 0.12 * cortex_z
    lesion_load = 0.8 * max(0.0, (age - 45) / 45) ** 1.5 * math.exp(0.6 * lesion_z)
    return Person(age, sex, ventricles_ml, cortex_mm, min(lesion_load, 1.6))


def output_grid(spacing_mm: float) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The (4, 4) affine and shape of the output: RAS+, the same field of view at every spacing."""
    x, y, z = np.ceil((FIELD_HIGH - FIELD_LOW) / spacing_mm).astype(int)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = FIELD_LOW + spacing_mm / 2
    return affine, (int(x), int(y), int(z))


def warped_positions(
    anatomy: Anatomy, person: Person, seed: int, affine: np.ndarray, shape: tuple[int, ...]
) -> Tensor:
    """Where in the anatomy's MNI mm each output voxel looks: pose, then diffeomorphic warp; (3, X, Y, Z)."""
    world = apply_affine(pose(person, generator_for(seed, "pose")), apply_affine(affine, voxel_grid(shape)))
    coarse_affine, coarse_shape = output_grid(WARP_SPACING_MM)
    velocity = warp_velocity(anatomy, person, seed, coarse_affine, coarse_shape)
    displacement = exponential(velocity / WARP_SPACING_MM) * WARP_SPACING_MM
    return world + sample(displacement, apply_affine(np.linalg.inv(coarse_affine), world), "border")


def pose(person: Person, generator: torch.Generator) -> np.ndarray:
    """A (4, 4) affine in mm from the output to the template: head size, shape, tilt and shift."""
    size = 1 + (0.012 if person.sex == "male" else -0.012)
    scale = size * (1 + 0.015 * torch.randn(3, generator=generator).clamp(-2, 2))
    shear = 0.012 * torch.randn(3, 3, generator=generator).clamp(-2, 2)
    matrix = np.eye(4)
    matrix[:3, :3] = np.linalg.inv(torch.diag(scale).double().numpy() + shear.double().numpy())
    centre = (FIELD_LOW + FIELD_HIGH) / 2
    offset = torch.randn(3, generator=generator).clamp(-2, 2).double().numpy()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + offset
    return matrix


def warp_velocity(
    anatomy: Anatomy, person: Person, seed: int, affine: np.ndarray, shape: tuple[int, ...]
) -> Tensor:
    """A stationary velocity (3, X, Y, Z) in mm: random at three scales, ventricles grow or shrink."""
    generator = generator_for(seed, "warp")
    velocity = torch.zeros(3, *shape)
    for scale_mm, size_mm in WARPS_MM:
        velocity += size_mm * smooth_field(generator, shape, scale_mm / WARP_SPACING_MM, 3)
    local = smooth_field(generator_for(seed, "ageing"), shape, 15 / WARP_SPACING_MM)[0]

    voxels = apply_affine(np.linalg.inv(anatomy.affine) @ affine, voxel_grid(shape))
    distance = sample(torch.from_numpy(anatomy.ventricle_distance)[None], voxels, "border")
    distance = smooth(distance, 0.7)[0]
    outwards = torch.stack(torch.gradient(distance))
    outwards = outwards / outwards.norm(dim=0, keepdim=True).clamp(min=0.3)
    level = PUSH * min(4.5, max(-2.5, anatomy.ventricle_level_mm(person.ventricles_ml)))
    reach = torch.exp(-distance.clamp(min=0) / 10)  # the push fades towards the cortex
    # output voxels look inwards for the wall to move outwards
    return velocity - level * outwards * reach * (1 + 0.2 * torch.tanh(local))


def exponential(velocity: Tensor, steps: int = 6) -> Tensor:
    """Displacement (3, X, Y, Z), voxels, of the flow along a stationary velocity; scaling and squaring."""
    grid = voxel_grid(tuple(velocity.shape[1:]))
    flow = velocity / 2**steps
    for _ in range(steps):
        flow = flow + sample(flow, grid + flow, "border")
    return flow


def age_cortex(
    tissues: Tensor,
    white: Tensor,
    sulci: Tensor,
    person: Person,
    generator: torch.Generator,
    spacing_mm: float,
) -> Tensor:
    """Tissues with cortex as thick as this person's: what lies further from white matter is fluid.

    white: distance to cerebral white matter in mm, so its far side in a closed sulcus is the sulcus itself.
    sulci: where fluid may become cortex, so that the young have narrower sulci than the anatomy.
    """
    shape = tuple(tissues.shape[1:])
    variation = 0.25 * smooth_field(generator, shape, 9 / spacing_mm)[0]
    inside = torch.sigmoid((person.cortex_mm + variation - white) / 0.35)
    territory = tissues[CORTEX] + tissues[CSF] * sulci
    out = tissues.clone()
    out[CORTEX] = territory * inside
    out[CSF] = tissues[CSF] * (1 - sulci) + territory * (1 - inside)
    return out


def add_lesions(
    tissues: Tensor,
    ventricle: Tensor,
    white: Tensor,
    cerebellum: Tensor,
    person: Person,
    generator: torch.Generator,
    spacing_mm: float,
) -> Tensor:
    """Tissues plus a map of white-matter hyperintensities: caps and rims at ventricles, some deep spots."""
    shape = tuple(tissues.shape[1:])
    if person.lesion_load == 0:
        return torch.cat([tissues, torch.zeros(1, *shape)])
    blobs = smooth_field(generator, shape, 3.0 / spacing_mm)[0]
    spots = smooth_field(generator, shape, 2.0 / spacing_mm)[0]
    load = person.lesion_load
    near = torch.exp(-(ventricle - 1).clamp(min=0) / (1.0 + 1.5 * load)) * (ventricle > -1)
    caps = torch.sigmoid((2.4 * near + 0.7 * blobs - 3.1 + 0.6 * load) / 0.2)
    deep = torch.sigmoid((spots - 3.6 + 0.6 * load) / 0.15) * torch.sigmoid((-white - 2.5) / 0.5)
    lesion = (caps + deep).clamp(0, 1) * tissues[WHITE] * (1 - cerebellum) * min(1.0, 4 * load)
    lesion = torch.minimum(smooth(lesion[None], 0.5 / spacing_mm)[0], tissues[WHITE])
    out = torch.cat([tissues, lesion[None]])
    out[WHITE] -= lesion
    return out


def sample(volume: Tensor, voxels: Tensor, padding: str = "border") -> Tensor:
    """`volume` (C, X, Y, Z) read linearly at `voxels` (3, I, J, K): (C, I, J, K)."""
    size = torch.tensor(volume.shape[1:]).reshape(3, 1, 1, 1)
    grid = (2 * voxels / (size - 1) - 1).flip(0).movedim(0, -1)[None]
    return F.grid_sample(volume[None], grid, mode="bilinear", padding_mode=padding, align_corners=True)[0]


def sample_labels(labels: np.ndarray, voxels: Tensor) -> np.ndarray:
    """Labels (int32) of the voxels nearest to `voxels` (3, I, J, K); 0 outside."""
    index = voxels.round().long().numpy()
    inside = np.all([(i >= 0) & (i < n) for i, n in zip(index, labels.shape, strict=True)], axis=0)
    clipped = [np.clip(i, 0, n - 1) for i, n in zip(index, labels.shape, strict=True)]
    return np.where(inside, labels[tuple(clipped)], 0).astype(np.int32)


def voxel_grid(shape: tuple[int, ...]) -> Tensor:
    """Voxel indices as floats, (3, X, Y, Z)."""
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij"))


def apply_affine(matrix: np.ndarray, points: Tensor) -> Tensor:
    """Points (3, X, Y, Z) through a (4, 4) affine."""
    m = torch.from_numpy(matrix).to(torch.float32)
    return torch.tensordot(m[:3, :3], points, dims=1) + m[:3, 3, None, None, None]
