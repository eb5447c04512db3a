"""Ridge regression and nearest neighbour on made-up embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from brainclip.errors import PairsError
from brainclip.evaluate.baselines import PENALTIES, fitted_ridge, nearest_neighbour, ridge
from brainclip.evaluate.embeddings import _among


def linear_pairs(noise: float, n: int = 400) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Texts (n, 6), images (n, 9) that are a linear map of them and noise, and subjects of 10 slices."""
    generator = torch.Generator().manual_seed(0)
    text = functional.normalize(torch.randn(n, 6, generator=generator), dim=1)
    image = text @ torch.randn(6, 9, generator=generator) + 2 + noise * torch.randn(n, 9, generator=generator)
    return text, image, np.array([f"s{k // 10}" for k in range(n)])


def test_ridge_solves_the_least_squares_with_rows_added_for_the_penalty() -> None:
    text, image, _ = linear_pairs(0.3)
    found = ridge(text, image, 0.1)
    x, y = text.double() - text.double().mean(0), image.double() - image.double().mean(0)
    variance = x.square().mean()
    rows = (0.1 * variance * len(x)).sqrt() * torch.eye(6, dtype=torch.float64)
    wanted = torch.linalg.lstsq(torch.cat([x, rows]), torch.cat([y, torch.zeros(6, 9)])).solution
    assert torch.allclose(found.weights, wanted)
    assert torch.allclose(found.predict(text).mean(0), image.mean(0), atol=1e-5)


def test_ridge_wins_where_the_image_is_a_linear_map_of_the_text() -> None:
    text, image, subjects = linear_pairs(0.3)
    known, held = slice(0, 300), slice(300, 400)
    found = fitted_ridge(text[known], image[known], subjects[known])
    neighbour = nearest_neighbour(text[held], text[known], image[known])
    cosines = {
        name: float(functional.cosine_similarity(predicted, image[held]).mean())
        for name, predicted in {
            "ridge": found.predict(text[held]),
            "neighbour": neighbour,
            "mean": image[known].mean(0).expand(100, 9),
        }.items()
    }
    assert cosines["ridge"] > max(cosines["neighbour"], cosines["mean"]) + 0.01


def test_penalty_is_small_for_a_clear_map_and_large_for_noise() -> None:
    text, image, subjects = linear_pairs(0.0)
    assert fitted_ridge(text, image, subjects).penalty == PENALTIES[0]
    noise = torch.randn(400, 9, generator=torch.Generator().manual_seed(1)) + 2
    assert fitted_ridge(text, noise, subjects).penalty >= 10
    with pytest.raises(PairsError, match="1 training subject"):
        fitted_ridge(text, image, np.array(["one"] * 400))


def test_the_penalty_is_chosen_on_people_who_are_not_fitted() -> None:
    """Every subject has a text and an image of its own: within one there is a map, between them none."""
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(40, 30, generator=generator).repeat_interleave(10, 0)
    image = torch.randn(40, 9, generator=generator).repeat_interleave(10, 0) + 2
    subjects = np.array([f"s{k // 10}" for k in range(400)])
    assert fitted_ridge(text, image, subjects).penalty >= 1
    slices = np.array([f"{k}" for k in range(400)])  # as if each were someone else: a person is in both parts
    assert fitted_ridge(text, image, slices).penalty < 1


def test_nearest_neighbour_gives_the_image_of_the_nearest_text() -> None:
    known = torch.eye(3)
    images = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    asked = functional.normalize(torch.tensor([[0.1, 0.9, 0.2], [0.0, 0.1, 0.8]]), dim=1)
    assert torch.equal(nearest_neighbour(asked, known, images), images[[1, 2]])


def test_spread_is_the_mean_cosine_of_different_samples() -> None:
    samples = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(3))
    people, rows = np.array(["a", "b", "c"]), np.array([True, False, True])
    wanted = []
    for k in (0, 2):
        unit = functional.normalize(samples[:, k], dim=1)
        wanted.append(float((unit @ unit.T)[~torch.eye(4, dtype=torch.bool)].mean()))
    figure = _among(samples, rows, people)
    assert figure["value"] == pytest.approx(np.mean(wanted), abs=1e-4) and figure["n"] == 2
    assert _among(samples[:1].expand(4, 3, 5), rows, people)["value"] == 1.0
