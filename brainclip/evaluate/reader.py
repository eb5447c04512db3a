"""Reader study, the kit: pictures that do not say where they come from, a form, and the key kept apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atlas.facts import Facts, level_at
from atlas.files import write_whole
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError
from brainclip.evaluate.pictures import MadePicture
from brainclip.weights import read_json, write_json

REAL = "real"  # the group of the controls
SHEET_ROWS, SHEET_COLUMNS, SHEET_LEAST = 4, 5, 128  # pictures on a sheet, and pixels along a side of one


@dataclass(frozen=True)
class Scale:
    """A question to the rater. levels: words for 1, 2, ... ; good: the least level that counts as good."""

    name: str
    question: str
    levels: tuple[str, ...]
    good: int


# the two phases of the chest X-ray study whose protocol this follows (PUCRS 2024)
REALISM_5 = (
    "totally not realistic",
    "little realistic",
    "reasonably realistic",
    "realistic",
    "very realistic",
)
PHASES = {
    1: (Scale("realism", "How realistic is this slice?", REALISM_5, 3),),
    2: (
        Scale("realism", "How realistic is this slice?", ("not realistic", "realistic", "very realistic"), 2),
        Scale("agreement", "Does it show what the text says?", ("disagrees", "in part", "a lot"), 2),
    ),
}


@dataclass(frozen=True)
class Shown:
    """A picture to be rated. pixels: (H, W) in [0, 1]; group: REAL or the study's own; origin: its file."""

    pixels: np.ndarray
    group: str
    origin: str
    text: str = ""


def scales(phase: int) -> tuple[Scale, ...]:
    """The questions of a phase. BrainclipError for one that is not known."""
    if phase not in PHASES:
        raise BrainclipError(f"phase {phase}; a reader study has phases {', '.join(map(str, PHASES))}")
    return PHASES[phase]


def choose(
    made: dict[str, Sequence[MadePicture]], real: PairDataset, *, each: int, controls: int, seed: int
) -> list[Shown]:
    """`each` pictures of every group, drawn by the seed, and as many real slices as `controls` says.

    A control has plane and contrast of one of the chosen pictures and is the nearest to its position; no
    slice twice. BrainclipError when a group or the real slices have fewer than are asked for.
    """
    generator = np.random.default_rng(seed)
    shown, facts = [], []
    for group, pictures in made.items():
        if group == REAL:
            raise BrainclipError(f"a group of pictures cannot be called {REAL!r}, the controls' name")
        if len(pictures) < each:
            raise BrainclipError(f"group {group!r} has {len(pictures)} pictures, {each} are asked for")
        for k in generator.choice(len(pictures), each, replace=False):
            picture = pictures[k]
            text = said(picture.facts, picture.facts)
            shown.append(Shown(picture.pixels, group, picture.file_name, text))
            facts.append(picture.facts)
    used: set[int] = set()
    for k in range(controls):
        if k % len(facts) == 0:
            order = generator.permutation(len(facts))
        like = facts[order[k % len(facts)]]
        row = _control(real, like, used, generator)
        used.add(row)
        pair, pixels = real.pairs[row], real.images([row])[0, 0].numpy()
        shown.append(Shown(pixels, REAL, pair.file_name, said(pair.facts, like)))
    return shown


def said(facts: Facts, like: Facts) -> str:
    """What a rater of phase 2 reads: the same words for real and made pictures, whatever their captions were.

    Plane, contrast and level, and age and sex where `like`, the facts of the picture or of the one that the
    control stands beside, have them.
    """
    plane, position = str(facts.plane), facts.position_mm
    text = f"{plane} {facts.modality or ''} slice".replace("  ", " ")
    if position is not None:
        text += f", level of the {level_at(plane, position)}"
    who = {"female": "woman", "male": "man"}.get(str(facts.known.get("sex")), "person")
    who = who if "sex" in like.known else "person"
    if "age" in like.known and "age" in facts.known:
        who = f"{facts.known['age']:.0f}-year-old {who}"
    return f"{text}, {who}"


