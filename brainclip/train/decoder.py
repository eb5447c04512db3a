"""Stage decoder: diffusion in latent space, given the image embedding; and LoRA adapters for other scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from brainclip.clip import Clip
from brainclip.config import DecoderRecipe, DenoisingRecipe, Recipe, as_dict
from brainclip.data import PairDataset, training_data
from brainclip.decoder import Decoder
from brainclip.errors import RecipeError
from brainclip.schedules import check_weights, objective_of, training_scheduler
from brainclip.train.begin import begin_decoder, begun_from
from brainclip.train.checks import check_decoder
from brainclip.train.embeddings import whitened_embeddings
from brainclip.train.loop import Batch, Stage, train
from brainclip.train.objectives import coloured, draw_times, noised
from brainclip.weights import write_json

SHOWN = 8  # pictures in a training sample


class DecoderObjective(nn.Module):
    """Squared error of what the network predicts, plus what else its layout trains, each with its own
    gradient."""

    def __init__(self, decoder: Decoder, *, min_snr: float = 0.0) -> None:
        super().__init__()
        self.decoder, self.min_snr = decoder, min_snr
        self.name = objective_of(decoder.scheduler)
        self.scheduler = training_scheduler(decoder.scheduler)

    def forward(
        self, latents: Tensor, noise: Tensor, time: Tensor, whitened: Tensor, **tokens: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        layout = self.decoder.layout
        conditions = layout.conditions(whitened, **tokens)
        noisy, target, weight = noised(self.scheduler, latents, noise, time, min_snr=self.min_snr)
        predicted = layout.predict(noisy, time, conditions).float()
        error = (weight * (predicted - target).square().mean((1, 2, 3))).mean()
        losses = {self.name: error} | layout.further_losses(conditions, latents)
        return torch.stack(list(losses.values())).sum(), {key: loss.detach() for key, loss in losses.items()}


def decoder_batches(
    decoder: Decoder, data: PairDataset, whitened: Tensor, stage: DenoisingRecipe
) -> Callable[[int], Batch]:
    """The batches of a decoder or adapter run, each a function of (seed, step) alone."""
    captions = [pair.captions or (pair.text,) for pair in data.pairs]
    for row in captions:
        decoder.layout.tokens(row)  # one too long is found now, and not after a day

    @torch.no_grad()
    def batch(step: int) -> Batch:
        indices = data.draw(stage.batch, stage.seed, step)
        generator = np.random.default_rng([stage.seed, step, 1])
        latents = decoder.layout.latents(data.images(indices))
        noise = torch.from_numpy(generator.standard_normal(tuple(latents.shape), dtype=np.float32))
        time = draw_times(generator, decoder.scheduler, len(indices))
        conditions = whitened[torch.from_numpy(indices)].clone()
        dropped = generator.random(len(indices)) < stage.embedding_dropout
        conditions[torch.from_numpy(dropped)] = 0
        said = [
            "" if dropped[row] else captions[index][generator.integers(len(captions[index]))]
            for row, index in enumerate(indices)
        ]
        noise = coloured(noise, [stage.seed, step], stage)
        tokens = decoder.layout.tokens(said)
        return {"latents": latents, "noise": noise, "time": time, "whitened": conditions} | tokens

    return batch


def sample_sheet(
    decoder: Decoder, data: PairDataset, whitened: Tensor, run: Path, step: int, recipe: DecoderRecipe
) -> None:
    """samples/<step>.png: held-out slices above, pictures decoded from their true embeddings below."""
    areas = np.array([sum(pair.facts.regions.values()) for pair in data.pairs])
    large = np.flatnonzero(areas >= np.median(areas))  # the brain's ends show little
    chosen = large[np.linspace(0, len(large) - 1, SHOWN).astype(int)]
    made = decoder.sample(
        whitened[chosen],
        list(range(SHOWN)),
        steps=recipe.sampling_steps,
        guidance=recipe.guidance,
        captions=[data.pairs[row].text for row in chosen],
    )
    rows = [torch.cat(list(images[:, 0]), 1) for images in (data.images(chosen), made)]
    path = run / "samples" / f"{step:07d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.cat(rows) * 255).round().byte().numpy()).save(path)


def _prepare(decoder: Decoder, stage: DenoisingRecipe) -> None:
    """Set the UNet up for training: activations kept or not, and attention as plain matrix products where it
    is trained on a CPU: the fused kernel's backward pass is so slow there that a step takes a quarter
    longer."""
    unet = decoder.layout.parts["unet"]
    if stage.checkpointing:
        unet.enable_gradient_checkpointing()
    if stage.device == "cpu" or not torch.cuda.is_available():
        unet.set_default_attn_processor()


def train_decoder(recipe: Recipe) -> dict[str, float]:
    """Train the decoder stage of a recipe into <folder>/decoder."""
    stage, folder = recipe.decoder, Path(recipe.folder)
    check_decoder(recipe)
    clip = Clip.load(folder / "clip").requires_grad_(False)
    data, held_out = training_data(recipe, stage), training_data(recipe, stage, "validation")
    whitened = whitened_embeddings(clip, data, folder / "embeddings")
    held_out_whitened = whitened_embeddings(clip, held_out, folder / "embeddings")
    torch.manual_seed(stage.seed)
    decoder = begin_decoder(recipe, clip, data)
    check_weights(stage, objective_of(decoder.scheduler))
    _prepare(decoder, stage)

    def sample(run: Path, step: int) -> None:
        sample_sheet(decoder, held_out, held_out_whitened, run, step, stage)

    facts = {"recipe": as_dict(stage), "inputs": {"pairs": data.hash, "clip": clip.hash} | begun_from(recipe)}
    if not any(parameter.requires_grad for parameter in decoder.parameters()):
        decoder.save(
            folder / "decoder"
        )  # the base takes this CLIP as it is: nothing to train before an adapter
        write_json(folder / "decoder" / "run.json", facts)
        return {}
    objective = DecoderObjective(decoder, min_snr=stage.min_snr)
    batch = decoder_batches(decoder, data, whitened, stage)
    return train(Stage("decoder", objective, batch, decoder.save, sample), stage, folder / "decoder", facts)


def train_adapter(recipe: Recipe, name: str) -> dict[str, float]:
    """Train the LoRA adapter [adapter.<name>] of a recipe into <folder>/decoder/adapters/<name>."""
    if name not in recipe.adapter:
        known = ", ".join(recipe.adapter) or "none"
        raise RecipeError(f"recipe {recipe.name!r} has no table [adapter.{name}]; it has: {known}")
    stage, folder = recipe.adapter[name], Path(recipe.folder)
    clip = Clip.load(folder / "clip").requires_grad_(False)
    decoder = Decoder.load(folder / "decoder", clip)
    check_weights(stage, objective_of(decoder.scheduler))
    data, held_out = training_data(recipe, stage), training_data(recipe, stage, "validation")
    whitened = whitened_embeddings(clip, data, folder / "embeddings")
    held_out_whitened = whitened_embeddings(clip, held_out, folder / "embeddings")
    torch.manual_seed(stage.seed)
    decoder.add_adapter(name, stage)
    _prepare(decoder, stage)

    def sample(run: Path, step: int) -> None:
        sample_sheet(decoder, held_out, held_out_whitened, run, step, recipe.decoder)

    card = {"base": decoder.hash, "rank": stage.rank, "alpha": stage.alpha, "pairs": data.hash}
    card |= {"modalities": list(stage.modalities), "default": stage.default, "mix": stage.mix}

    def save(run: Path) -> None:
        decoder.save_adapter(name, run, card)

    facts = {
        "recipe": as_dict(stage),
        "inputs": {"pairs": data.hash, "clip": clip.hash, "decoder": decoder.hash},
    }
    objective = DecoderObjective(decoder, min_snr=stage.min_snr)
    batch = decoder_batches(decoder, data, whitened, stage)
    run = folder / "decoder" / "adapters" / name
    return train(Stage(f"adapter {name}", objective, batch, save, sample), stage, run, facts)
