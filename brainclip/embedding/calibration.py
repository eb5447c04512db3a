"""How sure an answer is: sharpened or flattened until held-out people agree with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from brainclip.model import BrainCLIP
from brainclip.weights import read_json

KNOWN = Path(__file__).parent / "known"  # calibrations of bundled models, by the hash of their CLIP
BINS = 10


@dataclass(frozen=True)
class Calibration:
    """sharpness: reader ("zero_shot", "neighbours") -> question -> exponent of its probabilities; 1 where not
    known. fitted_on: the people it was fitted on, "" if it was not."""

    clip: str
    sharpness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fitted_on: str = ""

    @classmethod
    def load(cls, model: BrainCLIP) -> Calibration:
        """That of a model, from its folder or a bundled one; one that changes nothing if there is none.

        WeightsError for a damaged file.
        """
        for path in (model.folder / "calibration.json", KNOWN / f"{model.clip.hash}.json"):
            if path.is_file():
                found = cls(**read_json(path))
                if found.clip == model.clip.hash:
                    return found
        return cls(model.clip.hash)

    def save(self, path: Path) -> None:
        """Write the JSON file that load() reads."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def of(self, reader: str, question: str) -> float:
        """The exponent for one reader's answers to a question."""
        return float(self.sharpness.get(reader, {}).get(question, 1.0))


def sharpened(probabilities: np.ndarray, exponent: float) -> np.ndarray:
    """p^exponent, made to sum to 1 again; (K,)."""
    logits = exponent * np.log(np.maximum(probabilities, 1e-12))
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def fit_sharpness(probabilities: Sequence[np.ndarray], right: Sequence[int] | np.ndarray) -> float:
    """The exponent with the least negative log-likelihood of the right answers (Guo et al. 2017, 4.2).

    probabilities: for each slice (K,) of its answers; right: the index of the true one.
    """

    def loss(log_exponent: float) -> float:
        exponent = float(np.exp(log_exponent))
        return -sum(
            float(np.log(max(sharpened(row, exponent)[true], 1e-12)))
            for row, true in zip(probabilities, right, strict=True)
        )

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 3.0), method="bounded").x))


def reliability(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(B, 3) mean confidence, share of right answers and answers, of BINS bins of equal count or fewer.

    confidence: (N,) of the answers given, 0 to 1; right: (N,) bool.
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    return np.array([(confidence[part].mean(), right[part].mean(), len(part)) for part in parts])


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of the confidence from the share of right answers, over the bins of reliability().

    Naeini et al. 2015, with bins of equal count.
    """
    sure, share, count = reliability(confidence, right).T
    return float(count @ np.abs(sure - share) / count.sum())