def _control(real: PairDataset, facts: Facts, used: set[int], generator: np.random.Generator) -> int:
    """A real slice not yet used, of this plane and contrast, among the ten nearest to its position."""
    rows = [
        row
        for row, pair in enumerate(real.pairs)
        if row not in used and (pair.facts.plane, pair.facts.modality) == (facts.plane, facts.modality)
    ]
    if not rows:
        raise BrainclipError(
            f"no further real {facts.plane} {facts.modality} slice for a control; ask for fewer controls or "
            "give pairs that have such slices"
        )
    here = facts.position_mm or 0.0
    rows.sort(key=lambda row: (abs((real.pairs[row].facts.position_mm or 0.0) - here), row))
    return int(generator.choice(rows[:10]))


def make_kit(shown: Sequence[Shown], out: Path, key: Path, *, phase: int, seed: int) -> dict[str, Any]:
    """The key, as written. `out`, which goes to the raters, gets pictures/001.png ..., sheets/1.png ... of
    twenty pictures each, form.csv and instructions.md.

    The order is drawn by the seed. A PNG holds 8-bit grey values alone: no text, no name, no time, and all
    are of one size. The key (number -> group, origin, text) must lie outside `out`.
    BrainclipError for pictures of different sizes, an occupied folder, or a key within it.
    """
    questions = scales(phase)
    sizes = {picture.pixels.shape for picture in shown}
    if len(sizes) != 1:
        raise BrainclipError(f"pictures of {len(sizes)} sizes ({sorted(sizes)}) tell where they come from")
    if key.resolve().is_relative_to(out.resolve()):
        raise BrainclipError(f"{key}: the key must not lie in the folder {out} that the raters get")
    if key.exists() or (out.is_dir() and any(out.iterdir())):
        raise BrainclipError(f"{out} or {key}: there already; a kit that is being rated is not overwritten")
    if phase == 2 and (missing := next((one for one in shown if not one.text), None)):
        raise BrainclipError(f"{missing.origin}: has no prompt, so phase 2 cannot ask about it")
    order = np.random.default_rng([seed, 1]).permutation(len(shown))
    numbers = [f"{place + 1:0{max(3, len(str(len(shown))))}d}" for place in range(len(shown))]
    (out / "pictures").mkdir(parents=True)
    pictures = {}
    for number, k in zip(numbers, order, strict=True):
        picture = shown[k]
        grey = (picture.pixels.clip(0, 1) * 255).round().astype(np.uint8)
        Image.fromarray(grey).save(out / "pictures" / f"{number}.png", optimize=True)
        pictures[number] = {"group": picture.group, "origin": picture.origin, "text": picture.text}
    _sheets(out, numbers)
    write_whole(out / "form.csv", _form(pictures, questions, with_text=phase == 2))
    write_whole(out / "instructions.md", _instructions(questions, len(shown)))
    record = {"phase": phase, "seed": seed, "pictures": pictures}
    write_json(key, record)
    return record


