from __future__ import annotations

import pytest
import torch

from brainclip.config import TrainingRecipe
from brainclip.errors import RecipeError
from brainclip.train.optimizers import OPTIMIZERS, OPTIONAL, new_optimizer

STEPS = 200


def test_weight_decay_is_on_matrices_alone() -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = new_optimizer(TrainingRecipe(weight_decay=0.3), list(layer.parameters()))
    decayed, plain = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 3)] and decayed["weight_decay"] == 0.3
    assert [p.shape for p in plain["params"]] == [(2,)] and plain["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        *(("adamw", 0.05), ("adafactor", 0.05), ("prodigy", 1.0), ("dadaptation", 1.0)),
        ("adamw8bit", 0.05),  # bitsandbytes keeps moments of so few weights in 32 bits
    ],
)
def test_each_optimizer_finds_the_weights_of_a_line(name: str, rate: float) -> None:
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name][2])
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    inputs, true = torch.randn(64, 3), torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.5, -1.0]])
    optimizer = new_optimizer(
        TrainingRecipe(optimizer=name, rate=rate, weight_decay=0.0), list(layer.parameters())
    )
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(layer(inputs), inputs @ true.T + 0.25).backward()
        optimizer.step()
    assert torch.allclose(layer.weight, true, atol=0.1)
    assert torch.allclose(layer.bias, torch.full((2,), 0.25), atol=0.1)


def test_an_unknown_optimizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"optimizer = 'adam': possible are adamw, adamw8bit"):
        new_optimizer(TrainingRecipe(optimizer="adam"), list(torch.nn.Linear(2, 2).parameters()))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("adamw", "adafactor")])
def test_a_missing_package_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def absent(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(RecipeError, match=rf"optimizer = '{name}' needs the package \w+; pip install"):
        new_optimizer(TrainingRecipe(optimizer=name), list(torch.nn.Linear(2, 2).parameters()))


def test_a_small_rate_for_an_optimizer_that_finds_its_own_is_warned_of() -> None:
    pytest.importorskip("prodigyopt")
    with pytest.warns(UserWarning, match="finds its rate itself and multiplies it by rate = 0.001"):
        new_optimizer(
            TrainingRecipe(optimizer="prodigy", rate=1e-3), list(torch.nn.Linear(2, 2).parameters())
        )
