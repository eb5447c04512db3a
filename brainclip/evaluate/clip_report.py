"""The report of a clip run: its CLIP on held-out people before and after the adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brainclip.clip import Clip
from brainclip.config import Recipe
from brainclip.data import PairDataset, training_data
from brainclip.evaluate.figures import shown
from brainclip.evaluate.page import table
from brainclip.evaluate.retrieval import retrieval
from brainclip.evaluate.space import forgetting, space
from brainclip.evaluate.zero_shot import zero_shot
from brainclip.train.clip import corpus, first_clip
from brainclip.weights import write_json

SPLIT = "validation"


def report_clip(recipe: Recipe) -> str:
    """Write report.md and report.json into <folder>/clip; returns a line of the main figures.

    Before: the recipe's base or start, or its random towers, which have nothing to forget. WeightsError while
    the run is not finished.
    """
    stage, folder = recipe.clip, Path(recipe.folder) / "clip"
    after = Clip.load(folder)
    training = training_data(recipe, stage)
    before = first_clip(stage, training.size, corpus(training, stage.seed)).eval()
    data = PairDataset([recipe.pairs_folder(name) for name in stage.mix], SPLIT)
    measured = {name: measure(clip, data) for name, clip in (("before", before), ("after", after))}
    report: dict[str, Any] = {
        "clip": after.hash,
        "began_with": stage.base or stage.start or "random weights",
        "train": stage.train,
        "locked": stage.locked,
        "split": SPLIT,
        "pairs": data.hash,
        "interval": "95 %: bootstrap over subjects; of forgetting over captions",
        **measured,
        "forgetting": forgetting(before, after) if stage.base or stage.start else {},
    }
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    write_json(folder / "report.json", report)  # last: its presence means complete
    parts = [next(iter(figures["retrieval"].values())) for figures in measured.values()]
    hits = [part["text_to_image_r10"]["value"] for part in parts]
    return f"{folder / 'report.md'} (text to image R@10 {hits[0]} -> {hits[1]})"


def measure(clip: Clip, data: PairDataset) -> dict[str, Any]:
    """Retrieval, zero-shot words and the shape of the space."""
    return {
        "retrieval": retrieval(clip, data),
        "zero_shot": zero_shot(clip, data),
        "space": space(clip, data),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report's tables in Markdown."""
    before, after = report["before"], report["after"]
    lines = [
        f"# CLIP {report['clip']} on the {report['split']} split",
        "",
        f"From {report['began_with']}, trained: {report['train']}"
        + (f", {report['locked']} tower locked" if report["locked"] else "")
        + ". Value (95 % interval, n).",
        "",
    ]
    for kind in ("retrieval", "zero_shot"):
        for name, part in after[kind].items():
            rows = [
                [key, shown(before[kind][name].get(key)), shown(figure)]
                for key, figure in part.items()
                if isinstance(figure, dict)
            ]
            pool = f", {part['pool']} candidates" if "pool" in part else ""
            lines += table([f"{kind.replace('_', '-')}, {name}{pool}", "before", "after"], rows)
    rows = [[key, shown(before["space"][key]), shown(figure)] for key, figure in after["space"].items()]
    lines += table(["space (all the lower the better)", "before", "after"], rows)
    if report["forgetting"]:
        rows = [[key, shown(figure)] for key, figure in report["forgetting"].items()]
        lines += table(["everyday captions, before and after", ""], rows)
    return "\n".join(lines)
