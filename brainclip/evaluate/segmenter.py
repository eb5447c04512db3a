"""Segmenter: a small U-Net, trained apart from the model, that says which tissue each pixel of a slice is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atlas.reference import TISSUES
from brainclip.config import Recipe, as_dict
from brainclip.data import mirror
from brainclip.evaluate.figures import Figure, average
from brainclip.evaluate.judge import regrey
from brainclip.evaluate.tissues import TissueData
from brainclip.train.loop import Batch, Stage, train
from brainclip.weights import hash_file, load_weights, read_json, save_weights, write_json

WEIGHTS = "segmenter.safetensors"
STRUCTURES = TISSUES[1:]
BATCH = 64


class Segmenter(nn.Module):
    """Grey slices (B, 1, H, W) in [0, 1] to logits (B, 7, H, W) of TISSUES, by MONAI's residual U-Net."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        from monai.networks.nets import UNet

        super().__init__()
        self.config = {"channels": list(channels), "tissues": list(TISSUES)}
        self.network = UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=len(TISSUES),
            channels=channels,
            strides=[2] * (len(channels) - 1),
            num_res_units=1,
        )
        self.hash = ""

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    @torch.no_grad()
    def tissues(self, images: Tensor) -> np.ndarray:
        """(N, H, W) uint8 numbers in TISSUES of slices (N, 1, H, W) in [0, 1]."""
        parts = [self(images[i : i + BATCH]).argmax(1).to(torch.uint8) for i in range(0, len(images), BATCH)]
        return torch.cat(parts).numpy()

    @classmethod
    def load(cls, folder: Path) -> Segmenter:
        """The segmenter saved in `folder`. WeightsError when a file or key is missing."""
        segmenter = cls(tuple(read_json(folder / "segmenter.json")["channels"]))
        load_weights(segmenter, folder / WEIGHTS)
        segmenter.hash = hash_file(folder / WEIGHTS)
        return segmenter.eval()

    def save(self, folder: Path) -> None:
        """Write the folder that load() reads; segmenter.json last."""
        save_weights(self, folder / WEIGHTS)
        write_json(folder / "segmenter.json", self.config)


class SegmenterObjective(nn.Module):
    """Cross-entropy and soft Dice of the structures, by MONAI's DiceCELoss."""

    def __init__(self, segmenter: Segmenter) -> None:
        from monai.losses import DiceCELoss

        super().__init__()
        self.segmenter = segmenter
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def forward(self, images: Tensor, tissues: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss: Tensor = self.loss(self.segmenter(images).float(), tissues[:, None])
        return loss, {}


def changed(images: Tensor, tissues: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Slices (B, 1, H, W) and their tissues (B, H, W), alike shifted by up to 4 pixels and half of them
    mirrored; grey values of the slices alone changed as the judge's."""
    shown, known = [], []
    for image, tissue in zip(images, tissues[:, None], strict=True):
        shift = generator.integers(-4, 5, size=2).tolist()
        image, tissue = (torch.roll(x, shift, dims=(1, 2)) for x in (image, tissue))
        if generator.random() < 0.5:
            image, tissue = mirror(image), mirror(tissue)
        shown.append(regrey(image, generator))
        known.append(tissue[0])
    return torch.stack(shown), torch.stack(known)


def train_segmenter(recipe: Recipe) -> dict[str, float]:
    """Train the segmenter of a recipe into <folder>/segmenter, on people of the training split."""
    stage = recipe.segmenter
    folder = Path(recipe.folder) / "segmenter"
    known = TissueData(recipe, "train", people=stage.people)
    torch.manual_seed(stage.seed)
    segmenter = Segmenter(stage.channels)

    def batch(step: int) -> Batch:
        images, tissues = known.draw(stage.batch, stage.seed, step)
        images, tissues = changed(images, tissues, np.random.default_rng([stage.seed, step, 1]))
        return {"images": images, "tissues": tissues.long()}

    facts = {"recipe": as_dict(stage), "inputs": {"pairs": known.data.hash}}
    return train(
        Stage("segmenter", SegmenterObjective(segmenter), batch, segmenter.save), stage, folder, facts
    )


def segmenter_scores(segmenter: Segmenter, recipe: Recipe, split: str) -> dict[str, dict[str, Any]]:
    """Pairs table -> structure -> mean Dice over people of a split, by `dices`; and "ventricle_bias", the
    share of the brain that the segmenter gives the lateral ventricles less the true one, in percent."""
    known = TissueData(recipe, split, people=recipe.segmenter.people)
    result: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(known.names):
        rows = np.flatnonzero(known.table == number)
        true, subjects = known.tissues[torch.from_numpy(rows)].numpy(), known.subjects[rows]
        said = segmenter.tissues(known.data.images(known.rows[rows]))
        off = [shares(group)[:, 0] for group in (said, true)]
        result[name] = {**dices(true, said, subjects), "ventricle_bias": average(off[0] - off[1], subjects)}
    return result


def dices(true: np.ndarray, said: np.ndarray, subjects: np.ndarray) -> dict[str, Figure]:
    """Structure -> Dice 2 |A and B| / (|A| + |B|) of all slices of a person together, mean over people with
    an interval over them; true, said: (N, H, W) tissues. n: slices."""
    names = np.unique(subjects)
    result = {}
    for number, structure in enumerate(TISSUES[1:], start=1):
        values, people = [], []
        for name in names:
            a, b = (group[subjects == name] == number for group in (true, said))
            if a.any() or b.any():
                values.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
                people.append(name)
        result[structure] = average(np.array(values), np.array(people)) | {"n": len(true)}
    return result


def shares(tissues: np.ndarray) -> np.ndarray:
    """(N, 6) percent of the brain that each of STRUCTURES takes in slices (N, H, W) of tissues; nan for a
    slice without brain."""
    counts = np.stack([(tissues == number).sum((1, 2)) for number in range(1, len(TISSUES))], axis=1)
    whole = counts.sum(1, keepdims=True).astype(float)
    return 100 * counts / np.where(whole > 0, whole, np.nan)
