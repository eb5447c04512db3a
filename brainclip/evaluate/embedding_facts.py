"""Facts read from embeddings of held-out people: how often they are right, and how sure they say they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from atlas.facts import Facts
from brainclip.embedding.calibration import (
    Calibration,
    calibration_error,
    fit_sharpness,
    reliability,
    sharpened,
)
from brainclip.embedding.captioning import (
    LEAST,
    READERS,
    Neighbours,
    answers_to,
    describe,
    in_answers,
    nearest_facts,
    read_fact,
    value_of,
)
from brainclip.embedding.classes import WORDINGS, WORDS, probabilities, words
from brainclip.embedding.index import Index
from brainclip.embedding.rows import Cohort
from brainclip.evaluate.figures import average, bootstrap, proportion
from brainclip.model import BrainCLIP

SEED = 31
POOL = 2000  # slices of a cohort, for classes
CHANCES = 200  # draws of answers that are right as often as they say
VOTES = 600  # slices of a cohort, for captions: each of them is looked up in the index

Read = tuple[list[np.ndarray], np.ndarray, np.ndarray]  # probabilities, true answers (N,), people (N,)


def drawn(cohort: Cohort, split: str, n: int) -> np.ndarray:
    """(n,) or fewer rows of a split, by a fixed seed."""
    rows = np.flatnonzero(cohort.columns["split"] == split)
    return np.sort(np.random.default_rng(SEED).permutation(rows)[:n])


def class_figures(model: BrainCLIP, cohort: Cohort, split: str) -> dict[str, dict[str, Any]]:
    """Question -> share of right answers by ensembles ("ensemble") and by one caption each ("one_wording"),
    and the share of the most frequent answer among the true ones ("most_frequent"). The plane is given for
    all but itself, contrast and level for the age band."""
    rows = drawn(cohort, split, POOL)
    figures: dict[str, dict[str, Any]] = {}
    for question in WORDS:
        figures[question] = {}
        for name, wordings in (("ensemble", WORDINGS), ("one_wording", 1)):
            probs, right, people = zero_shot_answers(model, cohort, rows, question, wordings=wordings)
            hits = np.array([row.argmax() for row in probs], dtype=int) == right
            figures[question][name] = proportion(hits, people)
        facts = [cohort.facts(int(row)) for row in rows]
        true = [value_of(question, fact) for fact in facts if value_of(question, fact) is not None]
        counts = [true.count(value) for value in set(true)] or [0]
        figures[question]["most_frequent"] = round(max(counts) / max(1, len(true)), 4)
    return figures | {"side": side_figures(model, cohort, rows)}


def side_figures(model: BrainCLIP, cohort: Cohort, rows: np.ndarray) -> dict[str, Any]:
    """Share of the sagittal slices off the midline of which the captions of the right side's levels are
    together more probable ("ensemble"), and that of the more frequent side."""
    sides = np.array([str(level).partition(" ")[0] for level in cohort.columns["level"][rows]], dtype=object)
    off = (cohort.columns["plane"][rows] == "sagittal") & np.isin(sides, ("left", "right"))
    rows, sides = rows[off], sides[off]
    names = np.array([word.partition(" ")[0] for word in words("level", Facts("sagittal"))])
    image = torch.from_numpy(cohort.embeddings[rows])
    probs = probabilities(model.clip, image, [Facts("sagittal")] * len(rows), "level")
    said = ["left" if row[names == "left"].sum() > row[names == "right"].sum() else "right" for row in probs]
    most = max((sides == "left").mean(), (sides == "right").mean()) if len(rows) else 0.0
    return {
        "ensemble": proportion(np.array(said, dtype=object) == sides, cohort.columns["subject"][rows]),
        "most_frequent": round(float(most), 4),
    }


def zero_shot_answers(
    model: BrainCLIP, cohort: Cohort, rows: np.ndarray, question: str, *, wordings: int = WORDINGS
) -> Read:
    """What CLIP says of the slices whose true answer is known."""
    facts = [cohort.facts(int(row)) for row in rows]
    known = [k for k, fact in enumerate(facts) if value_of(question, fact) in answers_to(question, fact)]
    image = torch.from_numpy(cohort.embeddings[rows[known]])
    chosen = [facts[k] for k in known]
    found = probabilities(model.clip, image, chosen, question, wordings=wordings)
    probs = [in_answers(row, question, fact) for row, fact in zip(found, chosen, strict=True)]
    right = [answers_to(question, fact).index(value_of(question, fact)) for fact in chosen]
    return probs, np.array(right, dtype=int), cohort.columns["subject"][rows[known]]


def neighbour_answers(model: BrainCLIP, cohort: Cohort, rows: np.ndarray, index: Index) -> dict[str, Read]:
    """What the neighbours in the index, none of the same person, say of the slices."""
    found: dict[str, tuple[list[np.ndarray], list[int], list[str]]] = {name: ([], [], []) for name in WORDS}
    for row in rows:
        fact, person = cohort.facts(int(row)), cohort.columns["subject"][row]
        allowed = index.columns["subject"] != person
        near = Neighbours(*nearest_facts(index, cohort.embeddings[row], allowed=allowed))
        embedding = torch.from_numpy(cohort.embeddings[row])
        for question in WORDS:
            true, answers = value_of(question, fact), answers_to(question, fact)
            if true in answers:
                found[question][0].append(read_fact(model, embedding, fact, question, near))
                found[question][1].append(answers.index(true))
                found[question][2].append(person)
    return {
        name: (probs, np.array(right, dtype=int), np.array(people, dtype=object))
        for name, (probs, right, people) in found.items()
    }


def read_all(
    model: BrainCLIP, cohorts: Sequence[Cohort], split: str, index: Index
) -> dict[str, dict[str, Read]]:
    """Reader -> question -> its answers to slices of all cohorts together."""
    parts: dict[str, dict[str, list[Read]]] = {reader: {name: [] for name in WORDS} for reader in READERS}
    for cohort in cohorts:
        rows = drawn(cohort, split, VOTES)
        votes = neighbour_answers(model, cohort, rows, index)
        for name in WORDS:
            parts["zero_shot"][name].append(zero_shot_answers(model, cohort, rows, name))
            parts["neighbours"][name].append(votes[name])
    return {
        reader: {name: joined(reads) for name, reads in of_reader.items()}
        for reader, of_reader in parts.items()
    }


def joined(reads: Sequence[Read]) -> Read:
    """Answers to several lots of slices as one."""
    return (
        [row for probs, _, _ in reads for row in probs],
        np.concatenate([right for _, right, _ in reads]),
        np.concatenate([people for _, _, people in reads]),
    )


def calibrated(answers: Mapping[str, Mapping[str, Read]], clip: str, fitted_on: str) -> Calibration:
    """The sharpness of each reader and question with the least loss on these answers."""
    sharpness = {
        reader: {name: round(fit_sharpness(probs, right), 4) for name, (probs, right, _) in reads.items()}
        for reader, reads in answers.items()
    }
    return Calibration(clip, sharpness, fitted_on)


def confidence_figures(
    answers: Mapping[str, Mapping[str, Read]], calibration: Calibration
) -> dict[str, dict[str, dict[str, Any]]]:
    """Reader -> question -> share right, mean confidence and its calibration error, before and after
    calibration, and of the answers that are said (confidence LEAST or more): how many, and how many right.

    error_by_chance: the mean error of as many answers that are right exactly as often as their calibrated
    confidence says. reliability: as calibration.reliability() has it, after calibration.
    """
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    generator = np.random.default_rng(SEED)
    for reader, reads in answers.items():
        figures[reader] = {}
        for name, (probs, right, people) in reads.items():
            hits = np.array([row.argmax() for row in probs], dtype=int) == right
            raw = np.array([row.max() for row in probs])
            exponent = calibration.of(reader, name)
            sure = np.array([sharpened(row, exponent).max() for row in probs])
            said = sure >= LEAST
            chance = [calibration_error(sure, generator.random(len(sure)) < sure) for _ in range(CHANCES)]
            figures[reader][name] = {
                "right": proportion(hits, people),
                "confidence_before": round(float(raw.mean()), 4),
                "confidence_after": round(float(sure.mean()), 4),
                "error_before": round(calibration_error(raw, hits), 4),
                "error_after": bootstrap(error_of(sure, hits), len(hits), people),
                "error_by_chance": round(float(np.mean(chance)), 4),
                "reliability": reliability(sure, hits).round(4).tolist(),
                "sharpness": exponent,
                "said": proportion(said, people),
                "said_right": proportion(hits[said], people[said]),
            }
    return figures


def error_of(confidence: np.ndarray, right: np.ndarray) -> Callable[[np.ndarray], float]:
    """The calibration error of some rows."""
    return lambda rows: calibration_error(confidence[rows], right[rows])


def caption_figures(
    model: BrainCLIP, cohort: Cohort, split: str, index: Index, calibration: Calibration
) -> dict[str, dict[str, Any]]:
    """Reader -> of whole captions, each fact read with what was read before it: facts said in a caption,
    share of them that are right, share of captions with nothing wrong; of the neighbours the mean error of
    millimetres and years. The level of a sagittal slice counts without its side, its millimetres from the
    midline."""
    figures: dict[str, dict[str, Any]] = {}
    rows = drawn(cohort, split, VOTES // 2)
    people = cohort.columns["subject"][rows]
    for reader in READERS:
        counts, right, whole, off_mm, off_years = [], [], [], [], []
        for row in rows:
            fact = cohort.facts(int(row))
            made = describe(
                model,
                torch.from_numpy(cohort.embeddings[row]),
                index=index if reader == "neighbours" else None,
                calibration=calibration,
            )
            said = [one for one in made.answers if one.confidence >= LEAST]
            true = [one.value == value_of(one.question, fact) for one in said]
            counts.append(len(said))
            right.append(float(np.mean(true)) if true else 0.0)
            whole.append(all(true))
            place = fact.position_mm
            if place is not None and fact.plane == "sagittal":
                place = abs(place)
            far = made.position_mm is not None and place is not None
            off_mm.append(abs(made.position_mm[0] - place) if far else np.nan)  # type: ignore[index, operator]
            aged = made.age is not None and "age" in fact.known
            off_years.append(abs(made.age[0] - fact.known["age"]) if aged else np.nan)  # type: ignore[index]
        figures[reader] = {
            "facts": average(np.array(counts, dtype=float), people),
            "right": average(np.array(right), people),
            "nothing_wrong": proportion(np.array(whole), people),
        }
        for name, values in (
            ("position_error_mm", np.array(off_mm)),
            ("age_error_years", np.array(off_years)),
        ):
            known = np.isfinite(values)
            if known.any():
                figures[reader][name] = average(values[known], people[known])
    return figures
