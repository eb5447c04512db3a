"""Strips: several pictures side by side, as one PNG or GIF that says what they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from brainclip.errors import BrainclipError
from brainclip.picture import Picture

SIDE = 192  # pixels along a side of a shown slice
TEXT, GAP = 13, 4
SECONDS = 0.6  # a picture of a GIF is shown
ENDINGS = (".png", ".gif")
NOTE = "synthetic, brainclip; subject's left at image left"


def check_strip(path: Path) -> None:
    """BrainclipError for a file that save_strip cannot write."""
    if path.suffix not in ENDINGS:
        raise BrainclipError(f"{path}: a strip is saved as .png or .gif")


def save_strip(pictures: Sequence[Picture], labels: Sequence[str], path: Path | str) -> Path:
    """Write pictures with a label each, in a row (.png) or one after the other (.gif), and what they are."""
    path = Path(path)
    check_strip(path)
    cells = [_cell(picture, label) for picture, label in zip(pictures, labels, strict=True)]
    told = json.dumps([picture.provenance for picture in pictures], ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    if path.suffix == ".gif":
        first, *others = cells
        duration = round(SECONDS * 1000)
        comment = f"synthetic; {told}"
        first.save(
            unfinished,
            "GIF",
            save_all=True,
            append_images=others,
            duration=duration,
            loop=0,
            comment=comment.encode(),
        )
    else:
        text = PngImagePlugin.PngInfo()
        for key, value in (("synthetic", "true"), ("software", "brainclip"), ("pictures", told)):
            text.add_itxt(key, value)
        row(cells).save(unfinished, "PNG", pnginfo=text)
    unfinished.replace(path)
    return path


def row(cells: Sequence[Image.Image]) -> Image.Image:
    """Images of one size side by side on white."""
    width, height = cells[0].size
    whole = Image.new(cells[0].mode, (len(cells) * (width + GAP) - GAP, height), "white")
    for number, cell in enumerate(cells):
        whole.paste(cell, (number * (width + GAP), 0))
    return whole


def _cell(picture: Picture, label: str) -> Image.Image:
    """A picture of SIDE pixels with its label above and the note below."""
    font, small = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT - 5)
    cell = Image.new("L", (SIDE, TEXT + 5 + SIDE + TEXT - 2), 255)
    draw = ImageDraw.Draw(cell)
    draw.text((2, 0), label, fill=0, font=font)
    cell.paste(picture.image().resize((SIDE, SIDE), Image.Resampling.BICUBIC), (0, TEXT + 5))
    draw.text((2, TEXT + 5 + SIDE), NOTE, fill=0, font=small)
    return cell
