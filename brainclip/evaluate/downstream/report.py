"""The study's report: tables, the curve over shares of synthetic slices, and slices of each training set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from brainclip.evaluate.downstream.arms import TrainingSet
from brainclip.evaluate.downstream.tasks import Task
from brainclip.evaluate.figures import shown

SHOWN = 10  # slices of each arm on the sheet
CELL, LEFT, TEXT = 96, 150, 11  # pixels
PUBLISHED = (  # USP 2023: ten classes of animals, ResNet-34; ORT Uruguay 2023: skin lesions, MobileNet
    "Published, of other pictures and networks: 10 classes of animals, real 0.728, half 0.627, all "
    "synthetic (Stable Diffusion 2.1) 0.336, mixed 0.695: 67 % of the gap closed. Skin lesions, share of "
    "synthetic pictures 0, 20, 40, 60, 80, 100 %: 79.9, 79.3, 82.6, 84.3, 81.0, 54.3 %; minority classes "
    "made up with synthetic pictures: 88.7 %."
)


def as_markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    recipe = report["recipe"]
    lines = [
        "# Are generated slices of use for training a classifier?",
        "",
        f"Generator {report['model']}. Network {recipe['network']} from random weights, slices of "
        f"{recipe['size']} x {recipe['size']} pixels, {recipe['epochs']} epochs of batches of "
        f"{recipe['batch']}, Adam at {recipe['rate']:g}; seeds {', '.join(map(str, recipe['seeds']))}. A "
        "seed draws the order of the people, the weights and the order of the slices, the same for all arms. "
        "Tested on people of whom neither the generator nor a classifier has seen a slice. The generator has "
        "seen all training people, also those that an arm leaves out.",
        "",
        "Accuracy: mean over seeds, 95 % interval over test people, in brackets each seed. On twins: right "
        "among the synthetic slices that the arm was not trained on. p: Wilcoxon over people; q: after "
        "Benjamini and Hochberg over the task's comparisons; p, seeds: paired t over the seeds.",
    ]
    for name, part in report["tasks"].items():
        lines += ["", f"## {name}", "", _slices(part), ""]
        if part["twins"] == "same":
            lines += ["In the place of synthetic slices: the real ones again, with other lesions.", ""]
        lines += [
            "| arm | real | synthetic | steps | accuracy | macro recall | on twins |",
            "|---|---|---|---|---|---|---|",
        ]
        for arm, row in part["arms"].items():
            seeds = ", ".join(f"{value:.3f}" for value in row["seeds"])
            twins = "" if row["on_twins"] is None else f"{row['on_twins']:.3f}"
            cells = [arm, *(f"{row[key]:.0f}" for key in ("real", "twins", "steps"))]
            cells += [f"{_points(row['accuracy'])} [{seeds}]", _points(row["recall"]), twins]
            lines.append(f"| {' | '.join(cells)} |")
        if part["comparisons"]:
            lines += ["", "| difference of accuracy | | people better, worse | p | q | p, seeds |"]
            lines += ["|---|---|---|---|---|---|"]
        for pair, row in part["comparisons"].items():
            seeds = "" if row["p_seeds"] is None else f"{row['p_seeds']:.3f}"
            cells = [pair, _points(row["difference"], sign=True), f"{row['better']}, {row['worse']}"]
            cells += [f"{row['p_people']:.3f}", f"{row['q_people']:.3f}", seeds]
            lines.append(f"| {' | '.join(cells)} |")
        for arm, row in part["gaps"].items():
            gap = f"Gap between the arms that {arm} lies between: {_points(row['gap'], sign=True)}"
            closed = row["closed"]
            told = (
                f"closed by {arm}: {shown(closed)}"
                if closed["value"] is not None
                else ("not clearly above 0, so no share of it can be closed")
            )
            lines += ["", f"{gap}; {told}."]
    return "\n".join([*lines, "", PUBLISHED]) + "\n"


def _slices(part: dict[str, Any]) -> str:
    """What a task was trained and tested on, in a sentence."""
    kind = "simulated" if part["simulated"] else "real"
    texts = []
    for split in ("training", "test"):
        counted = ", ".join(f"{label} {n}" for label, n in part[split]["labels"].items())
        texts.append(f"{part[split]['slices']} slices of {part[split]['people']} {kind} people ({counted})")
    return (
        f"Training: {texts[0]}. Test ({'+'.join(part['splits'])}): {texts[1]}; always the most frequent "
        f"label: {part['chance']:.3f}."
    )


def _points(figure: dict[str, Any], *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    if figure["low"] is None:
        return f"{figure['value']:{form}}"
    return f"{figure['value']:{form}} ({figure['low']:{form}} to {figure['high']:{form}})"


def curve(report: dict[str, Any], path: Path) -> None:
    """A PNG of accuracy against the share of synthetic slices, over arms as large as the real one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = report["recipe"]["arm"]
    swept = {
        name: table["synthetic"]
        for name, table in arms.items()
        if abs(table["real"] + table["synthetic"] - 1) < 1e-9
        and not (table["pretrain"] or table["steps"] or table["kept"] < 1)
    }
    drawing = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    for number, (name, part) in enumerate(report["tasks"].items()):
        points = sorted((share, arm) for arm, share in swept.items() if arm in part["arms"])
        if len(points) < 2:
            continue
        rows = [part["arms"][arm]["accuracy"] for _, arm in points]
        x = 100 * np.array([share for share, _ in points]) + 0.6 * number  # so that bars do not overlap
        y = 100 * np.array([row["value"] for row in rows])
        ends = 100 * np.array([[row["low"], row["high"]] for row in rows]).T
        axes.errorbar(x, y, np.abs(ends - y), marker="o", capsize=3, label=name, color=f"C{number}")
        axes.axhline(100 * part["chance"], color=f"C{number}", linestyle=":", linewidth=1)
    axes.set_xlabel("synthetic slices, % of the training set")
    axes.set_ylabel("right, % of test slices")
    axes.set_title(
        "mean over seeds, 95 % interval over test people; dotted: most frequent label", fontsize="small"
    )
    axes.legend(fontsize="small")
    drawing.savefig(path, metadata={"Software": None})


