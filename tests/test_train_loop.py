from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from brainclip.config import TrainingRecipe, as_dict
from brainclip.errors import RecipeError, WeightsError
from brainclip.train.loop import Stage, rate_at, train
from brainclip.train.optimizers import OPTIONAL
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


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
import torch
from test_train_loop import RECIPE, facts, line_stage, train

def die():
    os.kill(os.getpid(), signal.SIGKILL)

stage, whole = line_stage(), torch.save
if sys.argv[3] == "step":
    def batch(step, inner=stage.batch):
        return die() if step == 7 else inner(step)
    stage = replace(stage, batch=batch)
elif sys.argv[3] == "piece":
    def forward(x, inner=stage.objective.forward, calls=[]):
        calls.append(0)
        return die() if len(calls) == 7 * 2 + 2 else inner(x)
    stage.objective.forward = forward
else:
    def save(state, file):
        if state["step"] < 9:
            return whole(state, file)
        file.write(b"half of it")
        file.flush()
        die()
    torch.save = save
train(stage, replace(RECIPE, piece=2), Path(sys.argv[2]), facts())
"""


@pytest.mark.parametrize("where", ["step", "piece", "state"])
def test_a_killed_run_continues_from_its_last_state(tmp_path: Path, where: str) -> None:
    """Killed between steps, within a step whose gradients are summed, while the state is written."""
    run = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(run), where]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 6
    recipe = replace(RECIPE, piece=2)
    train(line_stage(), recipe, run, facts())
    train(line_stage(), recipe, tmp_path / "straight", facts())
    for key, value in read_weights(tmp_path / "straight" / "line.safetensors").items():
        assert torch.equal(value, read_weights(run / "line.safetensors")[key])
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(9))


def test_a_state_without_a_trained_weight_or_with_another_is_refused(tmp_path: Path) -> None:
    longer = replace(RECIPE, steps=RECIPE.steps + 1)
    train(line_stage(), RECIPE, tmp_path, facts())
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for wrong in (
        {"layer.weight": state["objective"]["layer.weight"]},
        state["objective"] | {"x": torch.ones(1)},
    ):
        torch.save(state | {"objective": wrong}, tmp_path / "state.pt")
        with pytest.raises(
            WeightsError, match=r"does not fit its recipe .*1 weights differ, first '(layer.bias|x)'"
        ):
            train(line_stage(), longer, tmp_path, facts(longer))


def test_pieces_of_a_batch_give_its_gradient(tmp_path: Path) -> None:
    for piece in (0, 1, 3):  # 3 and the one row that is left
        stage = line_stage()
        stage.objective.dropout.p = 0.0
        train(stage, replace(RECIPE, piece=piece), tmp_path / str(piece), facts())
    whole = read_weights(tmp_path / "0" / "line.safetensors")
    for piece in ("1", "3"):
        for key, value in read_weights(tmp_path / piece / "line.safetensors").items():
            torch.testing.assert_close(value, whole[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "rate"), [("adafactor", 0.05), ("prodigy", 1.0), ("dadaptation", 1.0), ("adamw8bit", 0.05)]
)
def test_every_optimizer_is_resumed_bit_for_bit(tmp_path: Path, name: str, rate: float) -> None:
    if name != "adafactor":
        pytest.importorskip(OPTIONAL[name][2])
    recipe = replace(RECIPE, optimizer=name, rate=rate)
    train(line_stage(), recipe, tmp_path / "straight", facts(recipe))
    stopped = replace(recipe, steps=5)
    train(line_stage(), stopped, tmp_path / "resumed", facts(stopped))
    train(line_stage(), recipe, tmp_path / "resumed", facts(recipe))
    for key, value in read_weights(tmp_path / "straight" / "line.safetensors").items():
        assert torch.equal(value, read_weights(tmp_path / "resumed" / "line.safetensors")[key])


def test_a_longer_run_says_what_it_will_take_and_how_far_off_that_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(RECIPE, steps=60)
    train(line_stage(), recipe, tmp_path / "run", facts(recipe))
    said = capsys.readouterr().err
    assert "60 steps on cpu: about 0." in said
    assert "line: took 0." in said
    numbers = json.loads((tmp_path / "run" / "estimate.json").read_text())
    assert (
        0.05 < numbers["expected"]["seconds"] / numbers["taken"]["seconds"] < 20
    )  # a tenth of a second, shared
    assert 100 < numbers["taken"]["memory_mb"] < 20_000
    straight = tmp_path / "straight"
    for steps in (30, 60):  # neither part is long enough for trial passes
        part = replace(RECIPE, steps=steps)
        train(line_stage(), part, straight, facts(part))
    for key, value in read_weights(straight / "line.safetensors").items():
        assert torch.equal(value, read_weights(tmp_path / "run" / "line.safetensors")[key])


def test_trial_passes_leave_the_statistics_of_a_batch_norm(tmp_path: Path) -> None:
    def seen(steps: int) -> int:
        objective = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
        objective.forward = lambda x: (objective[1](objective[0](x)).square().mean(), {})
        recipe = replace(RECIPE, steps=steps)
        stage = Stage("norm", objective, line_stage().batch, lambda run: None)
        train(stage, recipe, tmp_path / str(steps), facts(recipe))
        return int(objective[0].num_batches_tracked)

    assert (seen(10), seen(60)) == (10, 60)  # only the longer run is estimated first
    assert not (tmp_path / "10" / "estimate.json").exists() and (tmp_path / "60" / "estimate.json").exists()


def test_a_tracker_is_told_each_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recipe = replace(RECIPE, track=("tensorboard",))
    train(line_stage(), recipe, tmp_path, facts(recipe))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "brainclip"))
    events.Reload()
    told = {event.step: event.value for event in events.Scalars("loss")}
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert told == pytest.approx({line["step"]: line["loss"] for line in logged})


def test_trackers_are_named_and_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(RECIPE, track=("mlflow",))
    with pytest.raises(RecipeError, match="track = 'mlflow': possible are tensorboard, trackio, wandb"):
        train(line_stage(), other, tmp_path, facts(other))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    absent = replace(RECIPE, track=("wandb",))
    with pytest.raises(RecipeError, match="needs the package wandb; pip install wandb"):
        train(line_stage(), absent, tmp_path, facts(absent))


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


def test_stages_of_one_program_may_differ_in_precision(tmp_path: Path) -> None:
    steps = []
    for precision in ("no", "bf16", "no"):
        recipe = replace(RECIPE, precision=precision, steps=3)
        stage, kinds = line_stage(), []
        stage.objective.layer.register_forward_hook(lambda _, __, out, kinds=kinds: kinds.append(out.dtype))
        train(stage, recipe, tmp_path / f"{len(steps)}", facts(recipe))
        steps.append(set(kinds))
    assert steps == [{torch.float32}, {torch.bfloat16}, {torch.float32}]
