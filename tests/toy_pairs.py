"""A folder of pairs with drawn slices, in which plane, contrast, position and age can be seen."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from atlas.facts import Facts, level_at
from atlas.records import FORMAT, line_of
from atlas.slices import MODALITIES, PLANES, WINDOWS, Geometry

SIZE = 32
BOXES = {"axial": (2, 30, 9, 23), "coronal": (9, 23, 2, 30), "sagittal": (6, 26, 6, 26)}


def draw(facts: Facts) -> np.ndarray:
    """(32, 32) in [0, 1]: box by plane, grey by contrast, bright column by position, dark row by age."""
    image = np.zeros((SIZE, SIZE), np.float32)
    top, bottom, left, right = BOXES[str(facts.plane)]
    image[top:bottom, left:right] = 0.25 + 0.2 * MODALITIES.index(str(facts.modality))
    place = (
        abs(float(facts.position_mm or 0))
        if facts.plane == "sagittal"
        else float(facts.position_mm or 0) + 40
    )
    column = left + round(place / 100 * (right - left - 3))
    image[top:bottom, column : column + 2] = 1.0
    # not at the edge of the box: there a dark row is a smaller box
    row = top + 3 + round((facts.known["age"] - 20) / 65 * (bottom - top - 8))
    image[row : row + 2, left:right] = 0.05
    return image


def some_facts(seed: int, age: float, sex: str, n: int = 24) -> list[Facts]:
    """n facts of one person over planes, contrasts and positions from -40 to 60 mm."""
    generator = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        plane, modality = PLANES[k % 3], MODALITIES[k // 3 % 4]
        position = float(generator.integers(-40, 60))
        known = {"age": age, "sex": sex}
        rows.append(Facts(plane, position, modality, level_at(plane, position), known=known, source="toy"))
    return rows


def write_toy_pairs(folder: Path, *, subjects: tuple[int, int, int] = (12, 2, 3), seed: int = 0) -> None:
    """A folder that read_pairs and PairDataset take; `subjects`: in train, validation and test."""
    lines, volumes = [], []
    counts = dict(zip(("train", "validation", "test"), subjects, strict=True))
    generator = np.random.default_rng(seed)
    for split, count in counts.items():
        for number in range(count):
            subject, age = f"{split}{number:02d}", float(generator.integers(20, 86))
            volumes.append({"subject": subject, "session": "", "volumes": {}})
            for k, facts in enumerate(
                some_facts(int(generator.integers(1e6)), age, ("female", "male")[number % 2])
            ):
                name = f"{split}/{subject}/{k:03d}.png"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((draw(facts) * 255).round().astype(np.uint8)).save(folder / name)
                lines.append(line_of(name, subject, split, "", facts))
    for name, rows in (("metadata", lines), ("volumes", volumes)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = {
        "format": FORMAT,
        "source": "simulated",
        "synthetic": True,
        "pairs": len(lines),
        "subjects": counts,
        "geometry": asdict(Geometry(SIZE, 6.0)),
        "windows": WINDOWS,
        "content_sha256": f"toy{seed}",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))


def drawn(rows: list[Facts]) -> torch.Tensor:
    """(N, 1, 32, 32) slices of these facts."""
    return torch.from_numpy(np.stack([draw(facts) for facts in rows]))[:, None]
