"""Space: how captions and slices lie in the embedding space, and what an adaptation has changed in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.caption import caption
from atlas.slices import PLANES
from brainclip.clip import Clip
from brainclip.data import PairDataset
from brainclip.evaluate.figures import Figure, average, bootstrap
from brainclip.train.clip import embed_all

EVERYDAY = Path(__file__).with_name("everyday.txt")
SEED = 17
POOL = 1000
TEMPERATURE = 2.0  # of uniformity, as in the paper


@torch.no_grad()
def space(clip: Clip, data: PairDataset, *, pool: int = POOL) -> dict[str, Figure]:
    """Alignment, uniformity and collapse of at most `pool` slices, each with one caption of its own.

    alignment: mean squared distance of a slice and its caption, 0 to 4; uniformity: log of the mean of
    exp(-2 squared distance) over pairs of slices, or of captions; the lower the better (Wang and Isola 2020).
    collapse: MONAI's scores from 0 to 1, the higher the more collapsed; classes are the planes.
    """
    rows = np.sort(np.random.default_rng(SEED).permutation(len(data))[:pool])
    pairs = [data.pairs[i] for i in rows]
    subjects = np.array([pair.subject for pair in pairs])
    text = embed_texts(clip, [caption(pair.facts, seed=SEED + k).text for k, pair in enumerate(pairs)])
    image = embed_all(clip, data, rows)
    planes = torch.tensor([PLANES.index(str(pair.facts.plane)) for pair in pairs])
    return {
        "alignment": average((text - image).square().sum(1).numpy(), subjects),
        "uniformity_of_slices": uniformity(image, subjects),
        "uniformity_of_captions": uniformity(text, subjects),
        **{f"collapse_of_slices_{name}": figure for name, figure in collapse(image, planes).items()},
        **{f"collapse_of_captions_{name}": figure for name, figure in collapse(text, planes).items()},
    }


def embed_texts(clip: Clip, texts: list[str]) -> Tensor:
    """(N, D) embeddings of texts."""
    tokens = clip.tokenize(texts)
    return torch.cat([clip.encode_text(part)[0] for part in tokens.split(256)])


def uniformity(embedding: Tensor, subjects: np.ndarray) -> Figure:
    """Log of the mean over pairs of rows (N, D) of exp(-2 squared distance); a row is no pair with itself,
    nor with another draw of it in the bootstrap over subjects."""
    near = torch.exp(-TEMPERATURE * torch.cdist(embedding.double(), embedding.double()).square()).numpy()
    np.fill_diagonal(near, 0.0)

    def statistic(rows: np.ndarray) -> float:
        times = np.bincount(rows, minlength=len(near)).astype(float)
        pairs = times.sum() ** 2 - (times**2).sum()
        return float(np.log(times @ near @ times / pairs)) if pairs else float("nan")

    return bootstrap(statistic, len(near), subjects)


def collapse(embedding: Tensor, classes: Tensor) -> dict[str, Figure]:
    """MONAI's EmbeddingCollapseMetric of embeddings (N, D) and their classes (N,); no intervals, for a sample
    with repeats has a lower rank."""
    from monai.metrics import EmbeddingCollapseMetric

    names = ["effective_rank", "centroid_similarity", "separation"]
    scores = EmbeddingCollapseMetric(include_indicators=names)(embedding, classes)
    return {
        name.removesuffix("_score"): {
            "value": None if score is None else round(float(score), 4),
            "low": None,
            "high": None,
            "n": len(embedding),
        }
        for name, score in scores.items()
        if name != "aggregate"
    }


@torch.no_grad()
def forgetting(before: Clip, after: Clip, texts: list[str] | None = None) -> dict[str, Any]:
    """What is left of the text space in which everyday captions lay: the correlation of their pairwise
    cosines before and after, and the mean cosine of a caption with itself; 1 where nothing has changed.

    Intervals by bootstrap over captions. Before and after may differ in all but the embeddings' width.
    """
    texts = EVERYDAY.read_text(encoding="utf-8").splitlines() if texts is None else texts
    old, new = (embed_texts(clip, texts).double().numpy() for clip in (before, after))
    cosines = old @ old.T, new @ new.T

    def correlation(rows: np.ndarray) -> float:
        first, second = np.nonzero(rows[:, None] < rows[None])  # each pair of two captions once
        pairs = [cosine[rows[first], rows[second]] for cosine in cosines]
        return float(np.corrcoef(*pairs)[0, 1])

    return {
        "pairwise_correlation": bootstrap(correlation, len(texts)),
        "cosine_with_itself": average((old * new).sum(1)),
    }
