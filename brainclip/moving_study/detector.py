"""A detector of lesions: a small U-Net, trained on marked synthetic slices alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from brainclip.anomaly.cases import Cases
from brainclip.config import as_dict, digest
from brainclip.data import mirror
from brainclip.moving_study.recipe import MovingRecipe
from brainclip.train.loop import Batch, Stage, train
from brainclip.weights import hash_file, load_weights, read_json, save_weights, write_json

WEIGHTS = "detector.safetensors"
RARE = -4.0  # logit of lesion that the network begins with: one pixel in fifty


class Detector(nn.Module):
    """Grey slices (B, 1, H, W) in [0, 1] to logits (B, 1, H, W) of lesion, by MONAI's residual U-Net."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        from monai.networks.nets import UNet

        super().__init__()
        self.config = {"channels": list(channels)}
        self.network = UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=channels,
            strides=[2] * (len(channels) - 1),
            num_res_units=1,
        )
        self.rare = nn.Parameter(torch.tensor(RARE))
        self.hash = ""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) + self.rare
        return logits

    @torch.no_grad()
    def maps(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W) float32 chances of slices (N, H, W) in [0, 1]; 0 outside the brain."""
        shown = torch.from_numpy(images)[:, None]
        parts = [self(shown[i : i + 32]).sigmoid()[:, 0] for i in range(0, len(shown), 32)]
        return np.where(images > 0, torch.cat(parts).numpy(), 0).astype(np.float32)

    @classmethod
    def load(cls, folder: Path) -> Detector:
        """The detector saved in `folder`. WeightsError when a file or key is missing."""
        detector = cls(tuple(read_json(folder / "detector.json")["channels"]))
        load_weights(detector, folder / WEIGHTS)
        detector.hash = hash_file(folder / WEIGHTS)
        return detector.eval()

    def save(self, folder: Path) -> None:
        """Write the folder that load() reads; detector.json last."""
        save_weights(self, folder / WEIGHTS)
        write_json(folder / "detector.json", self.config)


class DetectorObjective(nn.Module):
    """Cross-entropy and soft Dice over the batch, by MONAI's DiceCELoss."""

    def __init__(self, detector: Detector) -> None:
        from monai.losses import DiceCELoss

        super().__init__()
        self.detector = detector
        self.loss = DiceCELoss(sigmoid=True, batch=True)

    def forward(self, images: Tensor, masks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss: Tensor = self.loss(self.detector(images).float(), masks)
        return loss, {}


def trained(recipe: MovingRecipe, seen: Cases) -> Detector:
    """The detector of a recipe, trained into <folder>/detector on these slices."""
    asked, folder = recipe.markers, Path(recipe.folder) / "detector"
    torch.manual_seed(asked.seed)
    detector = Detector(asked.channels)
    images, masks = torch.from_numpy(seen.images)[:, None], torch.from_numpy(seen.masks)[:, None]

    def batch(step: int) -> Batch:
        generator = np.random.default_rng([asked.seed, step])
        rows = torch.from_numpy(generator.choice(len(images), asked.batch, replace=len(images) < asked.batch))
        return dict(zip(("images", "masks"), changed(images[rows], masks[rows], generator), strict=True))

    facts = {"recipe": as_dict(asked), "inputs": {"slices": digest([len(images), float(seen.images.sum())])}}
    train(Stage("detector", DetectorObjective(detector), batch, detector.save), asked, folder, facts)
    return Detector.load(folder)


def changed(images: Tensor, masks: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Slices and masks (B, 1, H, W) alike mirrored and moved; grey values of the slices changed by gamma,
    slow shading, blur and noise, so that scanners matter less."""
    shown, known = [], []
    for image, mask in zip(images, masks, strict=True):
        image, mask = image[None], mask[None].float()
        if generator.random() < 0.5:
            image, mask = mirror(image), mirror(mask)
        shift = generator.integers(-6, 7, size=2).tolist()
        image, mask = (torch.roll(x, shift, dims=(2, 3)) for x in (image, mask))
        field = torch.from_numpy(generator.uniform(-0.2, 0.2, (1, 1, 3, 3)).astype(np.float32))
        field = nn.functional.interpolate(field, size=image.shape[2:], mode="bicubic", align_corners=True)
        values = (image * (1 + field)).clamp(0, 1).numpy() ** np.exp(generator.uniform(-0.3, 0.3))
        blur, noise = generator.uniform(0, 1), generator.uniform(0, 0.04)
        values = ndimage.gaussian_filter(values, (0, 0, blur, blur))
        values = values + noise * generator.standard_normal(values.shape) * (values > 0)
        shown.append(torch.from_numpy(values.clip(0, 1).astype(np.float32))[0])
        known.append(mask[0])
    return torch.stack(shown), torch.stack(known)
