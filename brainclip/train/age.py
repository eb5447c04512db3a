"""The age in CLIP's embeddings: a direction of its own, read from captions and slices alike.

A batch's pairs are told apart by plane, contrast and place. Age, of which neither tower makes anything at
first, then has some ten-thousandths of the embeddings' variance, and neither prior nor decoder sees it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from atlas.truth import MentionTable
from brainclip.clip import Clip

CENTRE, SPREAD = 50.0, 18.0  # years: the zero and the unit of ages
SHIFT = 0.15  # of the embeddings' unit length, for SPREAD years
WIDEST_BAND = 10.0  # years, of a stated age that counts
RIDGE = 1e-3  # of the mean square of a dimension


class AgeReading(nn.Module):
    """Linear reading of the age along one direction of the embeddings, which captions and slices share.

    axis: (D,), any length; at first that of the clip, or a random one. zero: where CENTRE years lie on it,
    for texts and for images.
    """

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        given = clip.age_axis if clip.age_axis.any() else torch.randn(len(clip.age_axis))
        self.axis = nn.Parameter(functional.normalize(given, dim=0))
        self.zero = nn.Parameter(torch.zeros(2))

    def forward(self, embedding: Tensor, ages: Tensor, side: int) -> Tensor:
        """Mean squared error, in units of SPREAD, of the years read from embeddings (B, D); ages (B,), nan
        where not known. side: 0 for texts, 1 for images."""
        known = ~ages.isnan()
        read = (embedding @ functional.normalize(self.axis, dim=0) - self.zero[side]) / SHIFT
        error = (read - (ages.nan_to_num() - CENTRE) / SPREAD).square()
        return (error * known).sum() / known.sum().clamp(min=1)

    @torch.no_grad()
    def settle(self, clip: Clip, embedding: Tensor, ages: Tensor) -> Tensor:
        """Let the image tower's projection show along the axis the age that ridge regression reads from all
        dimensions, and store the axis in the clip. Returns the embeddings as they are then.

        embedding: (N, D) of slices of people of these ages (N,), nan where not known. It is one linear map of
        the embeddings, exact, where a gradient needs thousands of steps.
        """
        known, axis = ~ages.isnan(), functional.normalize(self.axis, dim=0).double()
        rows, target = embedding[known].double(), (ages[known].double() - CENTRE) / SPREAD * SHIFT
        square = rows.T @ rows / max(1, len(rows))
        ridge = RIDGE * square.trace() / len(square) * torch.eye(len(square), dtype=square.dtype)
        weights = torch.linalg.solve(square + ridge, rows.T @ target / max(1, len(rows)))
        change = torch.outer(weights - axis, axis)  # e becomes e + (e . weights - e . axis) axis
        for part in clip.layout.image_maps(clip.towers):
            part += (part.double() @ change).to(part.dtype)
        clip.age_axis.copy_(axis)
        return functional.normalize(embedding + (embedding.double() @ change).to(embedding.dtype), dim=1)


def stated_ages(mentions: MentionTable) -> Tensor:
    """(N,) years that captions state, the middle of a decade; nan for none and for words such as elderly."""
    low, high = mentions.ages.T
    return torch.from_numpy(np.where(high - low <= WIDEST_BAND, (low + high) / 2, np.nan)).float()
