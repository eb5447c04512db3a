"""A sheet of tissues: slices, their true labels, and what the segmenter says of them and of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atlas.reference import TISSUES
from brainclip.data import PairDataset
from brainclip.evaluate.counterparts import Counterparts
from brainclip.evaluate.sheet import GAP, LEAST, TEXT

COLOURS = np.array(  # of TISSUES
    [
        (0, 0, 0),
        (70, 160, 255),
        (225, 95, 85),
        (245, 225, 160),
        (120, 190, 110),
        (60, 70, 150),
        (180, 120, 200),
    ],
    dtype=np.uint8,
)
COLUMNS = ("held-out slice", "its true labels", "segmenter", "generated (synthetic)", "segmenter")
ROWS = 8


def tissue_sheet(
    data: PairDataset, pairs: Counterparts, tissues: dict[str, np.ndarray], path: Path, *, rows: int = ROWS
) -> int:
    """Write a PNG of `rows` held-out slices and their pictures, as many of each group; returns how many.

    tissues: "true", "real" and "made" -> (N, H, W) numbers in TISSUES of the slices of `pairs`.
    """
    chosen = _chosen(pairs, rows)
    factor = -(-LEAST // data.size)
    side, font = data.size * factor, ImageFont.load_default(TEXT)
    top, below = 2 * (TEXT + 6), TEXT + 6
    width = len(COLUMNS) * (side + GAP) - GAP
    sheet = Image.new("RGB", (width, top + len(chosen) * (side + below + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    x = 0
    for name, colour in zip(TISSUES[1:], COLOURS[1:], strict=True):
        draw.rectangle((x, 2, x + TEXT - 2, TEXT), fill=tuple(colour.tolist()))
        draw.text((x + TEXT + 2, 0), name, fill="black", font=font)
        x += TEXT + 18 + round(font.getlength(name))
    for column, title in enumerate(COLUMNS):
        draw.text((column * (side + GAP), TEXT + 6), title, fill="black", font=font)
    for number, k in enumerate(chosen):
        y = top + number * (side + below + GAP)
        real = data.images([pairs.rows[k]])[0, 0].numpy()
        cells = (
            _grey(real),
            COLOURS[tissues["true"][k]],
            COLOURS[tissues["real"][k]],
            _grey(pairs.made[k, 0].numpy()),
            COLOURS[tissues["made"][k]],
        )
        for column, cell in enumerate(cells):
            image = Image.fromarray(cell).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(image, (column * (side + GAP), y))
        draw.text((0, y + side + 1), f"{pairs.group[k]}: {pairs.asked[k].text}", fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    sheet.quantize(128).save(temporary, "PNG", optimize=True)
    temporary.replace(path)
    return len(chosen)


def _chosen(pairs: Counterparts, rows: int) -> list[int]:
    """The slices to show: from each group in turn, another plane each time where it has one."""
    groups = [np.flatnonzero(pairs.group == name).tolist() for name in dict.fromkeys(pairs.group)]
    planes = ("axial", "coronal", "sagittal")
    chosen: list[int] = []
    for turn in range(rows * len(groups)):
        own = [k for k in groups[turn % len(groups)] if k not in chosen]
        wanted = planes[(turn % len(groups) + turn // len(groups)) % len(planes)]
        fits = [k for k in own if pairs.asked[k].plane == wanted] or own
        chosen += fits[:1]
        if len(chosen) == rows:
            break
    return chosen


def _grey(image: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] as (H, W, 3) bytes."""
    return np.repeat((image.clip(0, 1) * 255).round().astype(np.uint8)[..., None], 3, axis=2)
