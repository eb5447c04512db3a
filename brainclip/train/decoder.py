"""Stage decoder: the flow in latent space, given the image embedding; and LoRA adapters for other scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from brainclip.clip import Clip
from brainclip.config import AdapterRecipe, DecoderRecipe, Recipe, as_dict
from brainclip.data import PairDataset, training_data
from brainclip.decoder import Decoder
from brainclip.errors import RecipeError, WeightsError
from brainclip.train.embeddings import whitened_embeddings
from brainclip.train.loop import Batch, Stage, started_from, train
from brainclip.train.vae import load_vae
from brainclip.vae import PatchAutoencoder
from brainclip.weights import DIFFUSERS_WEIGHTS, hash_file

SHOWN = 8  # pictures in a training sample


class DecoderObjective(nn.Module):
    """Squared error of the flow's velocity, plus that of the expected latents, each with its own gradient."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, latents: Tensor, noise: Tensor, sigma: Tensor, whitened: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        expected = self.decoder.expected(whitened).float()
        spread = sigma[:, None, None, None]
        noisy = (1 - spread) * latents + spread * noise
        velocity = self.decoder.velocity(noisy, sigma, whitened, expected.detach()).float()
        flow = functional.mse_loss(velocity, noise - latents)
        mean = functional.mse_loss(expected, latents)
        return flow + mean, {"flow": flow.detach(), "expected": mean.detach()}


def decoder_batches(
    decoder: Decoder, data: PairDataset, whitened: Tensor, stage: DecoderRecipe | AdapterRecipe
) -> Callable[[int], Batch]:
    """The batches of a decoder or adapter run. sigma is logit-normal, as in Esser et al. 2024."""

    @torch.no_grad()
    def batch(step: int) -> Batch:
        indices = data.draw(stage.batch, stage.seed, step)
        generator = np.random.default_rng([stage.seed, step, 1])
        latents = decoder.latents(data.images(indices))
        noise = torch.from_numpy(generator.standard_normal(tuple(latents.shape), dtype=np.float32))
        sigma = torch.from_numpy(generator.standard_normal(len(indices), dtype=np.float32)).sigmoid()
        conditions = whitened[torch.from_numpy(indices)].clone()
        conditions[torch.from_numpy(generator.random(len(indices)) < stage.embedding_dropout)] = 0
        return {"latents": latents, "noise": noise, "sigma": sigma, "whitened": conditions}

    return batch


def sample_sheet(
    decoder: Decoder, data: PairDataset, whitened: Tensor, run: Path, step: int, recipe: DecoderRecipe
) -> None:
    """samples/<step>.png: held-out slices above, pictures decoded from their true embeddings below."""
    areas = np.array([sum(pair.facts.regions.values()) for pair in data.pairs])
    large = np.flatnonzero(areas >= np.median(areas))  # the brain's ends show little
    chosen = large[np.linspace(0, len(large) - 1, SHOWN).astype(int)]
    made = decoder.sample(
        whitened[chosen], list(range(SHOWN)), steps=recipe.sampling_steps, guidance=recipe.guidance
    )
    rows = [torch.cat(list(images[:, 0]), 1) for images in (data.images(chosen), made)]
    path = run / "samples" / f"{step:07d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.cat(rows) * 255).round().byte().numpy()).save(path)


def _fast_on_cpu(decoder: Decoder, device: str) -> None:
    """Attention as plain matrix products where it is trained on a CPU: the fused kernel's backward pass is so
    slow there that a step takes a quarter longer."""
    if device == "cpu" or not torch.cuda.is_available():
        decoder.unet.set_attn_processor(AttnProcessor())


def _begun(stage: DecoderRecipe, clip: Clip, vae: PatchAutoencoder) -> Decoder:
    """The decoder a run begins with: random weights, or those of `start` over this autoencoder."""
    fresh = Decoder.new(stage, clip, vae)
    if not stage.start:
        return fresh
    decoder = Decoder.load(Path(stage.start), clip, retrain=True)
    for part in ("unet", "expected"):
        ours, theirs = getattr(fresh, part).state_dict(), getattr(decoder, part).state_dict()
        if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
            raise WeightsError(
                f"{stage.start}: its {part} is of another shape than [decoder] and the autoencoder of this "
                f"recipe make it; give the same channels, layers and widths, or no start"
            )
    decoder.vae = vae
    return decoder


def train_decoder(recipe: Recipe) -> dict[str, float]:
    """Train the decoder stage of a recipe into <folder>/decoder."""
    stage, folder = recipe.decoder, Path(recipe.folder)
    clip = Clip.load(folder / "clip").requires_grad_(False)
    data, held_out = training_data(recipe, stage), training_data(recipe, stage, "validation")
    whitened = whitened_embeddings(clip, data, folder / "embeddings")
    held_out_whitened = whitened_embeddings(clip, held_out, folder / "embeddings")
    torch.manual_seed(stage.seed)
    decoder = _begun(stage, clip, load_vae(folder / "vae"))
    decoder.vae.requires_grad_(False)
    _fast_on_cpu(decoder, stage.device)

    def sample(run: Path, step: int) -> None:
        sample_sheet(decoder, held_out, held_out_whitened, run, step, stage)

    inputs = {
        "pairs": data.hash,
        "clip": clip.hash,
        "vae": hash_file(folder / "vae" / DIFFUSERS_WEIGHTS),
    } | started_from(stage.start, f"unet/{DIFFUSERS_WEIGHTS}")
    facts = {"recipe": as_dict(stage), "inputs": inputs}
    batch = decoder_batches(decoder, data, whitened, stage)
    return train(
        Stage("decoder", DecoderObjective(decoder), batch, decoder.save, sample),
        stage,
        folder / "decoder",
        facts,
    )


def train_adapter(recipe: Recipe, name: str) -> dict[str, float]:
    """Train the LoRA adapter [adapter.<name>] of a recipe into <folder>/decoder/adapters/<name>."""
    if name not in recipe.adapter:
        known = ", ".join(recipe.adapter) or "none"
        raise RecipeError(f"recipe {recipe.name!r} has no table [adapter.{name}]; it has: {known}")
    stage, folder = recipe.adapter[name], Path(recipe.folder)
    clip = Clip.load(folder / "clip").requires_grad_(False)
    decoder = Decoder.load(folder / "decoder", clip)
    data, held_out = training_data(recipe, stage), training_data(recipe, stage, "validation")
    whitened = whitened_embeddings(clip, data, folder / "embeddings")
    held_out_whitened = whitened_embeddings(clip, held_out, folder / "embeddings")
    torch.manual_seed(stage.seed)
    decoder.add_adapter(name, stage)
    _fast_on_cpu(decoder, stage.device)

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
    batch = decoder_batches(decoder, data, whitened, stage)
    run = folder / "decoder" / "adapters" / name
    return train(Stage(f"adapter {name}", DecoderObjective(decoder), batch, save, sample), stage, run, facts)
