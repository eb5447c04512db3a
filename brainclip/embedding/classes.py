"""Zero-shot classes: what CLIP says of a slice when it chooses among captions that differ in one fact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atlas.caption import restate
from atlas.facts import Facts, levels
from atlas.slices import MODALITIES, PLANES
from brainclip.clip import Clip
from brainclip.errors import BrainclipError

WORDINGS = 8  # captions of one meaning, whose embeddings are averaged (Radford et al. 2021)
BANDS = ("young", "middle-aged", "elderly")

WORDS: dict[str, Sequence[str]] = {
    "plane": PLANES,
    "modality": MODALITIES,
    "level": (),  # those of the slice's plane
    "age_band": BANDS,
    "sex": ("female", "male"),
}
GIVEN = {  # what a caption states besides, where it is known: CLIP learned the fact from such captions
    "plane": (),
    "modality": ("plane",),
    "level": ("plane",),
    "age_band": ("plane", "modality", "level"),
    "sex": ("plane",),
}

Choose = Callable[[Facts], Sequence[Mapping[str, Any]]]


@torch.no_grad()
def meanings(clip: Clip, mentioned: Sequence[Mapping[str, Any]], *, wordings: int = WORDINGS) -> Tensor:
    """(M, D) unit length: the mean embedding of so many captions that state the same."""
    texts = [restate(stated, seed=seed).text for stated in mentioned for seed in range(wordings)]
    tokens = clip.tokenize(texts)
    parts = [clip.encode_text(tokens[i : i + 256])[0] for i in range(0, len(tokens), 256)]
    return functional.normalize(torch.cat(parts).unflatten(0, (-1, wordings)).mean(1), dim=1)


def similarities(
    clip: Clip, image: Tensor, facts: Sequence[Facts], candidates: Choose, *, wordings: int = WORDINGS
) -> list[np.ndarray]:
    """For each slice the cosines to its candidate captions; image: (N, D) embeddings of the slices."""
    found = []
    for row, fact in zip(image, facts, strict=True):
        options = json.dumps([dict(option) for option in candidates(fact)])
        found.append((_meanings(clip, options, wordings) @ row).numpy())
    return found


@lru_cache(maxsize=1024)  # each some captions, which take longer to embed than a slice
def _meanings(clip: Clip, mentioned: str, wordings: int) -> Tensor:
    return meanings(clip, json.loads(mentioned), wordings=wordings)


def chosen(clip: Clip, image: Tensor, facts: Sequence[Facts], candidates: Choose) -> np.ndarray:
    """(N,) index of the candidate caption closest to each slice; image: (N, D) embeddings of the slices."""
    return np.array([int(row.argmax()) for row in similarities(clip, image, facts, candidates)], dtype=int)


def words(question: str, facts: Facts) -> Sequence[str]:
    """The answers to a question of WORDS that come into question for a slice; BrainclipError for another."""
    if question not in WORDS:
        raise BrainclipError(f"no question {question!r}; possible: {', '.join(WORDS)}")
    return WORDS[question] or [level.name for level in levels()[str(facts.plane)]]


def asked(question: str, facts: Facts) -> list[dict[str, Any]]:
    """What the candidate captions of a slice state: each answer, with what is given besides."""
    given = {name: getattr(facts, name) for name in GIVEN[question] if getattr(facts, name) is not None}
    return [given | {question: word} for word in words(question, facts)]


def probabilities(
    clip: Clip,
    image: Tensor,
    facts: Sequence[Facts],
    question: str,
    *,
    answers: Sequence[Mapping[str, Any]] | None = None,
    sharpness: float = 1.0,
    wordings: int = WORDINGS,
) -> list[np.ndarray]:
    """For each slice the probability of each answer: softmax of CLIP's logits over ensembles of captions.

    image: (N, D) embeddings. facts: what is known of the slices; all questions but "plane" need the plane.
    question: "plane", "modality", "level", "age_band" or "sex"; answers: others, what their captions state.
    wordings: captions in an ensemble. sharpness: of the softmax; 1 is how CLIP was trained, which is too
    sure; captioning fits it on held-out people.
    """
    options: Choose = (lambda _: answers) if answers is not None else (lambda fact: asked(question, fact))
    scale = float(clip.towers.logit_scale.detach().exp()) * sharpness
    return [_softmax(row * scale) for row in similarities(clip, image, facts, options, wordings=wordings)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
