"""Retrieval: is a slice found by a caption, and a caption by a slice, among all held-out ones?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from atlas.caption import caption, truth_matrix
from brainclip.clip import Clip
from brainclip.data import PairDataset
from brainclip.evaluate.figures import average
from brainclip.train.clip import embed_all

KS = (1, 5, 10)
SEED = 11
POOL = 1000


def recall(similarity: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """(N,) bool: is one of the k most similar items of each query a true one? Both (N queries, M items)."""
    top = np.argpartition(-similarity, min(k, similarity.shape[1]) - 1, axis=1)[:, :k]
    return np.asarray(np.take_along_axis(truth, top, axis=1).any(axis=1))


def chance(truth: np.ndarray, k: int) -> float:
    """The recall of a random order: the mean over queries of 1 - C(M - T, k) / C(M, k), T true of M items."""
    items = truth.shape[1]
    true = truth.sum(axis=1)
    missed = np.ones(len(truth))
    for drawn in range(min(k, items)):
        missed *= np.clip(items - true - drawn, 0, None) / (items - drawn)
    return float((1 - missed).mean())


@torch.no_grad()
def retrieval(clip: Clip, data: PairDataset, *, pool: int = POOL) -> dict[str, Any]:
    """R@1, 5, 10 of both directions over all pairs folders together and each apart.

    At most `pool` slices of a dataset are drawn, each with one caption drawn by a fixed seed; any slice of
    which a caption is true counts, for chance too. Intervals by bootstrap over subjects, the candidates
    unchanged.
    """
    parts = {"all": np.arange(len(data))} if len(data.folders) > 1 else {}
    for number, folder in enumerate(data.folders):
        parts[folder.name] = np.flatnonzero(data.folder_of == number)
    return {name: _retrieval(clip, data, rows, pool) for name, rows in parts.items()}


def _retrieval(clip: Clip, data: PairDataset, rows: np.ndarray, pool: int) -> dict[str, Any]:
    chosen = np.sort(np.random.default_rng(SEED).permutation(rows)[:pool])
    facts = [data.pairs[i].facts for i in chosen]
    captions = [caption(fact, seed=SEED + k) for k, fact in enumerate(facts)]
    truth = truth_matrix([c.mentioned for c in captions], facts)
    np.fill_diagonal(truth, True)
    tokens = clip.tokenize([c.text for c in captions])
    text = torch.cat([clip.encode_text(tokens[i : i + 256])[0] for i in range(0, len(tokens), 256)])
    similarity = (text @ embed_all(clip, data, chosen).T).numpy()
    subjects = np.array([data.pairs[i].subject for i in chosen])
    result: dict[str, Any] = {"pool": len(chosen), "true_items_mean": round(float(truth.sum(1).mean()), 2)}
    ways = (("text_to_image", similarity, truth), ("image_to_text", similarity.T, truth.T))
    for name, scores, right in ways:
        for k in KS:
            result[f"{name}_r{k}"] = average(recall(scores, right, k).astype(float), subjects)
            result[f"{name}_r{k}"]["chance"] = round(chance(right, k), 4)
    return result
