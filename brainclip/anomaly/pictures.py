"""Pictures of maps: heat over slices, with the lesions' outlines, beside the slice itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

TEXT, GAP, SCALE = 11, 6, 2  # pixels; pixels of the picture for one of a slice
OUTLINE = (60, 220, 90)


def heat(slice_: np.ndarray, map_: np.ndarray, highest: float) -> np.ndarray:
    """(H, W, 3) uint8: the slice in grey, from half of `highest` on turning red and then yellow."""
    share = np.clip(map_.astype(np.float32) / max(1e-9, highest), 0, 1)
    cover = np.clip(2 * share - 1, 0, 1)[..., None] ** 0.7
    colour = np.stack([np.ones_like(share), np.clip(2 * share - 1.2, 0, 1), np.zeros_like(share)], -1)
    grey = np.repeat(slice_[..., None], 3, -1)
    return np.asarray((255 * ((1 - cover) * grey + cover * colour)).round(), dtype=np.uint8)


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture, SCALE times as large, with the mask's outline."""
    large = np.kron(picture, np.ones((SCALE, SCALE, 1), dtype=np.uint8))
    area = np.kron(mask, np.ones((SCALE, SCALE), dtype=bool))
    large[area & ~ndimage.binary_erosion(area)] = OUTLINE
    return np.asarray(large)


def brain_box(images: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns outside which slices (N, H, W) are empty."""
    seen = images.max(0) > 0
    high, wide = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    return slice(high[0], high[-1] + 1), slice(wide[0], wide[-1] + 1)


def sheet(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, Sequence[np.ndarray | None]]],
    columns: Sequence[str],
    title: str,
    highest: Sequence[Sequence[float]],
) -> Image.Image:
    """A picture: for each row (label, slice, mask, maps) the slice, with its mask if any has one, and maps.

    highest: of each row and column, the value that is shown brightest.
    """
    font = ImageFont.load_default(TEXT)
    tall, side = (SCALE * n for n in rows[0][1].shape)
    masked = any(mask.any() for _, _, mask, _ in rows)
    heads = ("slice", "lesion", *columns) if masked else ("slice", *columns)
    said = max(font.getlength(line) for line in title.split("\n"))
    wide = max(len(heads) * (side + GAP) + GAP, int(said) + 2 * GAP)
    high = (2 + title.count("\n")) * (TEXT + GAP) + TEXT + len(rows) * (tall + TEXT + 2 * GAP)
    image = Image.new("RGB", (wide, high), "white")
    draw = ImageDraw.Draw(image)
    draw.text((GAP, GAP), title, fill="black", font=font)
    below = (1 + title.count("\n")) * (TEXT + GAP) + GAP
    for number, name in enumerate(heads):
        draw.text((GAP + number * (side + GAP), below), name, fill="black", font=font)
    for number, (label, slice_, mask, maps) in enumerate(rows):
        top = below + TEXT + GAP + number * (tall + TEXT + 2 * GAP)
        draw.text((GAP, top), label, fill="black", font=font)
        plain = np.repeat((slice_[..., None] * 255).round().astype(np.uint8), 3, -1)
        tiles = [outlined(plain, np.zeros_like(mask))] + ([outlined(plain, mask)] if masked else [])
        for column, map_ in enumerate(maps):
            shown = plain if map_ is None else heat(slice_, map_, highest[number][column])
            tiles.append(outlined(shown, np.zeros_like(mask)))
        for column, tile in enumerate(tiles):
            image.paste(Image.fromarray(tile), (GAP + column * (side + GAP), top + TEXT + GAP))
    return image
