"""Stage prior: from a caption's embedding and states to the whitened image embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from brainclip.clip import Clip
from brainclip.config import PriorRecipe, Recipe, as_dict
from brainclip.data import PairDataset, training_data
from brainclip.errors import RecipeError
from brainclip.prior import Prior
from brainclip.prior_base import WEIGHTS, base_folder
from brainclip.train.age import SHIFT
from brainclip.train.checks import check_prior
from brainclip.train.clip import drawn_captions
from brainclip.train.embeddings import whitened_embeddings
from brainclip.train.loop import Batch, Stage, started_from, train
from brainclip.train.processes import device_of
from brainclip.train.weighting import min_snr_weight
from brainclip.weights import DIFFUSERS_WEIGHTS, hash_file

CAPTIONS = 64  # by which the length of a pretrained prior's text embeddings is measured


class PriorObjective(nn.Module):
    """Mean squared error of the predicted clean embedding, and `age` times that of the age it shows.

    clip: encodes the captions; it is where the training is, and no part of this module. years: (D,), its
    product with a whitened embedding is the age in units of SPREAD. min_snr: gamma of the weights of noise
    levels, for both errors; 0: all weigh 1.
    """

    years: Tensor

    def __init__(
        self, prior: Prior, clip: Clip, years: Tensor, *, age: float = 0.0, min_snr: float = 0.0
    ) -> None:
        super().__init__()
        self.prior, self.age, self.min_snr = prior, age, min_snr
        self.frozen = (clip,)  # in a tuple, or its weights were saved with the run's
        self.register_buffer("years", years, persistent=False)

    def forward(
        self,
        whitened: Tensor,
        noise: Tensor,
        timestep: Tensor,
        tokens: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """tokens (B, context) of the captions; whitened, noise: (B, D)."""
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            embedding, states = self.frozen[0].encode_text(tokens)
        noisy = self.prior.scheduler.add_noise(whitened, noise, timestep)
        predicted = self.prior(noisy, timestep, embedding, states, tokens != 0).float()
        missed = predicted - whitened
        squares, misreadings = missed.square(), (missed @ self.years).square()
        if self.min_snr:
            weight = min_snr_weight(self.prior.scheduler, timestep, self.min_snr, "sample")
            squares, misreadings = weight[:, None] * squares, weight * misreadings
        squared, misread = squares.mean(), misreadings.mean()
        return squared + self.age * misread, {"squared": squared.detach(), "age": misread.detach()}


def train_prior(recipe: Recipe) -> dict[str, float]:
    """Train the prior stage of a recipe into <folder>/prior."""
    stage, folder = recipe.prior, Path(recipe.folder)
    check_prior(recipe)
    device = device_of(stage)
    clip = Clip.load(folder / "clip").requires_grad_(False).to(device)
    data = training_data(recipe, stage)
    whitened = whitened_embeddings(clip, data, folder / "embeddings")
    clip.cpu()  # until the captions of a batch are embedded
    torch.manual_seed(stage.seed)
    prior = _begun(stage, clip, data)
    targets = prior.from_clip(clip, whitened)
    timesteps = prior.scheduler.config.num_train_timesteps

    def batch(step: int) -> Batch:
        indices = data.draw(stage.batch, stage.seed, step)
        texts = [c.text for c in drawn_captions(data, indices, stage.seed, step)]
        generator = np.random.default_rng([stage.seed, step, 1])
        dropped = generator.random(len(texts)) < stage.caption_dropout
        said = ["" if drop else text for text, drop in zip(texts, dropped, strict=True)]
        target = targets[torch.from_numpy(indices)]
        return {
            "whitened": target,
            "noise": torch.from_numpy(generator.standard_normal(tuple(target.shape), dtype=np.float32)),
            "timestep": torch.from_numpy(generator.integers(0, timesteps, len(texts))),
            "tokens": clip.tokenize(said),
        }

    inputs = {"pairs": data.hash, "clip": clip.hash} | started_from(stage.start, DIFFUSERS_WEIGHTS)
    if stage.base:
        inputs["base"] = hash_file(base_folder(stage.base) / WEIGHTS)
    for key in ("age", "age_guidance"):
        if getattr(stage, key) and not bool(clip.age_axis.any()):
            raise RecipeError(f"prior.{key}: this CLIP has no direction for the age; train it with clip.age")
    years = prior.unit_std * clip.age_axis / SHIFT
    objective = PriorObjective(prior, clip.to(device), years, age=stage.age, min_snr=stage.min_snr)
    facts = {"recipe": as_dict(stage), "inputs": inputs}
    return train(Stage("prior", objective, batch, prior.save), stage, folder / "prior", facts)


def _begun(stage: PriorRecipe, clip: Clip, data: PairDataset) -> Prior:
    """The prior a run begins with: with random weights, those of `base` or of `start`; LoRA if asked."""
    if stage.base:
        indices = data.draw(CAPTIONS, stage.seed, 0)
        texts = [c.text for c in drawn_captions(data, indices, stage.seed, 0)]
        prior = Prior.pretrained(stage.base, clip, texts)
    elif stage.start:
        prior = Prior.load(Path(stage.start), clip, retrain=True)
    else:
        prior = Prior.new(stage, clip)
    if stage.train == "lora":
        prior.add_lora(stage.rank, stage.alpha, stage.base or stage.start)
    return prior
