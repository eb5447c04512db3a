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
from safetensors.torch import load_file
from toy_bases import toy_lab
from toy_pairs import write_toy_pairs

from brainclip.config import load_recipe
from brainclip.errors import RecipeError
from brainclip.train.decoder import train_decoder
from brainclip.train.processes import own_rows, pieces
from brainclip.weights import DIFFUSERS_WEIGHTS

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
for word in sys.argv[3].split(","):
    stage, _, adapter = word.partition("/")
    named = ["--adapter", adapter] if adapter else []
    code = main([stage, sys.argv[2], *named, "--set", *sys.argv[4:]])
    if code:
        sys.exit(code)
"""
SETTINGS = ("clip.precision=no", "clip.warmup=1", "decoder.sample_every=0")
STAGES = "clip,vae,prior,decoder"
ADAPTER = "decoder/adapters/small"


def launched(folder: Path, processes: int, stages: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """The stages (or decoder/NAME of an adapter) of the tiny recipe on toy pairs, in so many processes."""
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
    done = launched(one, 1, f"{STAGES},decoder/small")
    assert done.returncode == 0, done.stderr
    done = launched(two, 2, f"{STAGES},decoder/small", "prior.steps=5", "decoder.cache=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("clip: ") == 1  # the first process alone says so
    done = launched(two, 1, "prior,decoder")  # the prior's other steps in one process
    assert done.returncode == 0, done.stderr
    for stage in STAGES.split(","):
        assert len(losses(two, stage)) == 12
        # sums in another order; the steps of an optimizer carry it on
        assert losses(two, stage) == pytest.approx(losses(one, stage), rel=2e-4), stage
    assert losses(two, ADAPTER) == pytest.approx(losses(one, ADAPTER), rel=2e-4)
    assert losses(one, "clip")[0] != losses(one, "clip")[1]


def test_a_decoder_that_has_nothing_to_train_is_written_once_by_two_processes(tmp_path: Path) -> None:
    """As recipes/base.toml has it; its adapter is then trained over it, split among the processes."""
    lab = toy_lab(tmp_path / "lab")
    (lab.folder / "pairs" / "toy").rename(lab.folder / "pairs" / "simulated")
    base = (f"decoder.base={lab.bases['kandinsky']}", "decoder.train=projection", "decoder.project=false")
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes, further in ((one, 1, ()), (two, 2, ("adapter.small.shard=true",))):
        shutil.copytree(lab.folder, folder)
        done = launched(folder, processes, "decoder,decoder/small", *base, *further)
        assert done.returncode == 0, done.stderr
        assert not list((folder / "decoder").rglob("*.tmp"))
    files = [
        {
            path.relative_to(run): path.read_bytes()
            for path in sorted((run / "decoder/unet").rglob("*.safetensors"))
        }
        for run in (one, two)
    ]
    assert files[0] == files[1] and files[0]
    assert losses(two, ADAPTER) == pytest.approx(losses(one, ADAPTER), rel=2e-4)
    with pytest.raises(RecipeError, match="holds a run with seed = 0, the recipe says 1"):
        train_decoder(load_recipe(ROOT / "recipes/tiny.toml", [f"folder={two}", *base, "decoder.seed=1"]))


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


def test_split_sdxl_with_text_trains_as_a_whole_one(tmp_path: Path) -> None:
    """Its autoencoder and text encoders are frozen and split as well; they work within the objective."""
    lab = toy_lab(tmp_path / "lab")
    one, two = tmp_path / "one", tmp_path / "two"
    base = f"decoder.base={lab.bases['stable-diffusion-xl']}"
    settings = [base, "decoder.text=true", "decoder.steps=2", "decoder.ema=0.5"]
    for folder in (one, two):
        shutil.copytree(lab.folder, folder)
        (folder / "pairs" / "toy").rename(folder / "pairs" / "simulated")
    train_decoder(
        load_recipe(ROOT / "recipes/tiny.toml", [f"folder={one}", "decoder.sample_every=0", *settings])
    )
    done = launched(two, 2, "decoder", "decoder.shard=true", *settings)
    assert done.returncode == 0, done.stderr
    assert losses(two, "decoder") == pytest.approx(losses(one, "decoder"), rel=2e-4)
    for part in ("unet", "projection"):
        ours, theirs = (load_file(folder / "decoder" / part / DIFFUSERS_WEIGHTS) for folder in (two, one))
        for key, value in theirs.items():  # one unit in the last place of half precision, or of Adam
            torch.testing.assert_close(ours[key].float(), value.float(), rtol=2e-3, atol=2e-4)
    assert (two / "model" / "brainclip.json").is_file()
