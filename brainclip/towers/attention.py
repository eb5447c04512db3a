"""Attention of open_clip's towers with linear layers of its own, for LoRA, and back.

open_clip uses torch's MultiheadAttention, whose weights are fused and whose layers are never called. peft
0.21 can wrap it, but merges before each call and takes off again after it: the frozen weights drift by
rounding, and the update of the output projection is added twice. It also cannot be sharded.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


class SplitAttention(nn.Module):
    """Self-attention with a linear layer each for query, key, value and output; the same sums as `fused`."""

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = fused.num_heads
        weights, biases = fused.in_proj_weight.detach().chunk(3), fused.in_proj_bias.detach().chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(fused.out_proj.weight.detach(), fused.out_proj.bias.detach())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """(B, L, W) and no weights, as MultiheadAttention gives them; attn_mask is added to the logits."""
        parts = ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, x in parts)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None

    def fused(self) -> nn.MultiheadAttention:
        """The MultiheadAttention with these weights."""
        layers = [self.q_proj, self.k_proj, self.v_proj]
        made = nn.MultiheadAttention(self.out_proj.in_features, self.heads, batch_first=True, device="meta")
        made.in_proj_weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
        made.in_proj_bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
        made.out_proj.weight, made.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        return made


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The linear layer of copies of a weight and a bias."""
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight, made.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return made


def split_attention(blocks: Iterable[nn.Module]) -> None:
    """Replace each MultiheadAttention of these blocks by its SplitAttention."""
    for module in [module for block in blocks for module in block.modules()]:
        for name, child in module.named_children():
            if type(child) is nn.MultiheadAttention:
                setattr(module, name, SplitAttention(child))


def fuse_attention(towers: nn.Module) -> None:
    """Undo split_attention everywhere in `towers`."""
    for module in list(towers.modules()):
        for name, child in module.named_children():
            if isinstance(child, SplitAttention):
                setattr(module, name, child.fused())
