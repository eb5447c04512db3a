"""A caption for any slice: the facts nearest to it, each with how sure it is; the unsure are not said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atlas.caption import restate
from atlas.facts import Facts, age_band, without_side
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
    """One fact read from a slice. value: one of answers_to(). confidence: calibrated probability of it."""

    question: str
    value: str
    confidence: float


@dataclass(frozen=True)
class Described:
    """text: a caption of the sure facts in a training wording, "" where not even the plane is sure. answers:
    all facts. position_mm, age: means over the neighbours (None without an index), with their standard
    deviation; of a sagittal slice the distance from the midline, for which side it is on does not show.
    calibrated: whether the confidences were fitted on held-out people of this model."""

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
    facts, answers, said = Facts(), [], {}
    for question in WORDS:
        if question != "plane" and facts.plane is None:
            break
        raw = read_fact(model, embedding, facts, question, neighbours)
        reader = READERS[neighbours is not None]
        sure = sharpened(raw, calibration.of(reader, question))
        best = int(sure.argmax())
        answer = Answer(question, answers_to(question, facts)[best], float(sure[best]))
        answers.append(answer)
        # a caption cannot say "hippocampus" of a sagittal slice, only that of one side
        if answer.confidence >= least and answer.value in words(question, facts):
            said[question] = answer.value
            if question in ("plane", "modality", "level"):
                facts = Facts.from_dict(facts.to_dict() | {question: answer.value})
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
    """(K,) probabilities of answers_to(question, facts), not calibrated. facts: known already."""
    if neighbours is None:
        return in_answers(probabilities(model.clip, embedding[None], [facts], question)[0], question, facts)
    return neighbours.votes(question, answers_to(question, facts), facts)


def answers_to(question: str, facts: Facts) -> list[str]:
    """The answers words(question, facts) that can be told apart: levels of a sagittal slice without the side,
    for left and right of the midline look alike."""
    return list(dict.fromkeys(_apart(word, question, facts) for word in words(question, facts)))


def in_answers(probs: np.ndarray, question: str, facts: Facts) -> np.ndarray:
    """Probabilities of words(question, facts) as those of answers_to(question, facts)."""
    answers = answers_to(question, facts)
    made = np.zeros(len(answers))
    for word, prob in zip(words(question, facts), probs, strict=True):
        made[answers.index(_apart(word, question, facts))] += prob
    return made


def _apart(word: str, question: str, facts: Facts) -> str:
    return without_side(word) if question == "level" and facts.plane == "sagittal" else word


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
        """Mean position in mm of the neighbours of the plane given, and its standard deviation; of a sagittal
        slice the distance from the midline."""
        at = np.array(
            [
                fact.position_mm if fact.plane == given.plane and fact.position_mm is not None else np.nan
                for fact in self.facts
            ],
            dtype=float,
        )
        return self._mean(np.abs(at) if given.plane == "sagittal" else at)

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
    """The true answer to a question of WORDS, of answers_to(); None where it is not known."""
    if question == "sex":
        return facts.known.get("sex")
    if question == "age_band":
        age = facts.known.get("age")
        bands = [name for name in BANDS if age is not None and age_band(name)[0] <= age < age_band(name)[1]]
        return bands[0] if bands else None
    value = getattr(facts, question)
    return value if value is None else _apart(value, question, facts)
