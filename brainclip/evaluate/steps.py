"""Study: what do more sampler steps cost, and what do they bring? `brainclip steps RECIPE`.

Pixel-space models and the latent chain on one machine: seconds a picture, FID and KID by several extractors.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from atlas.facts import Facts
from atlas.files import write_whole
from brainclip.clip import Clip
from brainclip.config import EvaluateRecipe, as_dict
from brainclip.data import PairDataset, nested
from brainclip.errors import RecipeError
from brainclip.evaluate.distribution import LEAST, distribution
from brainclip.evaluate.downstream.tasks import prompt_of
from brainclip.evaluate.features import Extractor, FeatureFolder, extractors
from brainclip.evaluate.figures import rounded, shown
from brainclip.evaluate.judge import Judge
from brainclip.evaluate.pictures import identity
from brainclip.model import load
from brainclip.pixel import PixelDiffusion
from brainclip.pixel_sizes import MODELS
from brainclip.weights import DIFFUSERS_WEIGHTS, hash_file, read_json, write_json

FIGURES = ("fid", "kid")
SHOWN = 8  # pictures of a row of the sheet
# published: ms a step on an L40, 256 x 256 (Bologna 2025)
PUBLISHED_MS = {
    "uvit-small": 6.36,
    "uvit-large": 6.29,
    "unet-small": 12.39,
    "unet-small-attention": 14.30,
    "unet-large": 14.60,
    "unet-large-attention": 16.80,
}
Draw = Callable[[Sequence[int], int], Tensor]  # seeds and steps -> (B, 1, H, W) in [0, 1]


@dataclass(frozen=True)
class ChainRecipe:
    """One way to a picture: model, a latent one; or pixel, the folder of a trained pixel stage; or untrained,
    a name in brainclip.pixel_sizes.MODELS with random weights, which is timed alone.

    steps: of its sampler, for the time; judged: those of them for which pictures are compared with slices.
    adapter: of the latent model.
    """

    model: str = ""
    pixel: str = ""
    untrained: str = ""
    steps: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000)
    judged: tuple[int, ...] = ()
    adapter: str = "auto"


@dataclass(frozen=True)
class StepsRecipe:
    """Chains, and the real slices that their pictures are compared with: of the training people, whom all
    were trained on, and of others, which is the floor."""

    folder: str = "runs/steps"
    pairs: tuple[str, ...] = ()
    split: str = "test"  # the other people
    pictures: int = 64  # of each chain and number of steps
    repeats: int = 3  # pictures timed one by one
    size: int = 256  # pixels along a side of untrained models
    clip: str = ""  # folders of the networks whose features are compared
    judge: str = ""
    evaluate: EvaluateRecipe = field(default_factory=EvaluateRecipe)
    chain: dict[str, ChainRecipe] = field(default_factory=dict)


def check_steps(recipe: StepsRecipe) -> None:
    """RecipeError, one sentence, for what cannot be run."""
    if not recipe.chain:
        raise RecipeError("the study needs a [chain.NAME] with model, pixel or untrained")
    for name, chain in recipe.chain.items():
        if sum(map(bool, (chain.model, chain.pixel, chain.untrained))) != 1:
            raise RecipeError(f"[chain.{name}]: give one of model, pixel and untrained")
        if chain.untrained and chain.untrained not in MODELS:
            raise RecipeError(f"chain.{name}.untrained = {chain.untrained!r}; possible: {', '.join(MODELS)}")
        if chain.untrained and chain.judged:
            raise RecipeError(
                f"[chain.{name}]: pictures of random weights are not judged; leave judged empty"
            )
        if not chain.steps or not set(chain.judged) <= set(chain.steps) or min(chain.steps) < 1:
            raise RecipeError(f"[chain.{name}]: steps are numbers above 0, and judged are among them")
    if any(chain.judged for chain in recipe.chain.values()):
        if not (recipe.pairs and recipe.clip and recipe.judge):
            raise RecipeError("pictures are judged against pairs by a clip and a judge; name their folders")
        if recipe.pictures < LEAST:
            raise RecipeError(f"pictures = {recipe.pictures}; FID and KID need {LEAST} at least")


def run_steps(recipe: StepsRecipe) -> dict[str, Any]:
    """machine, chains: name -> weights, seconds (steps -> median, least, most), per_step_ms, start_ms,
    judged (steps -> extractor -> fid, kid), floor: extractor -> fid, kid.

    report.json, report.md, sheet.png and pictures/ in the recipe's folder; what is done is not done again.
    """
    check_steps(recipe)
    folder = Path(recipe.folder)
    judged = any(chain.judged for chain in recipe.chain.values())
    known = (
        extractors(Clip.load(Path(recipe.clip)), Judge.load(Path(recipe.judge)), recipe.evaluate)
        if judged
        else []
    )
    real = PairDataset([Path(path) for path in recipe.pairs], "train") if judged else None
    facts = [pair.facts for pair in nested(real.pairs)[: recipe.pictures]] if real else []
    report: dict[str, Any] = {"recipe": as_dict(recipe), "machine": _machine(), "chains": {}, "floor": {}}
    rows: list[tuple[str, Tensor]] = []
    if real is not None:
        reference, people = _reference(real, recipe.pictures)
        rows.append(("real slices of training people", reference[:SHOWN]))
        others = PairDataset([Path(path) for path in recipe.pairs], recipe.split)
        floor, floor_people = _reference(others, recipe.pictures)
        report["floor"] = _compared(known, reference, floor, people, folder, floor_people)
    for name, chain in recipe.chain.items():
        draw, weights = _chain(recipe, chain, facts)
        path = folder / f"{name}.json"
        kept = read_json(path) if path.is_file() else {}
        asked = [weights, as_dict(chain), recipe.repeats, recipe.pictures, recipe.size]
        if kept and kept["asked"] != asked:
            raise RecipeError(f"{path}: made by another recipe or other weights; remove it or set a folder")
        kept = kept or {"asked": asked, "seconds": {}}
        for steps in tqdm(chain.steps, desc=name, unit="number of steps"):
            if str(steps) not in kept["seconds"]:
                kept["seconds"][str(steps)] = _seconds(draw, steps, recipe.repeats)
                write_json(path, kept)
        found = {"weights": weights, "seconds": kept["seconds"], "judged": {}} | _line(kept["seconds"])
        for steps in chain.judged:
            assert real is not None
            made = _pictures(draw, steps, recipe.pictures, folder / "pictures" / f"{name}-{steps}")
            rows.append((f"{name}, {steps} steps (synthetic)", made[:SHOWN]))
            found["judged"][str(steps)] = _compared(known, reference, made, people, folder, None)
        report["chains"][name] = found
    if rows:
        _sheet(rows, folder / "sheet.png")
    write_whole(folder / "report.md", as_markdown(report))
    write_json(folder / "report.json", report)
    return report


def _chain(recipe: StepsRecipe, chain: ChainRecipe, facts: Sequence[Facts]) -> tuple[Draw, str]:
    """What draws a chain's pictures, and a hash of its weights; picture k of the latent chain is prompted by
    the k-th of the facts, those of training slices."""
    if chain.untrained:
        torch.manual_seed(0)
        new = PixelDiffusion.new(chain.untrained, recipe.size).eval()
        return lambda seeds, steps: new.sample(seeds, steps=steps), f"random {recipe.size}"
    if chain.pixel:
        pixels = PixelDiffusion.load(Path(chain.pixel))
        return (
            lambda seeds, steps: pixels.sample(seeds, steps=steps),
            hash_file(Path(chain.pixel) / DIFFUSERS_WEIGHTS),
        )
    model = load(chain.model)
    prompts = [prompt_of(row) for row in facts] or ["axial T1 slice, z = 12 mm, healthy 50-year-old woman"]
    adapter = None if chain.adapter == "none" else chain.adapter

    def draw(seeds: Sequence[int], steps: int) -> Tensor:
        asked = [prompts[seed % len(prompts)] for seed in seeds]
        made = model.generate(asked, seed=list(seeds), steps=steps, adapter=adapter)
        return torch.from_numpy(np.stack([picture.pixels for picture in made]))[:, None]

    return draw, identity(model)


def _machine() -> str:
    """What the times were taken on, in words."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{load}"


