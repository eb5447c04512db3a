"""A vision transformer of open_clip run for its embedding alone: the same sums without those nobody asks for.

Grey slices have three equal channels, so the first layer needs one, with the normalisation folded in; and of
the last block only the class token is used, so only its query, projection and MLP are computed. The bundled
tower is a quarter faster so (LOG.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainclip.towers import Layout, Towers, fitted


class GreyTower:
    """Callable: grey images (B, 1, H, W) in [0, 1] -> features (B, D), as layout.encode_image gives of three
    channels, up to rounding."""

    def __init__(self, layout: Layout, towers: Towers) -> None:
        visual = towers.visual
        self.visual, self.size = visual, layout.size
        weight = visual.conv1.weight.detach()  # (W, 3, p, p)
        mean, std = (weight.new_tensor(numbers)[:, None, None] for numbers in (layout.mean, layout.std))
        self.patch = (weight / std).sum(1).flatten(1)  # (W, p * p)
        self.shift = -(weight * (mean / std)).sum((1, 2, 3))
        if visual.conv1.bias is not None:
            self.shift = self.shift + visual.conv1.bias.detach()
        self.edge = weight.shape[-1]

    @staticmethod
    def fits(layout: Layout, towers: Towers) -> bool:
        """Whether a tower is made of the parts that this knows."""
        from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

        visual = getattr(towers, "visual", None)
        return (
            isinstance(visual, VisionTransformer)
            and not visual.training
            and visual.attn_pool is None
            and visual.pool_type == "tok"
            and not visual.output_tokens
            and visual.conv1.kernel_size == visual.conv1.stride
            and visual.conv1.kernel_size[0] == visual.conv1.kernel_size[1]
            and all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
            and all(block.attn.batch_first for block in visual.transformer.resblocks)
        )

    def __call__(self, images: Tensor) -> Tensor:
        visual, p = self.visual, self.edge
        images = fitted(images, self.size)[:, 0]
        rows, columns = images.shape[1] // p, images.shape[2] // p
        patches = images.unflatten(2, (columns, p)).unflatten(1, (rows, p)).transpose(2, 3)
        x = functional.linear(patches.flatten(3).flatten(1, 2), self.patch, self.shift)  # (B, L, W)
        first = visual.class_embedding.expand(len(x), 1, -1)
        x = visual.ln_pre(torch.cat([first, x], dim=1) + visual.positional_embedding)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            x = _block(block, x, x.shape[1])
        pooled = visual.ln_post(_block(last, x, 1)[:, 0])  # (B, W)
        return pooled if visual.proj is None else pooled @ visual.proj


def _block(block: Any, x: Tensor, asked: int) -> Tensor:
    """(B, asked, W): the first `asked` tokens after a ResidualAttentionBlock; x: (B, L, W), all tokens."""
    attention: nn.MultiheadAttention = block.attn
    width, heads = attention.embed_dim, attention.num_heads
    normed = block.ln_1(x)
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if asked == x.shape[1]:
        q, k, v = functional.linear(normed, weight, bias).chunk(3, dim=-1)
    else:
        q = functional.linear(normed[:, :asked], weight[:width], bias[:width])
        k, v = functional.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v)
    )  # (B, heads, L, W / heads)
    mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x[:, :asked] + block.ls_1(attention.out_proj(mixed))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
