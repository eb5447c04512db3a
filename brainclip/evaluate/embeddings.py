"""Embeddings: how near is the prior's image embedding to that of the true slice, and what must it beat?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atlas.caption import Caption, caption, truth_matrix
from brainclip.clip import Clip
from brainclip.data import PairDataset
from brainclip.evaluate.baselines import fitted_ridge, nearest_neighbour
from brainclip.evaluate.figures import Figure, average
from brainclip.evaluate.retrieval import chance, recall
from brainclip.model import BrainCLIP
from brainclip.prior import nearest_to
from brainclip.train.clip import embed_all
from brainclip.train.embeddings import whitened_embeddings

SEED = 12
PAIRS = 128  # captions; with the bundled prior 200 s of processor time in all, 140 of them for the samples
POOL = 1000  # held-out slices among which the true one is looked for
SAMPLES = 8  # of the prior for a caption
TOGETHER = 16  # of them at a time: a processor is slower with more
TRAINING = 10_000  # training slices for the baselines
KS = (1, 10)


@torch.no_grad()
def embeddings(
    model: BrainCLIP, data: PairDataset, training: PairDataset, folder: Path, *, pairs: int = PAIRS
) -> dict[str, Any]:
    """How well image embeddings are predicted from held-out captions: by the prior and by what it must beat.

    training: the prior's training slices, whose embeddings are kept in `folder`. Predictions: prior_sample,
    one sample, as with candidates = 1 a picture is made of; prior_nearest_of_8, of 8 the nearest to the text,
    as with candidates = 8; prior_mean_of_8, the mean of 8; ridge, a regression on the text embedding;
    nearest_neighbour, the training slice whose caption is nearest; text_embedding, the caption's own;
    mean_embedding, of the training slices (0 by definition in whitened space). another_true_slice: of other
    subjects of which the same caption is true, a mark for what the caption leaves open.

    cosine: to the true image embedding, of unit embeddings; whitened: with mean and standard deviation taken
    off. r1, r10: is a slice of which the caption is true among the 1 or 10 nearest to the prediction, of
    `candidates` held-out ones? Intervals by bootstrap over subjects.

    A ridge regression predicts the conditional mean, which has the least squared error of all predictions,
    and so about the largest cosine. A sample differs from the true slice as a second slice of the same
    caption would: with the mean's error e, a perfect sampler has 2 e. Samples and means are told apart by
    spread: the mean cosine among the samples of a caption, beside that among slices of which it is true. A
    prior that only gives the mean has 1 there, one that keeps what the caption leaves open has the slices'.
    Samples are drawn with the card's guidance, which brings them nearer to each other.
    """
    clip = model.clip
    pool = np.random.default_rng(SEED).permutation(len(data))[:POOL]
    facts = [data.pairs[i].facts for i in pool]
    captions = [caption(fact, seed=SEED + k) for k, fact in enumerate(facts[:pairs])]
    subjects = np.array([data.pairs[i].subject for i in pool])
    truth = truth_matrix([c.mentioned for c in captions], facts)
    np.fill_diagonal(truth, True)
    images = embed_all(clip, data, pool)
    text = text_embeddings(clip, captions)
    samples = prior_samples(model, [c.text for c in captions])
    predictions = {
        "prior_sample": samples[0],
        f"prior_nearest_of_{SAMPLES}": nearest_to(text, samples),
        f"prior_mean_of_{SAMPLES}": samples.mean(0),
    }
    baselines, ridge_penalty = baseline_embeddings(clip, training, folder, text)
    predictions |= baselines
    result: dict[str, Any] = {
        "pairs": len(captions),
        "candidates": len(pool),
        "training_slices": min(TRAINING, len(training)),
        "samples": SAMPLES,
        "ridge_penalty": ridge_penalty,
    }
    true, people = images[: len(captions)], subjects[: len(captions)]
    others = truth & (people[:, None] != subjects[None])
    result["spread"] = {}
    for space, change in (("cosine", lambda x: x), ("whitened", clip.whiten)):
        result[space] = {
            name: average(_cosine(change(predicted), change(true)), people)
            for name, predicted in predictions.items()
            if space == "cosine" or name != "mean_embedding"
        }
        slices = _alike(change(true), change(images), others, people)
        result[space]["another_true_slice"] = slices
        result["spread"][space] = {
            "samples_of_a_caption": _among(change(samples), others.any(1), people),
            "true_slices_of_a_caption": slices,
        }
    for k in KS:
        result[f"r{k}"] = {
            name: average(recall(_similarity(predicted, images), truth, k).astype(float), people)
            | {"chance": round(chance(truth, k), 4)}
            for name, predicted in predictions.items()
        }
    return result


def text_embeddings(clip: Clip, captions: Sequence[Caption]) -> Tensor:
    """(N, D) embeddings of captions."""
    tokens = clip.tokenize([c.text for c in captions])
    return torch.cat([clip.encode_text(tokens[i : i + 256])[0] for i in range(0, len(tokens), 256)])


def prior_samples(model: BrainCLIP, texts: Sequence[str]) -> Tensor:
    """(SAMPLES, N, D) image embeddings of N captions, with the steps and the guidance of generate()."""
    settings = model.card["generate"]
    drawn = []
    for number in range(SAMPLES):
        for start in range(0, len(texts), TOGETHER):
            part = list(range(start, min(start + TOGETHER, len(texts))))
            drawn.append(
                model.prior.sample(
                    model.clip,
                    [texts[k] for k in part],
                    [k + number * len(texts) for k in part],
                    steps=settings["prior_steps"],
                    guidance=settings["prior_guidance"],
                    age_guidance=settings.get("prior_age_guidance"),
                )
            )
    return torch.cat(drawn).unflatten(0, (SAMPLES, len(texts)))


def baseline_embeddings(
    clip: Clip, training: PairDataset, folder: Path, text: Tensor
) -> tuple[dict[str, Tensor], float]:
    """(N, D) predictions for text embeddings (N, D) by what needs no prior, and the ridge's penalty."""
    rows = np.sort(np.random.default_rng(SEED).permutation(len(training))[:TRAINING])
    known_text = text_embeddings(clip, [caption(training.pairs[i].facts, seed=SEED + int(i)) for i in rows])
    known_image = clip.unwhiten(whitened_embeddings(clip, training, folder)[torch.from_numpy(rows)])
    subjects = np.array([training.pairs[i].subject for i in rows])
    ridge = fitted_ridge(known_text, known_image, subjects)
    return {
        "ridge": ridge.predict(text),
        "nearest_neighbour": nearest_neighbour(text, known_text, known_image),
        "text_embedding": text,
        "mean_embedding": clip.embedding_mean.expand_as(text),
    }, ridge.penalty


def _cosine(first: Tensor, second: Tensor) -> np.ndarray:
    """(N,) cosine of the rows of two (N, D) tensors."""
    return functional.cosine_similarity(first, second, dim=1).numpy()


def _similarity(first: Tensor, second: Tensor) -> np.ndarray:
    """(N, M) cosine of each row of (N, D) to each of (M, D)."""
    return (functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T).numpy()


def _alike(true: Tensor, images: Tensor, others: np.ndarray, people: np.ndarray) -> Figure:
    """Mean cosine of the true slices (N, D) to those of `images` (M, D) that `others` (N, M) allows, where it
    allows any."""
    has = others.any(1)
    allowed, similarity = others[has], _similarity(true, images)[has]
    return average((similarity * allowed).sum(1) / allowed.sum(1), people[has])


def _among(samples: Tensor, rows: np.ndarray, people: np.ndarray) -> Figure:
    """Mean cosine among the different samples (S, N, D) of each of the captions in `rows`."""
    unit, count = functional.normalize(samples, dim=2), len(samples)
    squares = unit.sum(0).square().sum(1).numpy()  # |sum|^2 = S + the sum over different ones
    return average(((squares - count) / (count * (count - 1)))[rows], people[rows])
