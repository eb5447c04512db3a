"""Points: what pictures are drawn from. Points of prompts and of pictures; pictures of points."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atlas.caption import restate
from brainclip.errors import BrainclipError, PromptError
from brainclip.inversion import with_tokens
from brainclip.lora import shown_adapter
from brainclip.model import BATCH, BrainCLIP
from brainclip.picture import Picture, as_pixels
from brainclip.sizes import sized

if TYPE_CHECKING:
    from atlas.prompt import Prompt

# LOG, "where the age is lost": the age needs guidance 6, which washes out all else; so only the age gets it
GUIDANCE, AGE_GUIDANCE = 2.5, 6.0
WORDINGS = 8  # over which the effect of a change of caption is averaged; one wording says more than 50 years


@dataclass(frozen=True)
class Point:
    """What one picture is drawn from.

    prompt: as read; caption: what the decoder is told. embedding: (D,) unit length. noise: (C, h, w); None:
    that of the seed. adapter: names and weights.
    """

    prompt: Prompt
    tokens: tuple[str, ...]
    caption: str
    embedding: Tensor
    seed: int
    adapter: Mapping[str, float]
    noise: Tensor | None = None


def of_prompt(model: BrainCLIP, text: str, *, seed: int, adapter: Any = "auto") -> Point:
    """The point of a prompt, with the age guided apart. PromptError for an empty or too long prompt."""
    prompt, tokens = model.read(text)
    caption = model.caption(prompt, seed)
    embedding, _ = sized(model, [prompt], embedded(model, [caption], [seed]))
    return Point(
        prompt,
        tokens,
        with_tokens(caption, tokens),
        embedding[0],
        seed,
        model.adapter_for(prompt, adapter),
    )


def embedded(model: BrainCLIP, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Image embeddings (B, D) that the prior draws for captions, with GUIDANCE and AGE_GUIDANCE."""
    with torch.inference_mode():
        drawn: Tensor = model.prior.sample(
            model.clip,
            captions,
            seeds,
            steps=model.card["generate"]["prior_steps"],
            guidance=GUIDANCE,
            age_guidance=AGE_GUIDANCE,
        )
    return drawn


def opened(model: BrainCLIP, picture: Any, prompt: str | None = None) -> Picture:
    """A Picture of whatever stands for one: a Picture, a file, an array (H, W) in [0, 1].

    A file that a Picture was saved to says what it is. Of other slices the prompt has to say what they show,
    with the plane; they get their own embedding and the seed 0, and Picture.settings["file"] names them.
    PromptError where nobody says it.
    """
    if isinstance(picture, str | Path) and prompt is None:
        picture = Picture.load(picture)
        picture = replace(picture, spacing_mm=picture.spacing_mm or float(model.card["spacing_mm"]))
    if isinstance(picture, Picture):
        if picture.pixels.shape != (model.size, model.size):
            as_pixels(picture, model.size, picture.spacing_mm)  # raises
        return picture if prompt is None else replace(picture, prompt=prompt)
    if prompt is None:
        raise PromptError("an array does not say what it shows; give a prompt such as 'axial T1 slice'")
    read, _ = model.read(prompt)
    if read.facts.plane is None:
        raise PromptError(f"{prompt!r} names no plane; say for example 'axial T1 slice'")
    pixels = as_pixels(picture, model.size, float(model.card["spacing_mm"]))
    embedding = model.embed_image(pixels)[0]
    plane, position, asked = model.place(read, embedding)
    return Picture(
        pixels=pixels,
        prompt=prompt,
        seed=0,
        plane=plane,
        position_mm=position,
        position_asked=asked,
        spacing_mm=float(model.card["spacing_mm"]),
        model=model.name,
        facts=read.facts,
        settings={"file": Path(picture).name if isinstance(picture, str | Path) else "an array"},
        embedding=embedding.numpy(),
    )


def of_picture(model: BrainCLIP, picture: Picture) -> Point:
    """The point that a picture was, or could have been, drawn from.

    A picture read from a file has no embedding; the image tower then says it, of the pixels."""
    prompt, tokens = model.read(picture.prompt)
    known = picture.embedding if picture.model == model.name else None
    embedding = model.embed_image(picture)[0] if known is None else torch.from_numpy(np.array(known))
    adapter = picture.settings.get("adapter", "auto")
    caption = picture.settings.get("caption") or with_tokens(model.caption(prompt, picture.seed), tokens)
    return Point(prompt, tokens, caption, embedding, picture.seed, model.adapter_for(prompt, adapter))


