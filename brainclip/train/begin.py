"""What a decoder run begins with: random weights, a published base, or a decoder of an earlier run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brainclip.clip import Clip
from brainclip.config import DecoderRecipe, Recipe, digest
from brainclip.data import PairDataset
from brainclip.decoder import PROJECTION, Decoder
from brainclip.errors import RecipeError, WeightsError
from brainclip.layouts import base_folder
from brainclip.layouts.layout import Layout, factor
from brainclip.layouts.mini import Mini
from brainclip.layouts.parts import load_autoencoder
from brainclip.layouts.projection import Unwhitening
from brainclip.schedules import load_scheduler, new_scheduler, objective_of
from brainclip.train.checks_decoder import check_mini
from brainclip.train.loop import started_from
from brainclip.weights import DIFFUSERS_WEIGHTS, hash_file

MEASURED = 8  # batches of 32 training slices, of which statistics are taken


def begin_decoder(recipe: Recipe, clip: Clip, data: PairDataset, device: torch.device) -> Decoder:
    """The decoder, on the device, with gradients for what is to be trained; what the data decides is
    measured."""
    stage = recipe.decoder
    vae = load_autoencoder(Path(recipe.folder) / "vae") if _own_vae(recipe) else None
    if not (stage.start or stage.base):
        check_mini(stage, data.size, factor(vae))
    decoder = _started(stage, clip, vae) if stage.start else Decoder.new(stage, clip, vae, size=data.size)
    layout = decoder.layout
    if stage.train == "projection":
        _check_frozen(stage, layout)
    trained = layout.trained if stage.train == "full" else (PROJECTION,)
    decoder.requires_grad_(False)
    for name in trained:
        layout.parts[name].requires_grad_(True)
    decoder.to(device)
    learned = stage.start and PROJECTION in layout.parts  # the scale, by the UNet of an earlier run
    if "scale" in layout.parts and "unet" in trained and not learned:
        layout.parts["scale"].measure(layout.encode(images) for images in _slices(data, stage))
    projection = layout.parts.get(PROJECTION)
    if isinstance(projection, Unwhitening):
        projection.norm.copy_(mean_norm(clip.to(device), _slices(data, stage)))
    return decoder


def begun_from(recipe: Recipe) -> dict[str, str]:
    """Hashes of the weights a run begins with, for its run.json."""
    stage, found = recipe.decoder, {}
    if _own_vae(recipe):
        found["vae"] = hash_file(Path(recipe.folder) / "vae" / DIFFUSERS_WEIGHTS)
    if stage.base:
        files = sorted((base_folder(stage.base) / "unet").glob("*.safetensors"))
        found["base"] = digest([hash_file(path) for path in files])
    return found | started_from(stage.start, f"unet/{DIFFUSERS_WEIGHTS}")


def _own_vae(recipe: Recipe) -> bool:
    """Whether the decoder works over the stage vae: mini does, and a base whose autoencoder is adapted."""
    if recipe.decoder.start and (Path(recipe.decoder.start) / "model_index.json").is_file():
        return False  # it has its own
    return not recipe.decoder.base or bool(recipe.vae.base)


def _started(stage: DecoderRecipe, clip: Clip, vae: Any) -> Decoder:
    """The decoder of an earlier run for the embeddings of this CLIP, mini's over this autoencoder."""
    folder = Path(stage.start)
    layout = Decoder.load(folder, clip, retrain=True).layout
    scheduler = new_scheduler(stage, load_scheduler(folder / "scheduler"))
    if isinstance(layout, Mini):
        fresh = Mini.new(stage, len(clip.embedding_mean), vae, size=layout.size)
        for part in ("unet", "expected"):
            ours, theirs = fresh.parts[part].state_dict(), layout.parts[part].state_dict()
            if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
                raise WeightsError(
                    f"{folder}: its {part} is of another shape than [decoder] and the autoencoder of this "
                    f"recipe make it; give the same channels, layers and widths, or no start"
                )
            fresh.parts[part] = layout.parts[part]
        return Decoder(fresh, scheduler, {"clip": clip.hash})
    projection = layout.parts[PROJECTION]
    if projection.config["embedding"] != len(clip.embedding_mean):
        raise WeightsError(
            f"{folder}: its projection takes embeddings of {projection.config['embedding']} numbers, this "
            f"CLIP's have {len(clip.embedding_mean)}; begin with the base instead"
        )
    if isinstance(projection, Unwhitening):
        projection.set_whitening(clip.embedding_mean, clip.embedding_std)
    return Decoder(layout, scheduler, {"clip": clip.hash})


def _check_frozen(stage: DecoderRecipe, layout: Layout) -> None:
    """RecipeError where a UNet that keeps its weights should do what it has not learned."""
    folder = base_folder(stage.base) if stage.base else Path(stage.start)
    if PROJECTION not in layout.parts:
        raise RecipeError(
            f"decoder.train = 'projection': {folder} is a decoder of mini and has none; give train = 'full'"
        )
    learned = objective_of(load_scheduler(folder / "scheduler"))
    if stage.objective not in ("", learned):
        raise RecipeError(
            f"decoder.objective = {stage.objective!r}: the UNet of {folder} predicts {learned}, and "
            f"train = 'projection' leaves it as it is; give objective = {learned!r} or train = 'full'"
        )


def _slices(data: PairDataset, stage: DecoderRecipe) -> Iterator[Tensor]:
    """Slices (32, 1, H, W) of the training split, in the shares of the recipe's mix."""
    for k in range(MEASURED):
        yield data.images(data.draw(32, stage.seed, 2**31 + k))


@torch.no_grad()
def mean_norm(clip: Clip, slices: Iterable[Tensor]) -> Tensor:
    """Mean length of the image tower's outputs, before they are made unit vectors, on these slices."""
    norms = []
    for images in slices:
        pixels = clip.layout.pixels(images.to(clip.embedding_mean.device))
        norms.append(clip.layout.encode_image(clip.towers, pixels).float().norm(dim=-1))
    return torch.cat(norms).mean()
