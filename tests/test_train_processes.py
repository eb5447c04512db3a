"""Two processes against one: the same losses, states and weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from toy_pairs import write_toy_pairs

from brainclip.errors import RecipeError
from brainclip.train.processes import own_rows, pieces

ROWS = {"x": torch.arange(12.0).reshape(6, 2), "y": torch.arange(6)}


def test_the_rows_of_all_processes_are_the_batch() -> None:
    parts = [
        own_rows(ROWS | {"all": torch.ones(2, 2)}, ("all",), rank=rank, processes=3) for rank in range(3)
    ]
    assert torch.equal(torch.cat([part["x"] for part in parts]), ROWS["x"])
    assert [part["y"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert all(torch.equal(part["all"], torch.ones(2, 2)) for part in parts)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(RecipeError, match="batch = 6 cannot be shared equally among 4 processes"):
        own_rows(ROWS, (), rank=0, processes=4)


def test_pieces_are_the_batch() -> None:
    parts = pieces(ROWS, 4)
    assert [part["y"].tolist() for part in parts] == [[0, 1, 2, 3], [4, 5]]
    assert pieces(ROWS, 0) == [ROWS]


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from brainclip.cli import main
for stage in sys.argv[3].split(","):
    code = main([stage, sys.argv[2], "--set", *sys.argv[4:]])
    if code:
        sys.exit(code)
"""
SETTINGS = ("clip.precision=no", "clip.warmup=1", "decoder.sample_every=0")
STAGES = "clip,vae,prior,decoder"


def launched(folder: Path, processes: int, stages: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """The stages of the tiny recipe on toy pairs, in so many processes."""
    if not (folder / "pairs").exists():
        write_toy_pairs(folder / "pairs" / "simulated")
    (folder / "script.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [
        sys.executable,
        *launcher,
        str(folder / "script.py"),
        str(ROOT),
        str(ROOT / "recipes/tiny.toml"),
    ]
    return subprocess.run(
        [*command, stages, f"folder={folder}", *SETTINGS, *settings],
        capture_output=True,
        text=True,
        check=False,
    )


def losses(folder: Path, stage: str) -> list[float]:
    lines = (folder / stage / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    done = launched(one, 1, STAGES)
    assert done.returncode == 0, done.stderr
    done = launched(two, 2, STAGES, "prior.steps=5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("clip: ") == 1  # the first process alone says so
    done = launched(two, 1, "prior,decoder")  # the prior's other steps in one process
    assert done.returncode == 0, done.stderr
    for stage in STAGES.split(","):
        assert len(losses(two, stage)) == 12
        # sums in another order; the steps of an optimizer carry it on
        assert losses(two, stage) == pytest.approx(losses(one, stage), rel=2e-4), stage
    assert losses(one, "clip")[0] != losses(one, "clip")[1]


def test_split_weights_train_as_whole_ones(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    done = launched(one, 1, STAGES)
    assert done.returncode == 0, done.stderr
    shutil.copytree(one / "pairs", two / "pairs")
    for stage in ("clip", "vae"):  # what the split decoder is trained on
        shutil.copytree(one / stage, two / stage)
    done = launched(two, 2, "prior,decoder", "prior.shard=true", "decoder.shard=true", "decoder.steps=6")
    assert done.returncode == 0, done.stderr
    assert launched(two, 1, "decoder", "decoder.shard=true").returncode == 0  # the other steps unsplit
    for stage in ("prior", "decoder"):
        assert losses(two, stage) == pytest.approx(losses(one, stage), rel=2e-4), stage
    assert (two / "model" / "brainclip.json").is_file()
