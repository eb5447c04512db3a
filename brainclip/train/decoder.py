"""Stage decoder: diffusion in latent space, given the image embedding; and LoRA adapters for other scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from brainclip.clip import Clip
from brainclip.config import DecoderRecipe, DenoisingRecipe, Recipe, as_dict
from brainclip.data import PairDataset, training_data
from brainclip.decoder import Decoder
from brainclip.inversion import with_tokens
from brainclip.schedules import check_weights, objective_of, training_scheduler
from brainclip.train.begin import begin_decoder, begun_from
from brainclip.train.checks_decoder import check_adapter, check_decoder
from brainclip.train.embeddings import whitened_embeddings
from brainclip.train.latents import cached_latents
from brainclip.train.loop import Batch, Stage, train
from brainclip.train.objectives import coloured, draw_times, noised, squared_error
from brainclip.train.processes import device_of
from brainclip.train.run_folder import check_same_recipe
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
        self,
        noise: Tensor,
        time: Tensor,
        whitened: Tensor,
        *,
        images: Tensor | None = None,
        latents: Tensor | None = None,
        **tokens: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """images (B, 1, H, W) in [0, 1], or the autoencoder's own latents (B, C, h, w) of them."""
        layout = self.decoder.layout
        if images is not None:
            with torch.autocast(images.device.type, enabled=False):  # SDXL's encoder overflows in half
                latents = layout.encode(images)
        assert latents is not None
        clean = layout.standardised(latents)
        conditions = layout.conditions(whitened, **tokens)
        noisy, target, weight = noised(self.scheduler, clean, noise, time, min_snr=self.min_snr)
        error = squared_error(layout.predict(noisy, time, conditions), target, weight)
        losses = {self.name: error} | layout.further_losses(conditions, clean)
        return torch.stack(list(losses.values())).sum(), {key: loss.detach() for key, loss in losses.items()}


def decoder_batches(
    decoder: Decoder,
    data: PairDataset,
    whitened: Tensor,
    stage: DenoisingRecipe,
    folder: Path,
    *,
    tokens: Sequence[str] = (),
) -> Callable[[int], Batch]:
    """The batches of a decoder, adapter or inversion run, each a function of (seed, step) alone.

    folder: of latents that are computed once, where the recipe asks for it. tokens: new ones that stand
    behind every caption.
    """
    captions = [
        tuple(with_tokens(text, tokens) for text in pair.captions or (pair.text,)) for pair in data.pairs
    ]
    decoder.layout.tokens(sorted({text for row in captions for text in row}))  # one too long is found now
    latents = cached_latents(decoder.layout, data, folder) if stage.cache else None

    def batch(step: int) -> Batch:
        indices = data.draw(stage.batch, stage.seed, step)
        generator = np.random.default_rng([stage.seed, step, 1])
        shape = (len(indices), *decoder.layout.shape)
        noise = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
        time = draw_times(generator, decoder.scheduler, len(indices))
        conditions = whitened[torch.from_numpy(indices)].clone()
        dropped = generator.random(len(indices)) < stage.embedding_dropout
        conditions[torch.from_numpy(dropped)] = 0
        said = [
            "" if dropped[row] else captions[index][generator.integers(len(captions[index]))]
            for row, index in enumerate(indices)
        ]
        shown = {"latents": latents(indices)} if latents else {"images": data.images(indices)}
        noise = coloured(noise, [stage.seed, step], stage)
        read = decoder.layout.tokens(said)
        return {"noise": noise, "time": time, "whitened": conditions} | shown | read

    return batch


def sample_sheet(
    decoder: Decoder,
    data: PairDataset,
    whitened: Tensor,
    run: Path,
    step: int,
    recipe: DecoderRecipe,
    *,
    tokens: Sequence[str] = (),
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
        captions=[with_tokens(data.pairs[row].text, tokens) for row in chosen],
    )
    rows = [torch.cat(list(images[:, 0]), 1) for images in (data.images(chosen), made)]
    path = run / "samples" / f"{step:07d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.cat(rows) * 255).round().byte().numpy()).save(path)


