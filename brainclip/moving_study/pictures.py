"""The study's pictures: strips, curves, markers with their masks, detections, and stacks in three planes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from brainclip.anomaly.cases import Cases

SIDE, TEXT, GAP = 160, 12, 4
RED, YELLOW = (255, 70, 60), (255, 220, 0)


def sheet(rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]], path: Path, title: str) -> None:
    """Rows of slices with a label under each, and the row's own name above it.

    slices: (H, W) grey in [0, 1] or uint8, or (H, W, 3) uint8.
    """
    font = ImageFont.load_default(TEXT)
    columns = max(len(cells) for _, cells in rows)
    height = 2 * (TEXT + 4) + SIDE + GAP
    whole = Image.new("RGB", (columns * (SIDE + GAP) + GAP, 2 * TEXT + len(rows) * height), "white")
    draw = ImageDraw.Draw(whole)
    draw.text((GAP, 2), title, fill=0, font=font)
    for number, (name, cells) in enumerate(rows):
        top = 2 * TEXT + number * height
        draw.text((GAP, top), name, fill=0, font=font)
        for column, (pixels, label) in enumerate(cells):
            left = GAP + column * (SIDE + GAP)
            whole.paste(_shown(pixels), (left, top + TEXT + 4))
            draw.text((left, top + TEXT + 5 + SIDE), label, fill=(90, 90, 90), font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path, optimize=True)


def _shown(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(pixels).convert("RGB")
    scale = SIDE / max(image.size)
    image = image.resize(
        (round(image.size[0] * scale), round(image.size[1] * scale)), Image.Resampling.BICUBIC
    )
    cell = Image.new("RGB", (SIDE, SIDE))
    cell.paste(image, ((SIDE - image.size[0]) // 2, (SIDE - image.size[1]) // 2))
    return cell


def outlined(pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = RED) -> np.ndarray:
    """(2 H, 2 W, 3) uint8 of a slice (H, W) in [0, 1], twice as large, with the outline of a mask."""
    large = ndimage.zoom(pixels, 2, order=1).clip(0, 1)
    inside = np.kron(mask, np.ones((2, 2), dtype=bool))
    edge = inside & ~ndimage.binary_erosion(inside)
    shown = np.repeat((large * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    shown[edge] = colour
    return shown


def curves(report: dict[str, Any], path: Path) -> None:
    """Ventricles by age: people of the cohort as points, trajectories as lines, a panel a contrast."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = report["contrasts"]
    figure, axes = pyplot.subplots(1, len(found), figsize=(3.4 * len(found), 3.2), squeeze=False)
    for axis, (modality, one) in zip(axes[0], found.items(), strict=True):
        ages, shares = np.array(one["cohort"]["points"])
        axis.plot(
            ages, shares, ".", color="#888888", markersize=4, label=f"people ({one['cohort']['pairs']})"
        )
        grid = np.linspace(ages.min(), ages.max(), 50)
        axis.plot(grid, np.polyval(np.polyfit(ages, shares, 2), grid), color="#1d4ed8", label="their curve")
        for k, row in enumerate(one["ways"]["prior"]["shares"]):
            label = None if k else "trajectories (synthetic)"
            axis.plot(one["ways"]["prior"]["ages"], row, color="#c2410c", alpha=0.6, linewidth=1, label=label)
        axis.set_title(modality)
        axis.set_xlabel("age, years")
        axis.grid(color="#e5e5e5")
    axes[0][0].set_ylabel("% of the brain in the slice")
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def three_planes(axial: np.ndarray, every_mm: float, spacing_mm: float) -> list[tuple[np.ndarray, str]]:
    """Axial, coronal and sagittal middle cuts of axial slices (N, H, W), ascending, as they are displayed;
    across, linear between slices."""
    volume = ndimage.zoom(axial.astype(np.float32), (every_mm / spacing_mm, 1, 1), order=1)
    coronal = volume[::-1, volume.shape[1] // 2]
    sagittal = volume[::-1, :, volume.shape[2] // 2]
    return [
        (axial[len(axial) // 2], "axial"),
        (coronal, "coronal"),
        (sagittal, "sagittal, front at image left"),
    ]


def detections(cases: Cases, called: np.ndarray, each: int) -> list[tuple[str, list[tuple[np.ndarray, str]]]]:
    """Rows for `sheet`: of each patient and contrast the `each` slices with the largest lesions, with the
    true outline red and what the detector calls, where `called` (N, H, W) is true, yellow."""
    rows = []
    keys = [(row.subject, str(row.facts.modality)) for row in cases.rows]
    for key in dict.fromkeys(keys):
        own = np.array([i for i, other in enumerate(keys) if other == key])
        area = cases.masks[own].sum((1, 2))
        cells = []
        for i in own[np.argsort(-area)[:each]]:
            shown = outlined(cases.images[i], cases.masks[i])
            found = outlined(cases.images[i], called[i], YELLOW)
            label = f"z {cases.rows[i].facts.position_mm:+.0f}"
            cells += [(shown, f"{label}, true"), (found, f"{label}, called")]
        rows.append((f"{key[0]}, {key[1]} (real)", cells))
    return rows
