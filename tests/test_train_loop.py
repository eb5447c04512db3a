from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from brainclip.config import TrainingRecipe, as_dict
from brainclip.errors import RecipeError
from brainclip.train.loop import Stage, rate_at, train
from brainclip.weights import read_weights, save_weights

RECIPE = TrainingRecipe(steps=9, batch=4, rate=0.05, warmup=2, save_every=3, device="cpu", weight_decay=0.0)


class Line(nn.Module):
    """Fits y = 2 x + 1 through a dropout layer, so that a step needs its own random state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(1, 1), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.dropout(x)
        error = (self.layer(x) - 2 * x - 1) ** 2
        return error.mean(), {}


def line_stage() -> Stage:
    torch.manual_seed(0)
    objective = Line()

    def batch(step: int) -> dict[str, Tensor]:
        return {"x": torch.randn(RECIPE.batch, 1, generator=torch.Generator().manual_seed(step))}

    return Stage(
        "line", objective, batch, lambda run: save_weights(objective, run / "line.safetensors", dtype=None)
    )


def facts(recipe: TrainingRecipe = RECIPE) -> dict[str, object]:
    return {"recipe": as_dict(recipe), "inputs": {"pairs": "x"}}


def test_stopped_and_resumed_equals_straight_bit_for_bit(tmp_path: Path) -> None:
    train(line_stage(), RECIPE, tmp_path / "straight", facts())
    stopped = TrainingRecipe(**(as_dict(RECIPE) | {"steps": 5}))
    train(line_stage(), stopped, tmp_path / "resumed", facts(stopped))
    train(line_stage(), RECIPE, tmp_path / "resumed", facts())
    straight = read_weights(tmp_path / "straight" / "line.safetensors")
    resumed = read_weights(tmp_path / "resumed" / "line.safetensors")
    assert set(straight) == {"layer.weight", "layer.bias"}
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert not torch.equal(straight["layer.weight"], Line().layer.weight.data)


def test_killed_run_continues_from_its_last_state(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from test_train_loop import RECIPE, facts, line_stage, train\n"
        "stage = line_stage()\n"
        "def batch(step, inner=stage.batch):\n"
        "    if step == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return inner(step)\n"
        "train(replace(stage, batch=batch), RECIPE, Path(sys.argv[1]), facts())\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed")], capture_output=True, check=False
    )
    assert killed.returncode == -9
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] == 6
    train(line_stage(), RECIPE, tmp_path / "killed", facts())
    train(line_stage(), RECIPE, tmp_path / "straight", facts())
    for key, value in read_weights(tmp_path / "straight" / "line.safetensors").items():
        assert torch.equal(value, read_weights(tmp_path / "killed" / "line.safetensors")[key])
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(9))


def test_loss_falls_and_gradients_are_clipped_every_step(tmp_path: Path) -> None:
    recipe = TrainingRecipe(**(as_dict(RECIPE) | {"steps": 120}))
    train(line_stage(), recipe, tmp_path, facts(recipe))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(line["loss"] for line in lines[-20:]) < 0.5 * sum(line["loss"] for line in lines[:20])
    assert all(line["gradient_norm"] > 0 for line in lines)


def test_another_recipe_in_the_same_folder_is_refused_with_both_values(tmp_path: Path) -> None:
    train(line_stage(), RECIPE, tmp_path, facts())
    other = TrainingRecipe(**(as_dict(RECIPE) | {"rate": 0.1}))
    with pytest.raises(RecipeError, match=r"rate = 0\.05, the recipe says 0\.1"):
        train(line_stage(), other, tmp_path, facts(other))


def test_a_run_from_before_a_setting_existed_goes_on_under_its_default_only(tmp_path: Path) -> None:
    train(line_stage(), RECIPE, tmp_path, facts())
    run = json.loads((tmp_path / "run.json").read_text())
    del run["recipe"]["clip_norm"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    train(line_stage(), RECIPE, tmp_path, facts())
    (tmp_path / "run.json").write_text(json.dumps(run))
    other = TrainingRecipe(**(as_dict(RECIPE) | {"clip_norm": 2.0}))
    with pytest.raises(RecipeError, match=r"clip_norm = 1\.0, the recipe says 2\.0"):
        train(line_stage(), other, tmp_path, facts(other))


def test_rate_rises_stays_and_falls() -> None:
    recipe = TrainingRecipe(steps=100, warmup=10, decay=20, rate=1.0)
    rates = [rate_at(step, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[50] == rates[80] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.05)
