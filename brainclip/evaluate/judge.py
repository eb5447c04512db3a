"""Judge: a small convolutional network, trained apart from the model, that says what a slice shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from atlas.caption import Facts
from atlas.slices import MODALITIES, PLANES
from brainclip.config import Recipe, as_dict
from brainclip.data import PairDataset, training_data
from brainclip.train.checks import check_stage
from brainclip.train.loop import Batch, Stage, train
from brainclip.weights import hash_file, load_weights, read_json, save_weights, write_json

WEIGHTS = "judge.safetensors"
POSITION_UNIT_MM = 10.0
AGE_UNIT, AGE_CENTRE = 10.0, 50.0  # years
LOSS_WEIGHTS = {"plane": 1.0, "modality": 1.0, "position": 1.0, "age": 0.3, "female": 0.2}


@dataclass(frozen=True)
class Verdicts:
    """What the judge says of N slices, each (N,): plane and modality words, age in years, female a chance.

    position_mm is in the judged plane; in the sagittal plane it is the distance from the midline, as one
    sagittal slice does not show whether it is left or right.
    """

    plane: np.ndarray
    modality: np.ndarray
    position_mm: np.ndarray
    age: np.ndarray
    female: np.ndarray

    def take(self, rows: np.ndarray) -> Verdicts:
        """The part at `rows`."""
        return Verdicts(**{key: value[rows] for key, value in vars(self).items()})


def judged_position(plane: str, position_mm: float) -> float:
    """The position the judge is asked for: MNI mm, in the sagittal plane the distance from the midline."""
    return abs(position_mm) if plane == "sagittal" else position_mm


class Block(nn.Module):
    """Halve the resolution, then one residual pair of convolutions."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, width, 3, stride=2, padding=1)
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return x + self.layers(x)


class Judge(nn.Module):
    """Grey slices (B, 1, H, W) in [0, 1] to plane, contrast, a position for each plane, age and sex."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.config = {"width": width, "size": size, "planes": list(PLANES), "modalities": list(MODALITIES)}
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2),
            nn.SiLU(),
            Block(width, width),
            Block(width, 2 * width),
            Block(2 * width, 4 * width),
            nn.GroupNorm(8, 4 * width),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),  # a 4 x 4 map keeps where in the picture things are
            nn.Flatten(),
            nn.Linear(64 * width, 8 * width),
            nn.SiLU(),
        )
        self.heads = nn.Linear(8 * width, len(PLANES) + len(MODALITIES) + len(PLANES) + 2)
        self.hash = ""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """plane (B, 3), modality (B, 4), female (B,) logits; position (B, 3) in 10 mm; age (B,)."""
        out = self.heads(self.features(images)).float()
        plane, modality, position, age, female = out.split(
            [len(PLANES), len(MODALITIES), len(PLANES), 1, 1], dim=1
        )
        return {
            "plane": plane,
            "modality": modality,
            "position": position,
            "age": age[:, 0],
            "female": female[:, 0],
        }

    @torch.no_grad()
    def verdicts(self, images: Tensor, batch: int = 256) -> Verdicts:
        """The Verdicts on slices (N, 1, H, W) in [0, 1]."""
        parts = [self(images[i : i + batch]) for i in range(0, len(images), batch)]
        out = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}
        plane = out["plane"].argmax(1)
        return Verdicts(
            plane=np.array(PLANES)[plane],
            modality=np.array(MODALITIES)[out["modality"].argmax(1)],
            position_mm=out["position"][np.arange(len(plane)), plane] * POSITION_UNIT_MM,
            age=out["age"] * AGE_UNIT + AGE_CENTRE,
            female=1 / (1 + np.exp(-out["female"])),
        )

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """The judge saved in `folder`. WeightsError when a file or key is missing."""
        config = read_json(folder / "judge.json")
        judge = cls(config["width"], config["size"])
        load_weights(judge, folder / WEIGHTS)
        judge.hash = hash_file(folder / WEIGHTS)
        return judge.eval()

    def save(self, folder: Path) -> None:
        """Write the folder that load() reads; judge.json last."""
        save_weights(self, folder / WEIGHTS)
        write_json(folder / "judge.json", self.config)


class JudgeObjective(nn.Module):
    """Cross-entropy of plane, modality, sex; Huber loss of position and age. What is unknown has no loss."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def forward(
        self, images: Tensor, plane: Tensor, modality: Tensor, position: Tensor, age: Tensor, female: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.judge(images)
        rows = torch.arange(len(images), device=images.device)
        losses = {
            "plane": functional.cross_entropy(out["plane"], plane),
            "modality": functional.cross_entropy(out["modality"], modality),
            "position": functional.smooth_l1_loss(out["position"][rows, plane], position),
            "age": _known_mean(
                functional.smooth_l1_loss(out["age"], age.nan_to_num(), reduction="none"), age
            ),
            "female": _known_mean(
                functional.binary_cross_entropy_with_logits(
                    out["female"], female.nan_to_num(), reduction="none"
                ),
                female,
            ),
        }
        total = torch.stack([LOSS_WEIGHTS[key] * loss for key, loss in losses.items()]).sum()
        return total, {f"{key}_loss": loss.detach() for key, loss in losses.items()}


