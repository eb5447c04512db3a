"""Contrastive losses of captions and slices, and the forward pass in pieces that lets a large batch fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def multi_positive_loss(text: Tensor, image: Tensor, positives: Tensor, scale: Tensor) -> Tensor:
    """Contrastive loss in which every caption true of a slice is a positive.

    text, image: (B, D) unit length. positives: (B, B) bool, [i, j] = caption i is true of slice j; the
    diagonal is True. Cross-entropy to a uniform target over the positives, mean of both directions (Khosla
    et al. 2020, eq. 2; with a diagonal matrix it is CLIP's loss).
    """
    logits = scale * text @ image.T
    target = positives.to(logits.dtype)
    by_text = -(functional.log_softmax(logits, 1) * target).sum(1) / target.sum(1)
    by_image = -(functional.log_softmax(logits, 0) * target).sum(0) / target.sum(0)
    return (by_text.mean() + by_image.mean()) / 2


def siglip_loss(text: Tensor, image: Tensor, positives: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each pair by itself true or false: mean over captions of the sum of log-sigmoid losses.

    text, image, positives: as in multi_positive_loss. Zhai et al. 2023, eq. 1, with all positives labelled 1.
    """
    labels = 2 * positives.to(text.dtype) - 1
    return -functional.logsigmoid(labels * (scale * text @ image.T + bias)).sum() / len(text)


def in_pieces(encode: Callable[[Tensor], Tensor], inputs: Tensor, size: int) -> Tensor:
    """encode(inputs), (B, D), computed `size` rows at a time when size > 0.

    Nothing but the embeddings is kept for the backward pass, which computes each piece again: the loss of the
    whole batch, and its exact gradient, in the memory of one piece (GradCache, Gao et al. 2021).
    """
    if not 0 < size < len(inputs):
        return encode(inputs)
    return torch.cat([checkpoint(encode, piece, use_reentrant=False) for piece in inputs.split(size)])
