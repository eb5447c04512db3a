"""Textual inversion: the embeddings of a new word, for a concept of one's own, over a decoder that reads
captions."""

from __future__ import annotations

from pathlib import Path

import torch

from brainclip.clip import Clip
from brainclip.config import Recipe, as_dict
from brainclip.decoder import Decoder
from brainclip.schedules import check_weights, objective_of
from brainclip.train.checks_decoder import check_inversion
from brainclip.train.decoder import DecoderObjective, decoder_batches, prepare, sample_sheet, slices_of
from brainclip.train.loop import Stage, train
from brainclip.train.processes import device_of


def train_inversion(recipe: Recipe, name: str) -> dict[str, float]:
    """Train the token of [inversion.<name>] of a recipe into <folder>/decoder/inversions/<name>."""
    check_inversion(recipe, name)
    stage, folder = recipe.inversion[name], Path(recipe.folder)
    device = device_of(stage)
    clip = Clip.load(folder / "clip").requires_grad_(False)
    decoder = Decoder.load(folder / "decoder", clip).to(device)
    check_weights(stage, objective_of(decoder.scheduler))
    decoder.add_inversion(name, stage)
    clip.to(device)
    data, whitened = slices_of(recipe, stage, clip)
    held_out, held_out_whitened = slices_of(recipe, stage, clip, "validation")
    clip.cpu()  # its work is done
    torch.manual_seed(stage.seed)
    decoder.to(device)
    prepare(decoder, stage)
    tokens = (stage.token,)

    def sample(run: Path, step: int) -> None:
        sample_sheet(decoder, held_out, held_out_whitened, run, step, recipe.decoder, tokens=tokens)

    card = {"base": decoder.hash, "vectors": stage.vectors, "word": stage.word, "pairs": data.hash}

    def save(run: Path) -> None:
        decoder.save_inversion(stage.token, run, card | {"mix": stage.mix})

    objective = DecoderObjective(decoder, min_snr=stage.min_snr)
    batch = decoder_batches(decoder, data, whitened, stage, folder / "latents", tokens=tokens)
    inputs = {"pairs": data.hash, "clip": clip.hash, "decoder": decoder.hash}
    run = folder / "decoder" / "inversions" / name
    facts = {"recipe": as_dict(stage), "inputs": inputs}
    return train(Stage(f"inversion {name}", objective, batch, save, sample), stage, run, facts)