def _seconds(draw: Draw, steps: int, repeats: int) -> dict[str, Any]:
    """seconds and processor (of this process, all threads) a picture: median, least and most of `repeats`,
    drawn one by one after one that is not counted."""
    taken = []
    draw([0], min(steps, 2))
    for seed in range(repeats):
        begun, worked = time.perf_counter(), time.process_time()
        draw([seed], steps)
        taken.append((time.perf_counter() - begun, time.process_time() - worked))
    wall, processor = np.array(taken).T
    return {
        key: [round(float(x), 4) for x in (np.median(values), values.min(), values.max())]
        for key, values in (("seconds", wall), ("processor", processor))
    }


def _line(seconds: dict[str, Any]) -> dict[str, Any]:
    """per_step_ms and start_ms: the line through the medians of processor seconds over steps, and its r."""
    x = np.array([int(steps) for steps in seconds], dtype=float)
    y = 1000 * np.array([row["processor"][0] for row in seconds.values()])
    if len(x) < 2:
        return {"per_step_ms": rounded(y[0] / x[0]), "start_ms": 0.0, "r": None}
    line = stats.linregress(x, y)
    return {
        "per_step_ms": rounded(line.slope),
        "start_ms": rounded(line.intercept),
        "r": rounded(line.rvalue),
    }


