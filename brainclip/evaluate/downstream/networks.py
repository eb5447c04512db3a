"""Classifiers from random weights: ResNet-34 as published, and a small one for two cores."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainclip.evaluate.judge import Block


class Small(nn.Module):
    """Grey slices (B, 1, H, W) to (B, classes) logits; built as the judge is."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2),
            nn.SiLU(),
            Block(width, width),
            Block(width, 2 * width),
            Block(2 * width, 4 * width),
            nn.GroupNorm(8, 4 * width),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),  # keeps where in the picture things are
            nn.Flatten(),
            nn.Linear(64 * width, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images - 0.25)  # about the mean of a slice
        return logits


class ResNet34(nn.Module):
    """torchvision's ResNet-34; the grey slice in each of its three channels."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        from torchvision.models import resnet34

        self.network = resnet34(weights=None, num_classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return logits


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {"small": Small, "resnet34": ResNet34}


class Classifier(nn.Module):
    """The training objective: cross-entropy of a network's logits."""

    def __init__(self, name: str, classes: int, *, width: int, size: int) -> None:
        super().__init__()
        self.network, self.size = NETWORKS[name](classes, width), size

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """images (B, 1, H, W) in [0, 1]; labels (B,)."""
        return functional.cross_entropy(self.network(self.resized(images)).float(), labels), {}

    def resized(self, images: Tensor) -> Tensor:
        """(B, 1, size, size)."""
        if images.shape[-1] == self.size:
            return images
        return functional.interpolate(
            images, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False
        )

    @torch.no_grad()
    def predicted(self, grey: Tensor, batch: int = 64) -> list[int]:
        """The label of each slice of grey (N, H, W) uint8."""
        self.eval()
        device = next(self.parameters()).device
        found: list[int] = []
        for start in range(0, len(grey), batch):
            images = grey[start : start + batch, None].to(device).float() / 255
            found += self.network(self.resized(images)).argmax(1).tolist()
        return found