def slices_of(
    recipe: Recipe, stage: DenoisingRecipe, clip: Clip, split: str = "train"
) -> tuple[PairDataset, Tensor]:
    """A split of the stage's pairs, and the whitened embeddings (N, D) of its slices."""
    data = training_data(recipe, stage, split)
    return data, whitened_embeddings(clip, data, Path(recipe.folder) / "embeddings")


def prepare(decoder: Decoder, stage: DenoisingRecipe) -> None:
    """Set the UNet up for training: activations kept or not, and attention as plain matrix products on a CPU:
    the fused kernel's backward pass is so slow there that a step takes a quarter longer."""
    unet = decoder.layout.parts["unet"]
    if stage.checkpointing:
        unet.enable_gradient_checkpointing()
    if decoder.layout.device.type == "cpu":
        unet.set_default_attn_processor()


def train_decoder(recipe: Recipe) -> dict[str, float]:
    """Train the decoder stage of a recipe into <folder>/decoder."""
    from accelerate import PartialState

    stage, folder = recipe.decoder, Path(recipe.folder)
    check_decoder(recipe)
    device = device_of(stage)
    clip = Clip.load(folder / "clip").requires_grad_(False).to(device)
    data, whitened = slices_of(recipe, stage, clip)
    held_out, held_out_whitened = slices_of(recipe, stage, clip, "validation")
    torch.manual_seed(stage.seed)
    decoder = begin_decoder(recipe, clip, data, device)
    check_weights(stage, objective_of(decoder.scheduler))
    prepare(decoder, stage)
    clip.cpu()  # its work is done

    def sample(run: Path, step: int) -> None:
        sample_sheet(decoder, held_out, held_out_whitened, run, step, stage)

    run = folder / "decoder"
    facts = {"recipe": as_dict(stage), "inputs": {"pairs": data.hash, "clip": clip.hash} | begun_from(recipe)}
    if not any(parameter.requires_grad for parameter in decoder.parameters()):
        check_same_recipe(run, facts, as_dict(type(stage)()))
        if PartialState().is_main_process:
            decoder.save(run)  # the base takes this CLIP as it is: nothing to train before an adapter
            write_json(run / "run.json", facts)
        return {}
    objective = DecoderObjective(decoder, min_snr=stage.min_snr)
    batch = decoder_batches(decoder, data, whitened, stage, folder / "latents")
    return train(Stage("decoder", objective, batch, decoder.save, sample), stage, run, facts)


def train_adapter(recipe: Recipe, name: str) -> dict[str, float]:
    """Train the LoRA adapter [adapter.<name>] of a recipe into <folder>/decoder/adapters/<name>."""
    check_adapter(recipe, name)
    stage, folder = recipe.adapter[name], Path(recipe.folder)
    device = device_of(stage)
    clip = Clip.load(folder / "clip").requires_grad_(False)
    decoder = Decoder.load(folder / "decoder", clip).to(device)
    check_weights(stage, objective_of(decoder.scheduler))
    clip.to(device)
    data, whitened = slices_of(recipe, stage, clip)
    held_out, held_out_whitened = slices_of(recipe, stage, clip, "validation")
    clip.cpu()  # its work is done
    torch.manual_seed(stage.seed)
    decoder.add_adapter(name, stage)
    decoder.to(device)
    prepare(decoder, stage)

    def sample(run: Path, step: int) -> None:
        sample_sheet(decoder, held_out, held_out_whitened, run, step, recipe.decoder)

    card = {"base": decoder.hash, "rank": stage.rank, "alpha": stage.alpha, "pairs": data.hash}
    card |= {"modalities": list(stage.modalities), "default": stage.default, "mix": stage.mix}

    def save(run: Path) -> None:
        decoder.save_adapter(name, run, card)

    inputs = {"pairs": data.hash, "clip": clip.hash, "decoder": decoder.hash}
    objective = DecoderObjective(decoder, min_snr=stage.min_snr)
    batch = decoder_batches(decoder, data, whitened, stage, folder / "latents")
    run = folder / "decoder" / "adapters" / name
    facts = {"recipe": as_dict(stage), "inputs": inputs}
    own = stage.text and stage.text_rate != stage.rate
    rates = {f"decoder.{part}.": stage.text_rate for part in decoder.layout.text if own}
    return train(Stage(f"adapter {name}", objective, batch, save, sample, rates=rates), stage, run, facts)
