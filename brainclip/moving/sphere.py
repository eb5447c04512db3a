"""The way between two embeddings, or two noises, along the sphere."""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vector_norm

ALIKE = 1e-4  # radians; below, the straight line is the arc, and the arc's formula divides by the angle


def spherical(first: Tensor, second: Tensor, share: Tensor | float) -> Tensor:
    """Rows (B, D) at a share of the way from `first` to `second`, each pair of rows along its own arc.

    share: a number, or (B,). Directions follow the great circle at constant speed, lengths change evenly, so
    rows of unit length stay so. Opposite rows have no one arc; theirs is any. Shoemake 1985.
    """
    share = first.new_ones(len(first), 1) * (
        share[:, None] if isinstance(share, Tensor) and share.ndim else share
    )
    lengths = [vector_norm(rows, dim=1, keepdim=True) for rows in (first, second)]
    a, b = (rows / length.clamp(min=1e-12) for rows, length in zip((first, second), lengths, strict=True))
    angle = (a * b).sum(1, keepdim=True).clamp(-1, 1).acos()
    safe = angle.clamp(min=ALIKE)
    arc = (((1 - share) * safe).sin() * a + (share * safe).sin() * b) / safe.sin()
    directions = arc.where(angle > ALIKE, (1 - share) * a + share * b)
    directions = directions / vector_norm(directions, dim=1, keepdim=True).clamp(min=1e-12)
    return directions * ((1 - share) * lengths[0] + share * lengths[1])
