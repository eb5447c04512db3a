"""Stage strip: the network of brain extraction, from real heads with masks and from painted label maps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from atlas.strip_network import BLOCK, SMALLEST, BrainNetwork, probability, save_network
from brainclip.config import TrainingRecipe, as_dict
from brainclip.errors import RecipeError
from brainclip.train.heads import Head, load_maps, load_scans
from brainclip.train.heads_random import draw_example
from brainclip.train.loop import Batch, Stage, step_seed, train
from brainclip.weights import write_json

KINDS = ("scans", "maps")
WEIGHTS = "strip.safetensors"
SEEN_AT_VALIDATION = 8  # painted label maps, the same every time


@dataclass(frozen=True)
class StripRecipe(TrainingRecipe):
    """Brain extraction. mix: share of examples from "scans" and from "maps"."""

    folder: str = "runs/strip"
    source: str = "ixi"  # of the real heads, as atlas.sources names it
    input: str = ""
    masks: str = ""
    splits: str = ""  # splits.json of a folder of pairs: who is held out
    anatomies: str = ""  # whole-head label maps
    held_out_maps: int = 4
    mix: dict[str, float] = field(default_factory=lambda: {"scans": 0.5, "maps": 0.5})
    shape: tuple[int, ...] = (96, 112, 112)  # voxels of 2 mm
    widths: tuple[int, ...] = (16, 32, 64, 96, 96)


class StripObjective(nn.Module):
    """Soft Dice loss plus cross-entropy."""

    def __init__(self, network: BrainNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, brains: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.network(images).float()
        found = torch.sigmoid(logits)
        both = (found * brains).sum((1, 2, 3, 4))
        sizes = found.sum((1, 2, 3, 4)) + brains.sum((1, 2, 3, 4))
        overlap = ((2 * both + 1) / (sizes + 1)).mean()
        entropy = F.binary_cross_entropy_with_logits(logits, brains)
        return 1 - overlap + entropy, {"dice": overlap.detach(), "entropy": entropy.detach()}


def load_heads(recipe: StripRecipe) -> dict[str, dict[str, list[Head]]]:
    """Kind -> split -> heads, of the kinds that the mix asks for."""
    unknown = sorted(set(recipe.mix) - set(KINDS))
    if unknown or not recipe.mix or min(recipe.mix.values()) < 0 or sum(recipe.mix.values()) <= 0:
        raise RecipeError(f"mix {recipe.mix}: shares of {' and '.join(KINDS)}, such as {{ scans = 1.0 }}")
    heads = {}
    if recipe.mix.get("scans"):
        heads["scans"] = load_scans(recipe.source, recipe.input, recipe.masks, recipe.splits)
    if recipe.mix.get("maps"):
        heads["maps"] = load_maps(recipe.anatomies, recipe.held_out_maps)
    return heads


def draw_batch(recipe: StripRecipe, heads: dict[str, dict[str, list[Head]]], step: int) -> Batch:
    """The images and brains (B, 1, X, Y, Z) of a step, from (seed, step) alone."""
    generator = Generator().manual_seed(step_seed(recipe.seed, step))
    kinds = [kind for kind in KINDS if kind in heads]
    shares = torch.tensor([recipe.mix[kind] for kind in kinds])
    examples = []
    for _ in range(recipe.batch):
        kind = kinds[int(torch.multinomial(shares, 1, generator=generator))]
        pool = heads[kind]["train"]
        head = pool[int(torch.randint(len(pool), (1,), generator=generator))]
        examples.append(draw_example(head, recipe.shape, generator))
    images, brains = (torch.stack(parts)[:, None] for parts in zip(*examples, strict=True))
    return {"images": images, "brains": brains}


def train_strip(recipe: StripRecipe) -> dict[str, float]:
    """Train the brain extraction of a recipe into its folder; continues where an earlier call stopped."""
    if any(n % BLOCK for n in recipe.shape) or len(recipe.shape) != 3 or max(recipe.shape) < SMALLEST:
        raise RecipeError(f"shape {recipe.shape}: three multiples of {BLOCK}, one of them {SMALLEST} or more")
    heads = load_heads(recipe)
    torch.manual_seed(recipe.seed)
    network = BrainNetwork(recipe.widths)

    def batch(step: int) -> Batch:
        return draw_batch(recipe, heads, step)

    def sample(run: Path, step: int) -> None:
        write_json(run / f"validation_{step:06d}.json", validate(network, heads, recipe))

    def save(run: Path) -> None:
        save_network(network, run / WEIGHTS)

    inputs = {kind: contents(found["train"]) for kind, found in heads.items()}
    stage = Stage("strip", StripObjective(network), batch, save, sample)
    return train(stage, recipe, Path(recipe.folder), {"recipe": as_dict(recipe), "inputs": inputs})


def contents(heads: list[Head]) -> str:
    """A short hash of the heads, so that a run is not continued on other data."""
    digest = hashlib.sha256()
    for head in heads:
        digest.update(head.name.encode())
        digest.update(head.values.numpy().tobytes())
        digest.update(head.brain.numpy().tobytes())
    return digest.hexdigest()[:16]


def validate(
    network: BrainNetwork, heads: dict[str, dict[str, list[Head]]], recipe: StripRecipe
) -> dict[str, dict[str, float]]:
    """Kind -> n, mean and least Dice at 2 mm of held-out heads: scans as they are, label maps painted."""
    examples: dict[str, list[tuple[Tensor, Tensor]]] = {}
    if "scans" in heads:
        held_out = heads["scans"]["validation"]
        examples["scans"] = [(head.values.float(), head.brain.float()) for head in held_out]
    if "maps" in heads and heads["maps"]["validation"]:
        held_out = heads["maps"]["validation"]
        examples["maps"] = [
            draw_example(held_out[k % len(held_out)], recipe.shape, Generator().manual_seed(k))
            for k in range(SEEN_AT_VALIDATION)
        ]
    numbers = {}
    for kind, pairs in examples.items():
        found = [
            (torch.from_numpy(probability(image.numpy(), network)) > 0.5, brain) for image, brain in pairs
        ]
        values = [dice(mask, brain > 0.5) for mask, brain in found]
        if values:
            mean = sum(values) / len(values)
            numbers[kind] = {"n": len(values), "mean": round(mean, 4), "least": round(min(values), 4)}
    return numbers


def dice(first: Tensor, second: Tensor) -> float:
    """Overlap of two masks, 2 |A and B| / (|A| + |B|): 1 for equal ones, also when both are empty."""
    size = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / size if size else 1.0