def sheet(task: Task, sets: Mapping[str, TrainingSet], path: Path) -> None:
    """A PNG with some training slices of each arm, real ones first."""
    font = ImageFont.load_default(TEXT)
    high = CELL + 2 * (TEXT + 3)
    image = Image.new("L", (LEFT + SHOWN * (CELL + 4), 24 + high * len(sets)), 255)
    draw = ImageDraw.Draw(image)
    title = "Training slices of each arm, first seed. Synthetic: generated for the facts of a training slice."
    draw.text((4, 4), title, fill=0, font=font)
    for line, (arm, chosen) in enumerate(sets.items()):
        y = 24 + line * high
        draw.text((4, y + CELL // 2), arm, fill=0, font=font)
        draw.text(
            (4, y + CELL // 2 + 14),
            f"{len(chosen.real)} real, {len(chosen.twins)} synthetic",
            fill=0,
            font=font,
        )
        for column, (grey, row, word) in enumerate(_some(task, chosen)):
            x = LEFT + column * (CELL + 4)
            image.paste(Image.fromarray(grey.numpy()).resize((CELL, CELL)), (x, y))
            draw.text((x, y + CELL), word, fill=0, font=font)
            draw.text((x, y + CELL + TEXT + 1), task.names[task.training.labels[row]], fill=0, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG", optimize=True)


def _some(task: Task, chosen: TrainingSet) -> list[tuple[Tensor, int, str]]:
    """Slices of the set, evenly over it: grey (H, W), row, and what it is."""
    whole = [(task.training.grey[row], int(row), "real") for row in chosen.real]
    whole += [(task.twins[row], int(row), "synthetic") for row in chosen.twins]
    places = np.linspace(0, len(whole) - 1, min(SHOWN, len(whole))).round().astype(int)
    return [whole[place] for place in places]
