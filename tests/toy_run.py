"""A whole run folder at toy size: planted pairs, real classes with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from toy_pairs import SIZE, write_toy_pairs
from toys import CLIP, toy_decoder, toy_prior, toy_vae

from brainclip.clip import Clip, new_clip, train_tokenizer
from brainclip.config import load_recipe
from brainclip.evaluate.prompts import prompts
from brainclip.evaluate.sheet import sheet_prompts
from brainclip.layouts.parts import write_part
from brainclip.train.assemble import assemble

RECIPE = """
name = "toy"
folder = "{folder}"
size = 32
spacing_mm = 6.0
[pairs.toy]
[clip]
mix = {{ toy = 1.0 }}
[prior]
mix = {{ toy = 1.0 }}
sampling_steps = 3
[decoder]
mix = {{ toy = 1.0 }}
sampling_steps = 2
[judge]
mix = {{ toy = 1.0 }}
steps = 250
batch = 24
rate = 3e-3
warmup = 20
decay = 80
ema = 0.98
width = 8
device = "cpu"
"""


def toy_run(folder: Path) -> Path:
    """The recipe of a run in `folder` whose stages up to the decoder are there, none of them trained."""
    write_toy_pairs(folder / "pairs" / "toy")
    path = folder / "toy.toml"
    path.write_text(RECIPE.format(folder=folder.as_posix()))
    texts = [row.text for row in [*prompts(200), *sheet_prompts(["T1", "T2", "PD", "FLAIR"])]]
    torch.manual_seed(0)
    clip = new_clip(CLIP, SIZE, train_tokenizer(texts * 3, 1200))
    clip.embedding_mean.normal_(std=0.1)
    clip.embedding_std.fill_(0.1)
    clip.save(folder / "clip")
    clip = Clip.load(folder / "clip")
    toy_prior(clip).save(folder / "prior")
    toy_decoder(clip).save(folder / "decoder")
    write_part(toy_vae(), folder / "vae", None)
    assemble(load_recipe(path))
    return path
