"""What a search has found, as a picture: the query, and the slices with what is known of them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from brainclip.embedding.index import Hit, Index
from brainclip.errors import BrainclipError
from brainclip.picture import read_slice, write

TILE = 192  # pixels along a side of a slice
TEXT = 52  # pixels below it
ACROSS = 5


def hit_pixels(index: Index, hit: Hit) -> np.ndarray:
    """(H, W) float32 in [0, 1] of what was found. BrainclipError where its file is not there any more."""
    if not index.about["pictures"]:
        raise BrainclipError(
            f"{index.folder}: made of a file of embeddings, so it does not know where the slices lie; "
            "`brainclip index PAIRS` makes one that does"
        )
    geometry = index.about["geometry"]
    path = Path(index.about["pictures"]) / hit.columns["file"]
    return read_slice(path, geometry["size"], geometry["spacing_mm"])


def search_sheet(
    index: Index, title: str, hits: Sequence[Hit], query: np.ndarray | None = None
) -> Image.Image:
    """The found slices in rows of ACROSS, best first, the subject's left at image left.

    query: (H, W) in [0, 1], shown first where the query was a slice.
    """
    tiles = [(query, "the query")] if query is not None else []
    tiles += [(hit_pixels(index, hit), told(hit)) for hit in hits]
    if not tiles:
        raise BrainclipError("nothing was found, so there is nothing to show")
    rows = -(-len(tiles) // ACROSS)
    font = ImageFont.load_default(12)
    lines = textwrap.wrap(title, ACROSS * TILE // 7)
    top = 18 * len(lines) + 10
    sheet = Image.new("L", (min(len(tiles), ACROSS) * TILE, top + rows * (TILE + TEXT)), 255)
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((6, 5), "\n".join(lines), fill=0, font=ImageFont.load_default(14))
    for number, (pixels, text) in enumerate(tiles):
        row, column = divmod(number, ACROSS)
        place = column * TILE, top + row * (TILE + TEXT)
        tile = Image.fromarray((pixels * 255).round().astype(np.uint8))
        sheet.paste(tile.resize((TILE, TILE), Image.Resampling.BICUBIC), place)
        draw.multiline_text((place[0] + 4, place[1] + TILE + 2), text, fill=0, font=font, spacing=2)
    return sheet


def told(hit: Hit) -> str:
    """What is known of a found slice, three lines."""
    columns, facts = hit.columns, hit.facts
    place = "" if facts.position_mm is None else f" {facts.position_mm:+.0f} mm"
    lines = [f"{columns['subject']}  {hit.score:.3f}", f"{facts.plane or '?'} {facts.modality or ''}{place}"]
    person = [f"{facts.known['age']:.0f} y"] if "age" in facts.known else []
    person += [str(facts.known["sex"])] if "sex" in facts.known else []
    size = facts.percentiles.get("lateral ventricles")
    person += [f"ventricles {size:.0f} %ile"] if size is not None else []
    return "\n".join([*lines, ", ".join(person)])


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a .png whole or not at all."""
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write(path, buffer.getvalue())
