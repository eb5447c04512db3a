"""Every stage, stopped in the middle of a step whose rows come in pieces, goes on to the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from toy_pairs import write_toy_pairs

from brainclip.clip import Clip
from brainclip.train import clip as stage_clip
from brainclip.train import run_stage
from brainclip.train.training import Training

TINY = ROOT / "recipes" / "tiny.toml"
TABLES = ("clip", "vae", "prior", "decoder", "adapter.small", "pixel")
RUNNING = ("steps=4", "batch=8", "piece=3", "save_every=1", "warmup=1", "sample_every=0", "device=cpu")
SETTINGS = [
    *(f"{table}.{setting}" for table in TABLES for setting in RUNNING),
    *(
        "pixel.model=unet-tiny",
        "pixel.mix={simulated=1}",
        "decoder.min_snr=5",
        "decoder.objective=v_prediction",
    ),
    *("prior.min_snr=5", "decoder.offset_noise=0.1", "decoder.pyramid_noise=0.3", "clip.loss=siglip"),
]
ORDER = ("clip", "vae", "prior", "decoder", "decoder/small", "pixel")


def run(folder: Path, stage: str) -> Path:
    """The folder in which a stage's run is; where it is finished, nothing changes."""
    name, _, adapter = stage.partition("/")
    run_stage(name, TINY, overrides=[f"folder={folder}", *SETTINGS], adapter=adapter or None)
    return folder / place(stage)


def place(stage: str) -> str:
    return stage.replace("/", "/adapters/")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    write_toy_pairs(folder / "pairs" / "simulated", subjects=(3, 2, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_clip, "CORPUS", 200)
        for stage in ORDER:
            run(folder, stage)
    return folder


def interrupted(call: Any, *, at: int) -> Any:
    """`call`, stopped as by Ctrl-C when it is made for this time."""
    calls = []

    def call_or_stop(*given: Any, **named: Any) -> Any:
        calls.append(0)
        if len(calls) == at:
            raise KeyboardInterrupt
        return call(*given, **named)

    return call_or_stop


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_stopped_within_the_pieces_of_a_batch_resumes_bit_for_bit(
    stage: str, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_clip, "CORPUS", 200)
    stopped = tmp_path / "stopped"
    left = [place(stage).rpartition("/")[2], "embeddings", "model"]
    shutil.copytree(straight, stopped, ignore=shutil.ignore_patterns(*left))
    with monkeypatch.context() as patch:
        # of the third step two of three pieces are done; of clip, which embeds them twice, four of six
        if stage == "clip":
            patch.setattr(Clip, "encode_image", interrupted(Clip.encode_image, at=2 * 6 + 5))
        else:
            patch.setattr(Training, "backward", interrupted(Training.backward, at=2 * 3 + 3))
        with pytest.raises(KeyboardInterrupt):
            run(stopped, stage)
    folder = stopped / place(stage)
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["step"] == 2
    if stage == "decoder/small":  # of a large base the rest would be gigabytes a time
        weights = [key for key in state["objective"] if key.endswith((".weight", ".bias"))]
        assert weights and all("lora_" in key for key in weights)
    assert not list(folder.glob("*.safetensors"))
    run(stopped, stage)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    assert files
    for file in files:
        ours, theirs = load_file(folder / file), load_file(straight / place(stage) / file)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), (file, key)
