"""Baselines of the prior, from text embedding to image embedding: ridge regression and nearest neighbour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from brainclip.errors import PairsError

PENALTIES = tuple(10.0**power for power in range(-6, 3))  # of the mean variance of a text dimension
PART = 0.2  # of the training subjects, by whom the penalty is chosen
SEED = 14


@dataclass(frozen=True)
class Ridge:
    """Linear map of text embeddings (N, D) to image embeddings (N, E), with the means of both taken off."""

    weights: Tensor
    text_mean: Tensor
    image_mean: Tensor
    penalty: float

    def predict(self, text: Tensor) -> Tensor:
        """Image embeddings (N, E) float32, not of unit length."""
        return ((text.double() - self.text_mean) @ self.weights + self.image_mean).float()


def ridge(text: Tensor, image: Tensor, penalty: float) -> Ridge:
    """The ridge regression of image embeddings (N, E) on text embeddings (N, D), in closed form.

    penalty: added to the variance of every text dimension, in units of their mean variance.
    """
    text, image = text.double(), image.double()
    text_mean, image_mean = text.mean(0), image.mean(0)
    centred = text - text_mean
    square = centred.T @ centred / len(text)
    added = penalty * square.trace() / len(square) * torch.eye(len(square), dtype=square.dtype)
    weights = torch.linalg.solve(square + added, centred.T @ (image - image_mean) / len(text))
    return Ridge(weights, text_mean, image_mean, penalty)


def fitted_ridge(text: Tensor, image: Tensor, subjects: np.ndarray) -> Ridge:
    """The ridge regression of all rows, with the penalty that gives a fifth of the subjects the largest mean
    cosine after a fit on the others. subjects: (N,) names, of training slices alone."""
    people = np.random.default_rng(SEED).permutation(np.unique(subjects))
    if len(people) < 2:
        raise PairsError(
            f"{len(people)} training subject; a ridge regression needs two, one of them for its penalty"
        )
    held = torch.from_numpy(np.isin(subjects, people[: max(1, round(PART * len(people)))]))

    def cosine(penalty: float) -> float:
        predicted = ridge(text[~held], image[~held], penalty).predict(text[held])
        return float(functional.cosine_similarity(predicted, image[held]).mean())

    return ridge(text, image, max(PENALTIES, key=cosine))


def nearest_neighbour(text: Tensor, known_text: Tensor, known_image: Tensor) -> Tensor:
    """(N, E) for each text embedding (N, D) the image embedding of the known pair with the nearest text."""
    return known_image[(text @ known_text.T).argmax(1)]