def _pictures(draw: Draw, steps: int, n: int, folder: Path) -> Tensor:
    """(n, 1, H, W) in [0, 1], picture k of seed k; kept in `folder` as PNG that says what it is."""
    for seed in tqdm(range(n), desc=folder.name, unit="picture"):
        path = folder / f"{seed:04d}.png"
        if not path.is_file():
            made = Image.fromarray((draw([seed], steps)[0, 0] * 255).round().byte().numpy())
            note = PngInfo()
            note.add_text("synthetic", "true")
            folder.mkdir(parents=True, exist_ok=True)
            made.save(path.with_suffix(".part"), "PNG", pnginfo=note)
            path.with_suffix(".part").replace(path)
    grey = [np.asarray(Image.open(folder / f"{seed:04d}.png")) for seed in range(n)]
    return torch.from_numpy(np.stack(grey))[:, None].float() / 255


def _reference(data: PairDataset, n: int) -> tuple[Tensor, np.ndarray]:
    """n slices (N, 1, H, W), planes and contrasts in turns, and their people."""
    chosen = nested(data.pairs)[:n]
    rows = {pair.file_name: row for row, pair in enumerate(data.pairs)}
    images = data.images([rows[pair.file_name] for pair in chosen])
    return images, np.array([pair.subject for pair in chosen])


def _compared(
    known: Sequence[Extractor],
    real: Tensor,
    made: Tensor,
    people: np.ndarray,
    folder: Path,
    made_people: np.ndarray | None,
) -> dict[str, Any]:
    """Extractor -> fid and kid with intervals."""
    found, kept = {}, FeatureFolder(folder / "features")
    for extractor in known:
        first, second = (kept.features(extractor, images) for images in (real, made))
        figures = distribution(first, second, people, made_subjects=made_people)
        found[f"{extractor.name} {extractor.hash}"] = {key: figures[key] for key in FIGURES}
    return found


def _sheet(rows: Sequence[tuple[str, Tensor]], path: Path) -> None:
    """A PNG of the first pictures of every row, in one grey window."""
    side, font = rows[0][1].shape[-1], ImageFont.load_default(12)
    sheet = Image.new("L", (SHOWN * side, len(rows) * (side + 18)), 255)
    draw = ImageDraw.Draw(sheet)
    for line, (name, images) in enumerate(rows):
        draw.text((2, line * (side + 18) + 1), name, fill=0, font=font)
        for column, image in enumerate(images[:, 0]):
            grey = Image.fromarray((image * 255).round().byte().numpy()).resize((side, side))
            sheet.paste(grey, (column * side, line * (side + 18) + 17))
    sheet.save(path, "PNG", optimize=True)


def as_markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    recipe = report["recipe"]
    lines = [
        "# Sampler steps: what they cost, and what they bring",
        "",
        f"{report['machine']}. One picture at a time, median (least to most) of {recipe['repeats']}; in "
        "processor seconds, which other work on the machine hardly changes, and by the clock. Published, on "
        "an L40: ms a step " + ", ".join(f"{name} {ms:g}" for name, ms in PUBLISHED_MS.items()) + ".",
        "",
        "| chain | steps | processor seconds | seconds |",
        "|---|---|---|---|",
    ]
    for name, found in report["chains"].items():
        for steps, row in found["seconds"].items():
            cells = [_spread(row["processor"]), _spread(row["seconds"])]
            lines.append(f"| {name} | {steps} | {' | '.join(cells)} |")
    lines += ["", "| chain | ms a step | ms at the start | correlation with the line |", "|---|---|---|---|"]
    for name, found in report["chains"].items():
        r = "" if found["r"] is None else f"{found['r']:.4f}"
        lines.append(f"| {name} | {found['per_step_ms']:.3g} | {found['start_ms']:.3g} | {r} |")
    for key in FIGURES if report["floor"] else ():
        lines += ["", f"## {key.upper()}, {recipe['pictures']} pictures each", ""]
        lines += [f"| chain | steps | {' | '.join(report['floor'])} |"]
        lines += ["|---" * (2 + len(report["floor"])) + "|"]
        floor = [shown(row[key]) for row in report["floor"].values()]
        lines.append(f"| real slices of other people | | {' | '.join(floor)} |")
        for name, found in report["chains"].items():
            for steps, row in found["judged"].items():
                lines.append(f"| {name} | {steps} | {' | '.join(shown(one[key]) for one in row.values())} |")
    return "\n".join(lines) + "\n"


def _spread(row: Sequence[float]) -> str:
    return f"{row[0]:.3g} ({row[1]:.3g} to {row[2]:.3g})"
