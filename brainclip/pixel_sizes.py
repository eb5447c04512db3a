"""Models of the pixel stage by name, and the slices they take; a recipe is checked without torch."""

from __future__ import annotations

from brainclip.errors import RecipeError

SMALL, LARGE = (64, 128, 192, 256), (64, 128, 192, 256, 512)
# name -> channels and whether the last level but one has attention; or width, heads and blocks
UNETS: dict[str, tuple[tuple[int, ...], bool]] = {
    "unet-small": (SMALL, False),
    "unet-small-attention": (SMALL, True),
    "unet-large": (LARGE, False),
    "unet-large-attention": (LARGE, True),
    "unet-tiny": ((16, 32), True),
}
UVITS: dict[str, tuple[int, int, int]] = {
    "uvit-small": (512, 8, 12),
    "uvit-large": (768, 12, 12),
    "uvit-tiny": (32, 2, 2),
}
MODELS = (*UNETS, *UVITS)
TIMESTEPS = 1000


def check_model(name: str, size: int) -> None:
    """RecipeError for an unknown name or slices of a size that does not fit the model."""
    if name not in MODELS:
        raise RecipeError(f"pixel.model = {name!r}: possible are {', '.join(MODELS)}")
    unit = 2 ** (len(UNETS[name][0]) - 1) if name in UNETS else patch_of(size)
    if size % unit:
        raise RecipeError(f"pixel.model = {name!r} takes slices of a multiple of {unit} pixels, not {size}")


def patch_of(size: int) -> int:
    """16 pixels, and at least 8 patches a side in smaller slices."""
    return max(1, min(16, size // 8))
