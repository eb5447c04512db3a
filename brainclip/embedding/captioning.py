"""A caption for any slice: the facts nearest to it, each with how sure it is; the unsure are not said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atlas.caption import restate
from atlas.facts import Facts, age_band
from brainclip.embedding.calibration import Calibration, sharpened
from brainclip.embedding.classes import BANDS, WORDS, probabilities, words
from brainclip.embedding.index import Index
from brainclip.model import BrainCLIP

NEIGHBOURS = 32
ITSELF = 1e-6  # 1 - cosine up to which a slice is the same
LEAST = 0.6  # of a fact's confidence, to be said
READERS = ("zero_shot", "neighbours")


@dataclass(frozen=True)
class Answer:
    """One fact read from a slice. confidence: calibrated probability that it is right."""

    question: str
    value: str
    confidence: float


@dataclass(frozen=True)
class Described:
    """text: a caption of the sure facts in a training wording, "" where not even the plane is sure. answers:
    all facts. position_mm, age: means over the neighbours (None without an index), with their standard
    deviation. calibrated: whether the confidences were fitted on held-out people of this model."""

    text: str
    answers: tuple[Answer, ...]
    position_mm: tuple[float, float] | None
    age: tuple[float, float] | None
    calibrated: bool


def describe(
    model: BrainCLIP,
    embedding: torch.Tensor,
    *,
    index: Index | None = None,
    calibration: Calibration | None = None,
    least: float = LEAST,
) -> Described:
    """What a slice shows, from its embedding (D,).

    Without an index CLIP chooses among captions (zero-shot). With one, the NEIGHBOURS nearest slices vote;
    they know ages and millimetres as well. least: confidence from which a fact is said.
    """
    calibration = calibration or Calibration.load(model)
    neighbours = None
    if index is not None:
        index.check(model)
        neighbours = Neighbours(*nearest_facts(index, embedding.numpy()))
    facts, answers = Facts(), []
    for question in WORDS:
        if question != "plane" and facts.plane is None:
            break
        raw = read_fact(model, embedding, facts, question, neighbours)
        reader = READERS[neighbours is not None]
        sure = sharpened(raw, calibration.of(reader, question))
        best = int(sure.argmax())
        answer = Answer(question, words(question, facts)[best], float(sure[best]))
        answers.append(answer)
        if answer.confidence >= least and question in ("plane", "modality", "level"):
            facts = Facts.from_dict(facts.to_dict() | {question: answer.value})
    said = {answer.question: answer.value for answer in answers if answer.confidence >= least}
    text = restate(said, seed=0).text if "plane" in said else ""
    place, age = (None, None) if neighbours is None else (neighbours.position(facts), neighbours.age())
    return Described(text, tuple(answers), place, age, bool(calibration.fitted_on))


def read_fact(
    model: BrainCLIP,
    embedding: torch.Tensor,
    facts: Facts,
    question: str,
    neighbours: Neighbours | None,
) -> np.ndarray:
    """(K,) probabilities of the answers words(question, facts), not calibrated. facts: known already."""
    if neighbours is None:
        return probabilities(model.clip, embedding[None], [facts], question)[0]
    return neighbours.votes(question, words(question, facts), facts)


@dataclass(frozen=True)
class Neighbours:
    """Slices near to one, and how near. facts: K of them; weights: (K,), which sum to 1."""

    facts: Sequence[Facts]
    weights: np.ndarray

    def votes(self, question: str, answers: Sequence[str], given: Facts) -> np.ndarray:
        """(A,) share of the weight for each answer, among neighbours of the plane given, and one more
        neighbour that gives every answer the same share."""
        share = np.full(len(answers), 1.0 / len(answers) / (1 + len(self.facts)))
        for fact, weight in zip(self.facts, self.weights, strict=True):
            value = value_of(question, fact)
            if value in answers and (question == "plane" or fact.plane == given.plane):
                share[list(answers).index(str(value))] += weight
        return np.asarray(share / share.sum())

    def position(self, given: Facts) -> tuple[float, float] | None:
        """Mean position in mm of the neighbours of the plane given, and its standard deviation."""
        at = [
            fact.position_mm if fact.plane == given.plane and fact.position_mm is not None else np.nan
            for fact in self.facts
        ]
        return self._mean(np.array(at, dtype=float))

    def age(self) -> tuple[float, float] | None:
        """Mean age in years of the neighbours, and its standard deviation."""
        return self._mean(np.array([fact.known.get("age", np.nan) for fact in self.facts], dtype=float))

    def _mean(self, values: np.ndarray) -> tuple[float, float] | None:
        known = np.isfinite(values)
        if not known.any():
            return None
        weights = self.weights[known] / self.weights[known].sum()
        mean = float(weights @ values[known])
        return mean, float(np.sqrt(weights @ (values[known] - mean) ** 2))


def nearest_facts(
    index: Index, embedding: np.ndarray, *, allowed: np.ndarray | None = None, k: int = NEIGHBOURS
) -> tuple[list[Facts], np.ndarray]:
    """The facts of the k nearest slices, and their weights by distance, which sum to 1. The slice itself, if
    the index has it, is none of them."""
    scores, rows = index.nearest(embedding[None], k + 1, allowed=allowed)
    far = 1 - scores[0]  # of unit vectors, half the squared distance
    others = np.flatnonzero(far > ITSELF)[:k]
    weights = 1 / np.maximum(far[others], 1e-4)
    facts = [index.facts(int(row)) for row in rows[0][others]]
    return facts, weights / max(float(weights.sum()), 1e-9)


def value_of(question: str, facts: Facts) -> Any:
    """The true answer to a question of WORDS; None where it is not known."""
    if question == "sex":
        return facts.known.get("sex")
    if question == "age_band":
        age = facts.known.get("age")
        bands = [name for name in BANDS if age is not None and age_band(name)[0] <= age < age_band(name)[1]]
        return bands[0] if bands else None
    return getattr(facts, question)