def _known_mean(loss: Tensor, target: Tensor) -> Tensor:
    """Mean of loss (B,) where target (B,) is not nan; 0 where all are."""
    known = ~target.isnan()
    return (loss * known).sum() / known.sum().clamp(min=1)


def targets(facts: Sequence[Facts]) -> Batch:
    """The judge's targets for slices with these facts; nan for an age or sex that is not known."""
    sexes = {"female": 1.0, "male": 0.0}
    places = [judged_position(str(fact.plane), float(fact.position_mm or 0.0)) for fact in facts]
    ages = [float(fact.known.get("age", np.nan)) for fact in facts]
    return {
        "plane": torch.tensor([PLANES.index(str(fact.plane)) for fact in facts]),
        "modality": torch.tensor([MODALITIES.index(str(fact.modality)) for fact in facts]),
        "position": torch.tensor(places) / POSITION_UNIT_MM,
        "age": (torch.tensor(ages) - AGE_CENTRE) / AGE_UNIT,
        "female": torch.tensor([sexes.get(str(fact.known.get("sex")), float("nan")) for fact in facts]),
    }


def augment(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Images (B, 1, H, W) shifted by up to 2 pixels, with gamma 0.8 to 1.25, some blurred and some noisy.

    Blur and noise so that the judge reads anatomy and contrast, not the sharpness by which real and generated
    differ.
    """
    rows = []
    for image in images:
        shift = generator.integers(-2, 3, size=2).tolist()
        rows.append(regrey(torch.roll(image, shift, dims=(1, 2)), generator))
    return torch.stack(rows)


def regrey(image: Tensor, generator: np.random.Generator) -> Tensor:
    """An image (1, H, W) with gamma 0.8 to 1.25, by chance blurred and noisy."""
    image = image ** float(np.exp(generator.uniform(-0.22, 0.22)))
    width = generator.uniform(0, 1)
    if generator.random() < 0.5:
        kernel = torch.exp(-0.5 * (torch.arange(-2, 3) / max(width, 0.1)) ** 2)
        kernel = (kernel / kernel.sum()).to(image.dtype)
        image = functional.conv2d(image[None], kernel[None, None, :, None], padding=(2, 0))
        image = functional.conv2d(image, kernel[None, None, None, :], padding=(0, 2))[0]
    strength = generator.uniform(0, 0.04) * (generator.random() < 0.5)
    noise = torch.from_numpy(generator.standard_normal(tuple(image.shape), dtype=np.float32))
    return (image + float(strength) * noise).clamp(0, 1)


def train_judge(recipe: Recipe) -> dict[str, float]:
    """Train the judge of a recipe into <folder>/judge, on the training split of the pairs in its `mix`."""
    stage = recipe.judge
    check_stage(recipe, "judge")
    data = training_data(recipe, stage)
    torch.manual_seed(stage.seed)
    judge = Judge(stage.width, data.size)

    def batch(step: int) -> Batch:
        indices = data.draw(stage.batch, stage.seed, step)
        images = augment(data.images(indices), np.random.default_rng([stage.seed, step, 1]))
        return {"images": images} | targets([data.pairs[i].facts for i in indices])

    facts = {"recipe": as_dict(stage), "inputs": {"pairs": data.hash}}
    return train(
        Stage("judge", JudgeObjective(judge), batch, judge.save), stage, Path(recipe.folder) / "judge", facts
    )


def judge_dataset(judge: Judge, data: PairDataset, batch: int = 512) -> Verdicts:
    """The Verdicts on every slice of a dataset, in its order."""
    parts = [
        judge.verdicts(data.images(range(i, min(i + batch, len(data))))) for i in range(0, len(data), batch)
    ]
    fields: dict[str, Any] = {key: np.concatenate([getattr(p, key) for p in parts]) for key in vars(parts[0])}
    return Verdicts(**fields)
