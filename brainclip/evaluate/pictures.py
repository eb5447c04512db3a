"""Pictures for a list of prompts, kept on disk, and the held-out slices nearest to what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

import atlas
from atlas.facts import Facts
from atlas.prompt import read_prompt
from brainclip.config import Recipe, digest
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError
from brainclip.evaluate.prompts import Asked
from brainclip.model import BrainCLIP
from brainclip.sizes import directions_of
from brainclip.weights import hash_file, read_json

PACKAGE = Path(__file__).parent.parent
ATLAS = Path(atlas.__file__).parent
TOGETHER = 16  # pictures between two writes


@dataclass(frozen=True)
class Pictures:
    """images (N, 1, H, W) float32 in [0, 1], 8 bits as in the files; adapters: of each, None: the base."""

    images: Tensor
    adapters: tuple[str | None, ...]


@dataclass(frozen=True)
class MadePicture:
    """A generated picture read from its file. pixels: (H, W) float32 in [0, 1].

    facts: what was asked for, with the plane and position that the file names (estimated where not asked)."""

    file_name: str
    pixels: np.ndarray
    prompt: str
    facts: Facts
    adapter: str | None
    seed: int
    model: str


def made_pictures(folder: Path) -> list[MadePicture]:
    """The pictures that a model saved as PNG in a folder, by name.

    BrainclipError for a folder without any, and for a PNG that does not say that a model of this package made
    it: real slices taken for generated ones would spoil whatever is measured.
    """
    found = []
    for path in sorted(folder.glob("*.png")):
        try:
            with Image.open(path) as image:
                pixels, info = np.asarray(image.convert("L"), dtype=np.float32) / 255, image.info
        except (OSError, UnidentifiedImageError):
            raise BrainclipError(f"{path}: not a readable PNG") from None
        if info.get("synthetic") != "true" or "prompt" not in info:
            raise BrainclipError(f"{path}: does not say that it is synthetic; give pictures of `generate`")
        facts = replace(
            read_prompt(str(info["prompt"])).facts,
            plane=str(info["plane"]),
            position_mm=float(info["position_mm"]),
        )
        adapter = None if info.get("adapter") in (None, "null") else str(info["adapter"])
        seed, model = int(info["seed"]), str(info["model"])
        found.append(MadePicture(path.name, pixels, str(info["prompt"]), facts, adapter, seed, model))
    if not found:
        raise BrainclipError(f"{folder}: no PNG pictures; make some with `brainclip generate`")
    return found


def identity(model: BrainCLIP) -> str:
    """A hash of all that a model's pictures depend on: weights, settings, adapters, directions of sizes, the
    code that samples and the atlas, by which a prompt is read and said again."""
    cards = [read_json(path) for path in sorted(model.folder.glob("decoder/adapters/*/adapter.json"))]
    names = ("model", "clip", "prior", "decoder", "schedules", "lora", "vae", "sizes")
    directions = directions_of(model)
    sampling = [*(PACKAGE / f"{name}.py" for name in names), *sorted((PACKAGE / "layouts").glob("*.py"))]
    return digest(
        [
            model.card,
            cards,
            [hash_file(path) for path in sampling],
            code_hash(ATLAS),
            directions and hash_file(directions),
        ]
    )


def code_hash(*folders: Path) -> str:
    """A hash of the code and tables in these folders, or of both packages: figures of older code are not
    taken for those of this."""
    folders = folders or (PACKAGE, ATLAS)
    paths = [
        path for folder in folders for kind in ("py", "tsv", "toml") for path in folder.rglob(f"*.{kind}")
    ]
    return digest([hash_file(path) for path in sorted(paths)])


def generated(
    model: BrainCLIP,
    texts: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    *,
    adapter: str | None = "auto",
) -> Pictures:
    """A picture for each prompt and seed; those this model made before are read from `folder`."""
    made_by = digest([identity(model), adapter])
    paths = [folder / f"{digest([made_by, text, seed])}.png" for text, seed in zip(texts, seeds, strict=True)]
    missing = [row for row, path in enumerate(paths) if not path.is_file()]
    with tqdm(total=len(missing), desc="generate", unit="picture", disable=not missing) as bar:
        for start in range(0, len(missing), TOGETHER):
            part = missing[start : start + TOGETHER]
            of_part = [seeds[row] for row in part]
            made = model.generate([texts[row] for row in part], seed=of_part, adapter=adapter)
            for row, picture in zip(part, made, strict=True):
                picture.save(paths[row])
            bar.update(len(part))
    images: list[np.ndarray] = []
    adapters: list[str | None] = []
    for path in paths:
        with Image.open(path) as image:
            images.append(np.asarray(image, dtype=np.float32) / 255)
            name = image.info["adapter"]
            adapters.append(None if name == "null" else str(name))
    return Pictures(torch.from_numpy(np.stack(images))[:, None], tuple(adapters))


def tables_of(recipe: Recipe, adapter: str | None) -> tuple[str, ...]:
    """The pairs tables that a picture's decoder was trained on: those of the adapter, or of the base."""
    return tuple(recipe.adapter[adapter].mix if adapter in recipe.adapter else recipe.decoder.mix)


def nearest(data: PairDataset, asked: Asked, folders: Sequence[Path]) -> int:
    """The index of the slice whose facts are nearest to the asked; -1 when none has the plane and contrast.

    4 mm weigh as much as 10 years or a wrong sex; an unknown age counts as 30 years off. Slices outside
    `folders` are taken only where those have none of the plane and contrast.
    """
    best, least = -1, np.inf
    for row, pair in enumerate(data.pairs):
        facts, cost = pair.facts, 0.0
        if facts.plane != asked.plane or facts.modality != asked.modality or facts.position_mm is None:
            continue
        cost = abs(facts.position_mm - asked.position_mm) / 4
        if asked.age is not None:
            cost += abs(facts.known["age"] - asked.age) / 10 if "age" in facts.known else 3.0
        if asked.sex is not None:
            cost += facts.known.get("sex") != asked.sex
        if data.folders[data.folder_of[row]] not in folders:
            cost += 1e6
        if cost < least:
            best, least = row, cost
    return best
