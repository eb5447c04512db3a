"""Stage prior: from a caption's embedding and states to the whitened image embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from brainclip.clip import Clip
from brainclip.config import Recipe, as_dict
from brainclip.data import training_data
from brainclip.errors import RecipeError
from brainclip.prior import Prior
from brainclip.train.age import SHIFT
from brainclip.train.clip import drawn_captions
from brainclip.train.embeddings import whitened_embeddings
from brainclip.train.loop import Batch, Stage, started_from, train
from brainclip.weights import DIFFUSERS_WEIGHTS


class PriorObjective(nn.Module):
    """Mean squared error of the predicted clean embedding, and `age` times that of the age it shows.

    years: (D,), its product with a whitened embedding is the age in units of SPREAD.
    """

    years: Tensor

    def __init__(self, prior: Prior, years: Tensor, age: float) -> None:
        super().__init__()
        self.prior, self.age = prior, age
        self.register_buffer("years", years, persistent=False)

    def forward(
        self,
        whitened: Tensor,
        noise: Tensor,
        timestep: Tensor,
        embedding: Tensor,
        states: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = self.prior.scheduler.add_noise(whitened, noise, timestep)
        predicted = self.prior(noisy, timestep, embedding, states, mask).float()
        missed = predicted - whitened
        squared, misread = missed.square().mean(), (missed @ self.years).square().mean()
        return squared + self.age * misread, {"squared": squared.detach(), "age": misread.detach()}


def train_prior(recipe: Recipe) -> dict[str, float]:
    """Train the prior stage of a recipe into <folder>/prior."""
    stage, folder = recipe.prior, Path(recipe.folder)
    clip = Clip.load(folder / "clip").requires_grad_(False)
    data = training_data(recipe, stage)
    whitened = whitened_embeddings(clip, data, folder / "embeddings")
    torch.manual_seed(stage.seed)
    prior = Prior.load(Path(stage.start), clip, retrain=True) if stage.start else Prior.new(stage, clip)

    @torch.no_grad()
    def batch(step: int) -> Batch:
        indices = data.draw(stage.batch, stage.seed, step)
        texts = [c.text for c in drawn_captions(data, indices, stage.seed, step)]
        generator = np.random.default_rng([stage.seed, step, 1])
        dropped = generator.random(len(texts)) < stage.caption_dropout
        tokens = clip.tokenize(["" if drop else text for text, drop in zip(texts, dropped, strict=True)])
        embedding, states = clip.encode_text(tokens)
        target = whitened[torch.from_numpy(indices)]
        return {
            "whitened": target,
            "noise": torch.from_numpy(generator.standard_normal(tuple(target.shape), dtype=np.float32)),
            "timestep": torch.from_numpy(generator.integers(0, stage.timesteps, len(texts))),
            "embedding": embedding,
            "states": states,
            "mask": tokens != 0,
        }

    inputs = {"pairs": data.hash, "clip": clip.hash} | started_from(stage.start, DIFFUSERS_WEIGHTS)
    if stage.age and not bool(clip.age_axis.any()):
        raise RecipeError("prior.age: this CLIP has no direction for the age; train it with clip.age")
    objective = PriorObjective(prior, clip.embedding_std * clip.age_axis / SHIFT, stage.age)
    facts = {"recipe": as_dict(stage), "inputs": inputs}
    return train(Stage("prior", objective, batch, prior.save), stage, folder / "prior", facts)
