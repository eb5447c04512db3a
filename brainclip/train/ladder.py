"""Age ladder: one caption at many ages against people whose slices are otherwise alike.

In a random batch plane, contrast and place tell the pairs apart, and a CLIP of a few thousand steps never
learns the age. Captions that differ in one fact alone make it count (hard negatives, Yuksekgonul et al.
2023); the target is graded, for an age missed by two years is nearly right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atlas.caption import Caption, restate
from atlas.facts import Facts

RUNGS = 12
AGES = (18.0, 92.0)  # years, the ends of the ladder
SPREAD_YEARS = 6.0  # standard deviation of the graded target
SHARED = ("plane", "modality", "level", "position_mm", "health")  # facts of the group, not of a person


def rungs(stated: Caption, generator: np.random.Generator) -> list[Caption]:
    """The caption of one slice without what is said of the person, at RUNGS ages from young to old, each
    drawn within its share of AGES; all in the same wording."""
    edges = np.linspace(*AGES, RUNGS + 1)
    ages = np.rint(generator.uniform(edges[:-1], edges[1:])).astype(int)
    shared = {name: stated.mentioned[name] for name in SHARED if name in stated.mentioned}
    seed = int(generator.integers(2**32))
    return [restate({**shared, "age": int(age)}, seed=seed) for age in ages]


def known_ages(facts: Sequence[Facts]) -> Tensor:
    """(N,) years, nan where not known."""
    return torch.tensor([float(row.known.get("age") or np.nan) for row in facts])


def ladder_loss(image: Tensor, text: Tensor, ages: Tensor, asked: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of age between the slices of a group and the rungs of its ladder, both directions.

    image: (G, N, D) and text: (G, K, D) unit length; ages: (G, N) of the people, nan unknown, these do not
    count; asked: (G, K). Targets are Gaussians of SPREAD_YEARS over the rungs, and over the people.
    """
    known = ~ages.isnan()
    logits = scale * image @ text.transpose(1, 2)  # (G, N, K)
    near = -0.5 * ((ages.nan_to_num()[:, :, None] - asked[:, None]) / SPREAD_YEARS) ** 2
    by_person = -(functional.log_softmax(logits, 2) * near.softmax(2)).sum(2)  # (G, N)
    out = ~known[:, :, None]
    people = functional.log_softmax(logits.masked_fill(out, -1e4), 1) * near.masked_fill(out, -1e4).softmax(1)
    by_rung = -people.sum(1) * known.any(1)[:, None]  # (G, K)
    return ((by_person * known).sum() / known.sum().clamp(min=1) + by_rung.mean()) / 2
