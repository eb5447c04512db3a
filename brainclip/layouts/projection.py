"""Projections: what a pretrained UNet is given for the whitened image embedding (B, D) of our CLIP."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import ImageProjection
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional


class TokenProjection(ModelMixin, ConfigMixin):
    """Tokens (B, tokens, width) for the cross-attention and, of SDXL, a pooled embedding (B, pooled).

    The pooled one is 0 at first: where there is text, it adds nothing yet to that of the text encoder.
    """

    @register_to_config
    def __init__(self, embedding: int, width: int, tokens: int, pooled: int = 0) -> None:
        super().__init__()
        self.to_tokens = ImageProjection(embedding, width, tokens)
        if pooled:
            self.to_pooled = nn.Linear(embedding, pooled)
            nn.init.zeros_(self.to_pooled.weight)
            nn.init.zeros_(self.to_pooled.bias)

    def forward(self, whitened: Tensor) -> tuple[Tensor, Tensor | None]:
        pooled = self.to_pooled(whitened) if self.config["pooled"] else None
        return self.to_tokens(whitened), pooled


class EmbeddingProjection(ModelMixin, ConfigMixin):
    """An image embedding (B, width) as Kandinsky's UNet takes it, by a linear map."""

    @register_to_config
    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding, width)

    def forward(self, whitened: Tensor) -> Tensor:
        return self.linear(whitened)


class Unwhitening(ModelMixin, ConfigMixin):
    """The embedding (B, D) of Kandinsky's own CLIP again, as its UNet was trained on; nothing to train.

    mean, std: the CLIP's whitening. norm: mean length of the image tower's outputs, which whitening made unit
    vectors of. A row of zeros, the unconditional one, stays zeros.
    """

    mean: Tensor
    std: Tensor
    norm: Tensor

    @register_to_config
    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embedding))
        self.register_buffer("std", torch.ones(embedding))
        self.register_buffer("norm", torch.ones(()))

    def set_whitening(self, mean: Tensor, std: Tensor) -> None:
        """Take the statistics (D,) of a CLIP."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, whitened: Tensor) -> Tensor:
        unit = functional.normalize(whitened * self.std + self.mean, dim=-1)
        return unit * self.norm * whitened.any(-1, keepdim=True)
