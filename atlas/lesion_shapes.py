"""Where a simulated lesion lies: weights from 0 to 1 as functions of MNI position.

Slices of any plane and volumes so show the same lesion.
"""

from __future__ import annotations

import numpy as np

from atlas.slices import AXIS, CENTRE_MM, Geometry, slice_affine

EDGE_MM = 0.8  # half-width of a lesion's rim
OEDEMA_EDGE_MM = 3.0
PLAQUES = 7  # of one person with multiple sclerosis, at most
SPREAD_MM = 14.0  # of the plaques around the first
# the bodies of the lateral ventricles: centre (left and right in x) and half axes in mm, of the template
VENTRICLE_MM = (13.0, -14.0, 16.0)
VENTRICLE_AXES_MM = (11.0, 34.0, 13.0)


def slice_points(plane: str, position_mm: float, geometry: Geometry) -> np.ndarray:
    """(H, W, 3) float32 MNI mm of every pixel of a slice as it is displayed."""
    affine = slice_affine(plane, position_mm, geometry)
    shape = [geometry.size] * 3
    shape[AXIS[plane]] = 1
    points = grid_points(affine, (shape[0], shape[1], shape[2])).squeeze(AXIS[plane])
    shown = points[::-1, ::-1] if plane == "sagittal" else points[:, ::-1]
    return np.ascontiguousarray(shown.transpose(1, 0, 2))


def grid_points(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(I, J, K, 3) float32 world mm of every voxel of a grid."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return (index @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)


def blob(
    points: np.ndarray,
    centre_mm: np.ndarray,
    size_mm: float,
    generator: np.random.Generator,
    *,
    stretch: np.ndarray | None = None,
    rough: float = 0.25,
    edge_mm: float = EDGE_MM,
) -> np.ndarray:
    """Weights (...) of a roundish shape with an uneven rim, of this diameter; points: (..., 3) mm.

    stretch: (3,) factors of its diameters along x, y and z. rough: unevenness as a share of the radius.
    edge_mm: half-width of the rim.
    """
    radius = size_mm / 2
    away = (points - centre_mm) / (np.ones(3) if stretch is None else stretch)
    level = np.linalg.norm(away, axis=-1) + radius * rough * _waves(away, size_mm, generator)
    return _soft(radius - level, edge_mm)


def plaques(
    points: np.ndarray, centre_mm: np.ndarray, size_mm: float, generator: np.random.Generator
) -> np.ndarray:
    """Weights of plaques like those of multiple sclerosis: the largest at the centre, others around it and
    on the other side, drawn out sideways as they lie along the veins of the white matter."""
    found = blob(points, centre_mm, size_mm, generator, stretch=np.array([1.4, 0.8, 0.9]))
    for _ in range(int(generator.integers(PLAQUES // 2, PLAQUES))):
        place = centre_mm + generator.normal(scale=SPREAD_MM, size=3) * (0.4, 1.0, 0.6)
        if generator.random() < 0.5:
            place = place * (-1, 1, 1)
        size = size_mm * generator.uniform(0.35, 0.8)
        found = np.maximum(found, blob(points, place, size, generator, stretch=np.array([1.4, 0.8, 0.9])))
    return found


def wedge(
    points: np.ndarray, centre_mm: np.ndarray, size_mm: float, generator: np.random.Generator
) -> np.ndarray:
    """Weights of a territory that widens from the depth to the surface, size_mm deep."""
    outward = centre_mm - np.array(CENTRE_MM)
    outward = outward / max(1e-6, float(np.linalg.norm(outward)))
    away = points - centre_mm
    depth = away @ outward  # -size/2 at the tip, size/2 at the base
    aside = np.linalg.norm(away - depth[..., None] * outward, axis=-1)
    wide = 0.5 * size_mm * np.clip(0.35 + 0.9 * (depth / size_mm + 0.5), 0, None)
    inside = np.minimum(wide - aside, size_mm / 2 - np.abs(depth))
    return _soft(inside - 0.12 * size_mm * _waves(away, size_mm, generator))


def towards_ventricles(points: np.ndarray, wall_mm: float) -> np.ndarray:
    """(..., 3) mm: where what is shown at each point comes from when the ventricles' walls give way by so
    much; the change fades out at three times the ventricles' size."""
    centre = np.sign(points[..., :1]) * (1.0, 0.0, 0.0) * VENTRICLE_MM[0] + (0.0, *VENTRICLE_MM[1:])
    away = points - centre
    level = np.linalg.norm(away / VENTRICLE_AXES_MM, axis=-1, keepdims=True)
    # at the wall (level 1) the displacement is wall_mm; it rises from 0 at the centre and falls to 0 at 3
    share = np.where(level < 1, level, np.clip((3 - level) / 2, 0, 1) ** 2)
    outward = away / np.maximum(1e-6, np.linalg.norm(away, axis=-1, keepdims=True))
    return np.asarray(points - wall_mm * share * outward, dtype=np.float32)


def pushed_aside(points: np.ndarray, centre_mm: np.ndarray, size_mm: float, push_mm: float) -> np.ndarray:
    """(..., 3) mm: where what is shown at each point comes from when a mass at the centre displaces its
    surroundings by push_mm at its rim, less and less up to three radii."""
    away = points - centre_mm
    level = np.linalg.norm(away, axis=-1, keepdims=True) / (size_mm / 2)
    share = np.where(level < 1, level, np.clip((3 - level) / 2, 0, 1) ** 2)
    return np.asarray(
        points - push_mm * share * away / np.maximum(1e-6, level * size_mm / 2), dtype=np.float32
    )


def _waves(away: np.ndarray, size_mm: float, generator: np.random.Generator) -> np.ndarray:
    """A smooth field of about standard deviation 1: waves as long as the lesion is wide, and half of it."""
    total = np.zeros(away.shape[:-1], dtype=np.float32)
    for length in (size_mm, size_mm, size_mm, size_mm / 2, size_mm / 2):
        direction = generator.normal(size=3)
        direction *= 2 * np.pi / (length * np.linalg.norm(direction))
        total += np.cos(away @ direction + generator.uniform(0, 2 * np.pi)).astype(np.float32)
    return total / np.float32(np.sqrt(2.5))


def _soft(inside_mm: np.ndarray, edge_mm: float = EDGE_MM) -> np.ndarray:
    """Weights of signed distances, above 0 inside: one half at the rim."""
    return np.clip(0.5 + inside_mm / (2 * edge_mm), 0, 1).astype(np.float32)