def _sheets(out: Path, numbers: Sequence[str]) -> None:
    """sheets/1.png ...: the kit's pictures as they lie in it, each over its number."""
    (out / "sheets").mkdir()
    for page, start in enumerate(range(0, len(numbers), SHEET_ROWS * SHEET_COLUMNS), 1):
        shown = numbers[start : start + SHEET_ROWS * SHEET_COLUMNS]
        with Image.open(out / "pictures" / f"{shown[0]}.png") as first:
            side = first.width * -(-SHEET_LEAST // first.width)
        wide, high, rows = side + 8, side + 24, -(-len(shown) // SHEET_COLUMNS)
        sheet = Image.new("L", (SHEET_COLUMNS * wide, rows * high), 255)
        draw = ImageDraw.Draw(sheet)
        for place, number in enumerate(shown):
            x, y = place % SHEET_COLUMNS * wide, place // SHEET_COLUMNS * high
            with Image.open(out / "pictures" / f"{number}.png") as picture:
                sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
            draw.text((x + 2, y + side + 2), number, fill=0, font=ImageFont.load_default(14))
        sheet.save(out / "sheets" / f"{page}.png", optimize=True)


def _form(pictures: dict[str, Any], questions: Sequence[Scale], *, with_text: bool) -> str:
    """An empty form: a row for each picture, a column for each question."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["picture", *(["text"] if with_text else []), *(scale.name for scale in questions)])
    for number, picture in pictures.items():
        writer.writerow([number, *([picture["text"]] if with_text else []), *("" for _ in questions)])
    return file.getvalue()


def _instructions(questions: Sequence[Scale], n: int) -> str:
    lines = [
        "# Rating slices",
        "",
        f"{n} slices of brain MRI lie in pictures/, some of people, some made by a model; which is which is "
        "not told; sheets/ shows them together. Look at each, in the order of the numbers, and write one "
        "number a column into its row of "
        "form.csv. Leave no cell empty, do not go back, and do not talk about it with another rater before "
        "both are done. Save the form as NAME.csv with a name or letter of your own.",
    ]
    for scale in questions:
        lines += ["", f"**{scale.name}**: {scale.question}", ""]
        lines += [f"- {k} {level}" for k, level in enumerate(scale.levels, 1)]
    return "\n".join(lines) + "\n"


def read_forms(key: dict[str, Any], paths: Sequence[Path]) -> dict[str, dict[str, dict[str, int]]]:
    """Rater -> scale -> number of the picture -> level (1, 2, ...). The rater's name is the file's.

    BrainclipError, one sentence, for two forms of one name, a missing column, an unknown, missing or twice
    rated picture, and what is not a level of the scale.
    """
    names = [path.stem for path in paths]
    if not paths:
        raise BrainclipError("no form given; name the filled CSV of each rater")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BrainclipError(
            f"two forms are called {twice}.csv; the file's name is the rater's, so rename one"
        )
    return {path.stem: _read_form(key, path) for path in paths}


def _read_form(key: dict[str, Any], path: Path) -> dict[str, dict[str, int]]:
    questions, pictures = scales(key["phase"]), key["pictures"]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BrainclipError(f"{path}: not a readable CSV ({error})") from None
    # spreadsheets of some languages write semicolons
    rows = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in text.split("\n", 1)[0] else ",")
    if lacking := {"picture", *(scale.name for scale in questions)} - set(rows.fieldnames or ()):
        raise BrainclipError(f"{path}: no column {sorted(lacking)[0]!r}; fill in the form.csv of the kit")
    found: dict[str, dict[str, int]] = {scale.name: {} for scale in questions}
    digits = len(next(iter(pictures)))
    for line, row in enumerate(rows, 2):
        number = (row["picture"] or "").strip().zfill(digits)  # spreadsheets drop leading zeros
        if number not in pictures:
            raise BrainclipError(f"{path}, line {line}: no picture {row['picture']!r} in this kit")
        for scale in questions:
            if number in found[scale.name]:
                raise BrainclipError(f"{path}, line {line}: picture {number} is rated twice")
            level = (row[scale.name] or "").strip()
            if level not in {str(k) for k in range(1, len(scale.levels) + 1)}:
                raise BrainclipError(
                    f"{path}, line {line}: {scale.name} = {level!r}; a level is a whole number from 1 to "
                    f"{len(scale.levels)}"
                )
            found[scale.name][number] = int(level)
    if missing := sorted(set(pictures) - set(found[questions[0].name])):
        raise BrainclipError(f"{path}: {len(missing)} pictures are not rated, first {missing[0]}")
    return found


def read_key(path: Path) -> dict[str, Any]:
    """The key that make_kit wrote. BrainclipError when it is none."""
    key = read_json(path)
    if not {"phase", "pictures"} <= set(key) or key["phase"] not in PHASES or not key["pictures"]:
        raise BrainclipError(f"{path}: not the key of a reader study; give the file that reader-kit wrote")
    return key