def difference(
    model: BrainCLIP, before: Mapping[str, Any], after: Mapping[str, Any], *, seed: int, by: str = "prior"
) -> Tensor:
    """(D,) by how much an image embedding moves when a caption states `after` in place of `before`.

    Mean over WORDINGS pairs of captions that differ in this alone. by: "prior", of image embeddings drawn
    from one noise; or "text", of text embeddings, which one map for images and texts makes a direction of
    images.
    """
    texts = [restate(stated, seed=seed + k).text for stated in (before, after) for k in range(WORDINGS)]
    if by == "text":
        rows = model.embed_text(texts)
    elif by == "prior":
        rows = embedded(model, texts, [seed] * len(texts))
    else:
        raise BrainclipError(f"by = {by!r}: a difference is drawn by 'prior' or 'text'")
    return rows[WORDINGS:].mean(0) - rows[:WORDINGS].mean(0)


def moved(point: Point, step: Tensor) -> Point:
    """The point at embedding + step, back on the sphere."""
    return replace(point, embedding=functional.normalize(point.embedding + step, dim=0))


def draw(
    model: BrainCLIP,
    points: Sequence[Point],
    moves: Sequence[Mapping[str, Any]],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    start: Tensor | None = None,
    strength: float = 1.0,
    keep: Tensor | None = None,
) -> list[Picture]:
    """A Picture of each point. moves: what is written into its file as "move".

    steps, guidance: of the decoder; None: what the model card says. start, strength, keep: as
    Decoder.sample takes them, a row for each point.
    """
    decoder, defaults = model.decoder, model.card["generate"]
    steps = steps or defaults["steps"]
    guidance = defaults["guidance"] if guidance is None else guidance
    for token in {token for point in points for token in point.tokens}:
        decoder.use_inversion(model.inversions[token])
    images = np.zeros((len(points), model.size, model.size), dtype=np.float32)
    with torch.inference_mode():
        whitened = model.clip.whiten(torch.stack([point.embedding for point in points]))
        for _, same in groupby(range(len(points)), key=lambda row: str(points[row].adapter)):
            rows = list(same)
            decoder.use_adapter(points[rows[0]].adapter)
            for at in range(0, len(rows), BATCH):
                part = rows[at : at + BATCH]
                made = decoder.sample(
                    whitened[part],
                    [points[row].seed for row in part],
                    steps=steps,
                    guidance=guidance,
                    captions=[points[row].caption for row in part],
                    noise=_noise(decoder, [points[row] for row in part]),
                    start=None if start is None else start[part],
                    strength=strength,
                    keep=None if keep is None else keep[part],
                )
                images[part] = made[:, 0].numpy()
    settings = {"steps": steps, "guidance": guidance}
    if start is not None:
        settings["strength"] = strength
    return [
        _picture(model, point, images[row], settings | {"move": dict(moves[row])})
        for row, point in enumerate(points)
    ]


def _noise(decoder: Any, points: Sequence[Point]) -> Tensor | None:
    """The points' own noise (B, C, h, w); None where all have that of their seeds."""
    if all(point.noise is None for point in points):
        return None
    own = decoder.noise([point.seed for point in points])
    return torch.stack([own[row] if p.noise is None else p.noise for row, p in enumerate(points)])


def _picture(model: BrainCLIP, point: Point, pixels: np.ndarray, settings: dict[str, Any]) -> Picture:
    plane, position, asked = model.place(point.prompt, point.embedding)
    return Picture(
        pixels=pixels,
        prompt=point.prompt.text,
        seed=point.seed,
        plane=plane,
        position_mm=position,
        position_asked=asked,
        spacing_mm=float(model.card["spacing_mm"]),
        model=model.name,
        facts=point.prompt.facts,
        warnings=tuple(model.warnings(point.prompt)),
        settings={"caption": point.caption, "adapter": shown_adapter(point.adapter)} | settings,
        embedding=point.embedding.numpy(),
    )


def source(picture: Picture) -> dict[str, Any]:
    """What a moved picture's file says of the one that it was made from."""
    said: dict[str, Any] = {"prompt": picture.prompt, "seed": picture.seed}
    said |= {key: picture.settings[key] for key in ("file", "move") if key in picture.settings}
    return said | {"sha256": hashlib.sha256(picture.pixels.tobytes()).hexdigest()[:16]}


def pixels(picture: Picture) -> Tensor:
    """(1, 1, H, W) of a picture, to begin a drawing with."""
    return torch.from_numpy(np.array(picture.pixels, dtype=np.float32))[None, None]
