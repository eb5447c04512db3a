"""Sheet: generated slices beside held-out ones of the same facts, in the same grey window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atlas.facts import AXIS, level_named
from atlas.slices import MODALITIES
from brainclip.config import Recipe
from brainclip.data import PairDataset
from brainclip.evaluate.pictures import generated, nearest, tables_of
from brainclip.evaluate.prompts import Asked
from brainclip.model import BrainCLIP

ROWS = (  # plane, level, age, sex
    ("axial", "pons", 55, "male"),
    ("axial", "thalamus", 24, "female"),
    ("axial", "lateral ventricles", 78, "male"),
    ("axial", "centrum semiovale", 42, "female"),
    ("coronal", "hippocampus", 74, "female"),
    ("coronal", "caudate heads", 30, "male"),
    ("sagittal", "midline", 35, "male"),
    ("sagittal", "left insula", 66, "female"),
)
NOUN = {"female": "woman", "male": "man"}
LEAST = 128  # pixels along a side of a shown slice
TEXT, GAP = 11, 6  # pixels
TITLE = (
    "Of each pair, left: the held-out slice with the nearest facts; right: generated (synthetic). "
    "Same grey window. Subject's left at image left; sagittal: front at image left."
)


def sheet_prompts(modalities: Sequence[str]) -> list[Asked]:
    """The prompts of the contact sheet: plane x level x age by row, contrast by column."""
    asked = []
    for plane, name, age, sex in ROWS:
        level = level_named(plane, name)
        for modality in modalities:
            text = f"{plane} {modality} slice at the level of the {name}, healthy {age}-year-old {NOUN[sex]}"
            asked.append(Asked(text, plane, modality, (level.from_mm + level.to_mm) / 2, name, age, sex))
    return asked


def contact_sheet(
    model: BrainCLIP,
    recipe: Recipe,
    data: PairDataset,
    path: Path,
    folder: Path,
    *,
    asked: Sequence[Asked] | None = None,
    seeds: Sequence[int] | None = None,
    adapter: str | None = "auto",
) -> int:
    """Write a sheet as a PNG and return its number of prompts; pictures are kept in `folder`.

    asked: the prompts, four a row; None: sheet_prompts, one column a contrast. seeds: of the pictures; None:
    0.
    """
    modalities = [name for name in MODALITIES if name in model.card["modalities"]]
    columns = 4 if asked is not None else len(modalities)
    asked = sheet_prompts(modalities) if asked is None else asked
    seeds = [0] * len(asked) if seeds is None else seeds
    pictures = generated(model, [row.text for row in asked], seeds, folder, adapter=adapter)
    cells = []
    for k, row in enumerate(asked):
        adapter = pictures.adapters[k]
        i = nearest(data, row, [recipe.pairs_folder(name) for name in tables_of(recipe, adapter)])
        true = data.images([i])[0, 0].numpy() if i >= 0 else np.zeros((data.size, data.size), np.float32)
        label = _facts_in_short(data, i) if i >= 0 else "none held out"
        made = f"generated, seed {seeds[k]}" + (f", {adapter}" if adapter else "")
        cells.append(pair_cell(row.text, true, pictures.images[k, 0].numpy(), label, made))
    save_sheet(cells, columns, path)
    return len(asked)


def _facts_in_short(data: PairDataset, i: int) -> str:
    """What a held-out slice is: "real IXI, 67 y F, z +18"."""
    facts, dataset = data.pairs[i].facts, data.datasets[data.folder_of[i]]
    source = "simulated" if dataset["synthetic"] else f"real {str(dataset['source']).upper()}"
    age = f", {facts.known['age']:.0f} y" if "age" in facts.known else ""
    sex = {"female": " F", "male": " M"}.get(str(facts.known.get("sex")), "")
    return f"{source}{age}{sex}, {AXIS[str(facts.plane)]} {facts.position_mm:+.0f}"


def pair_cell(prompt: str, true: np.ndarray, made: np.ndarray, left: str, right: str) -> Image.Image:
    """One pair of slices (H, W) in [0, 1] with the prompt above and a caption under each."""
    factor = -(-LEAST // len(true))
    side, font = len(true) * factor, ImageFont.load_default(TEXT)
    lines = _wrapped(prompt, 2 * side + GAP, font)
    top = 2 * (TEXT + 3)
    cell = Image.new("L", (2 * side + GAP, top + side + TEXT + 5), 255)
    draw = ImageDraw.Draw(cell)
    for number, line in enumerate(lines[:2]):
        draw.text((0, number * (TEXT + 2)), line, fill=0, font=font)
    for pixels, x, caption in ((true, 0, left), (made, side + GAP, right)):
        grey = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
        cell.paste(grey.resize((side, side), Image.Resampling.NEAREST), (x, top))
        draw.text((x, top + side + 1), _cut(caption, side, font), fill=0, font=font)
    return cell


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a text as fits."""
    while font.getlength(text) > width:
        text = text[:-1]
    return text


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def save_sheet(cells: Sequence[Image.Image], columns: int, path: Path, *, title: str = TITLE) -> None:
    """Write the cells in rows of `columns`, under the title, as a PNG."""
    width, height = cells[0].size
    rows = -(-len(cells) // columns)
    font = ImageFont.load_default(TEXT + 1)
    whole = columns * (width + 3 * GAP) + GAP
    lines = _wrapped(title, whole - 2 * GAP, font)
    top = len(lines) * (TEXT + 4) + 2 * GAP
    sheet = Image.new("L", (whole, top + rows * (height + 2 * GAP)), 255)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP + number * (TEXT + 4)), line, fill=0, font=font)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(cell, (GAP + column * (width + 3 * GAP), top + row * (height + 2 * GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    sheet.save(temporary, "PNG")
    temporary.replace(path)
