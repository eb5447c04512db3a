"""Embeddings: how near is the prior's image embedding to that of the true slice?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atlas.caption import caption, truth_matrix
from brainclip.data import PairDataset
from brainclip.evaluate.figures import average
from brainclip.model import BrainCLIP
from brainclip.train.clip import embed_all

SEED = 12
PAIRS = 500


@torch.no_grad()
def embeddings(model: BrainCLIP, data: PairDataset, *, pairs: int = PAIRS) -> dict[str, Any]:
    """Mean cosine to the true image embedding on held-out pairs: of the prior's prediction and its baselines.

    mean_embedding: of the training slices (0 by definition in whitened space). text_embedding: the caption's
    own. another_true_slice: of a slice of another subject of which the same caption is true, a mark for what
    the caption leaves open. "cosine" is of unit embeddings, "whitened" with mean and standard deviation taken
    off.
    """
    clip, settings = model.clip, model.card["generate"]
    rows = np.sort(np.random.default_rng(SEED).permutation(len(data))[:pairs])
    facts = [data.pairs[i].facts for i in rows]
    subjects = np.array([data.pairs[i].subject for i in rows])
    captions = [caption(fact, seed=SEED + k) for k, fact in enumerate(facts)]
    texts = [c.text for c in captions]
    sampled = []
    for start in range(0, len(rows), 64):
        part = range(start, min(start + 64, len(rows)))
        options = {"steps": settings["prior_steps"], "guidance": settings["prior_guidance"]}
        sampled.append(model.prior.sample(clip, texts[part.start : part.stop], list(part), **options))
    predicted = clip.unwhiten(torch.cat(sampled))
    true = embed_all(clip, data, rows)
    tokens = clip.tokenize(texts)
    text = torch.cat([clip.encode_text(tokens[i : i + 256])[0] for i in range(0, len(tokens), 256)])
    other = _another_slice(truth_matrix([c.mentioned for c in captions], facts), subjects)
    has = other >= 0
    mean = functional.normalize(clip.embedding_mean, dim=0).expand_as(true)
    result: dict[str, Any] = {"pairs": len(rows)}
    for space, change in (("cosine", lambda x: x), ("whitened", clip.whiten)):
        figures = {
            "predicted": average(_cosine(change(predicted), change(true)), subjects),
            "text_embedding": average(_cosine(change(text), change(true)), subjects),
        }
        if space == "cosine":
            figures["mean_embedding"] = average(_cosine(mean, true), subjects)
        if has.any():
            cosines = _cosine(change(true[other[has]]), change(true[has]))
            figures["another_true_slice"] = average(cosines, subjects[has])
        result[space] = figures
    return result


def _cosine(first: Tensor, second: Tensor) -> np.ndarray:
    """(N,) cosine of the rows of two (N, D) tensors."""
    return functional.cosine_similarity(first, second, dim=1).numpy()


def _another_slice(truth: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """(N,) for each caption a slice of another subject of which it is true, -1 where there is none."""
    generator = np.random.default_rng(SEED)
    allowed = truth & (subjects[:, None] != subjects[None])
    return np.array([generator.choice(np.flatnonzero(row)) if row.any() else -1 for row in allowed])
