"""Moves of the embedding with the noise kept: ageing, variations, the way between two pictures, edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainclip.errors import BrainclipError, PromptError
from brainclip.inversion import with_tokens
from brainclip.model import load
from brainclip.picture import Picture

if TYPE_CHECKING:
    from torch import Tensor

    from brainclip.model import BrainCLIP
    from brainclip.moving.points import Point


def trajectory(
    prompt: str,
    *,
    age: tuple[float, float] = (30, 80),
    steps: int = 6,
    seed: int = 0,
    by: str = "prior",
    adapter: str | Mapping[str, float] | None = "auto",
    model: str | Path = "mini",
) -> list[Picture]:
    """One synthetic person at `steps` ages, evenly from age[0] to age[1] years: a Picture each.

    The noise of the decoder is the same in all, and so is what the prior drew for the middle of the ages;
    from there the embedding moves by what a change of the age alone makes, see points.difference. by:
    "prior", or
    "text", along the difference of the captions' text embeddings. An age in the prompt is not used.
    PromptError for a prompt without a plane.
    """
    from brainclip.moving import points

    if steps < 2:
        raise BrainclipError(f"steps = {steps}; a trajectory has at least two pictures")
    if not 0 < age[0] < age[1]:
        raise BrainclipError(f"age = {age}: give the younger age first, above 0")
    brain = load(model)
    ages = [round(age[0] + (age[1] - age[0]) * k / (steps - 1)) for k in range(steps)]
    if len(set(ages)) < steps:
        raise BrainclipError(f"{steps} steps from {age[0]:g} to {age[1]:g} years: at least a year a step")
    plain = brain.read(prompt)[0]
    if plain.facts.plane is None:
        raise PromptError(f"{prompt!r} names no plane; say for example 'axial T1 slice'")
    text = _with(f"{round(sum(age) / 2)}-year-old", prompt)
    middle = points.of_prompt(brain, text, seed=seed, adapter=adapter)
    made = []
    for years in ages:
        asked = replace(brain.read(_with(f"{years}-year-old", prompt))[0], unknown=plain.unknown)
        step = points.difference(brain, middle.prompt.mentioned, asked.mentioned, seed=seed, by=by)
        caption = with_tokens(brain.caption(asked, seed), middle.tokens)
        made.append(replace(points.moved(middle, step), prompt=asked, caption=caption))
    return points.draw(brain, made, [{"kind": "trajectory", "age": years, "by": by} for years in ages])


def vary(
    picture: Any,
    *,
    n: int = 4,
    amount: float = 0.0,
    seed: int | None = None,
    prompt: str | None = None,
    model: str | Path = "mini",
) -> list[Picture]:
    """n other Pictures of what a picture shows: its embedding with other noise.

    picture: a Picture, its file, or with a prompt that says what it shows any slice (file or array).
    amount: from 0 to 1, how far the embedding goes to one that the prior draws for the same caption, which
    is another person. seed: of the first; None: the one after the picture's.
    """
    from brainclip.moving import points
    from brainclip.moving.sphere import spherical

    if n < 1:
        raise BrainclipError(f"n = {n}; at least one picture must be asked for")
    _check_share("amount", amount)
    brain = load(model)
    given = points.opened(brain, picture, prompt)
    own = points.of_picture(brain, given)
    first = given.seed + 1 if seed is None else seed
    seeds = [first + k for k in range(n)]
    embeddings = own.embedding.expand(n, -1)
    if amount:
        others = points.embedded(brain, [brain.caption(own.prompt, own.seed)] * n, seeds)
        embeddings = spherical(embeddings, others, amount)
    made = [replace(own, embedding=row, seed=one) for row, one in zip(embeddings, seeds, strict=True)]
    move = {"kind": "vary", "amount": amount, "from": points.source(given)}
    return points.draw(brain, made, [move] * n)


def interpolate(
    first: Any,
    second: Any,
    *,
    steps: int = 5,
    prompts: Sequence[str | None] = (None, None),
    model: str | Path = "mini",
) -> list[Picture]:
    """`steps` Pictures on the way from one picture to another, both ends drawn again.

    Embedding, noise and the weights of adapters go the way together, the first two along the sphere.
    first, second: as vary() takes a picture; prompts: of those that do not say what they show.
    """
    import torch

    from brainclip.moving import points
    from brainclip.moving.sphere import spherical

    if steps < 2:
        raise BrainclipError(f"steps = {steps}; the two ends are two pictures already")
    brain = load(model)
    given = [points.opened(brain, one, text) for one, text in zip((first, second), prompts, strict=True)]
    ends = [points.of_picture(brain, one) for one in given]
    shares = torch.linspace(0, 1, steps)
    a, b = (end.embedding.expand(steps, -1) for end in ends)
    embeddings = spherical(a, b, shares)
    a, b = (brain.decoder.noise([end.seed]).flatten(1).expand(steps, -1) for end in ends)
    noise = spherical(a, b, shares).unflatten(1, brain.decoder.layout.shape)
    made: list[Point] = []
    for row, share in enumerate(shares.tolist()):
        nearer, both = ends[round(share)], [end.adapter for end in ends]
        names = sorted({*both[0], *both[1]})
        weights = {name: (1 - share) * both[0].get(name, 0) + share * both[1].get(name, 0) for name in names}
        adapter = {name: weight for name, weight in weights.items() if weight}
        made.append(replace(nearer, embedding=embeddings[row], noise=noise[row], adapter=adapter))
    sources = [points.source(one) for one in given]
    moves = [{"kind": "interpolate", "share": share, "from": sources} for share in shares.tolist()]
    return points.draw(brain, made, moves)


def edit(
    picture: Any,
    words: str,
    *,
    amount: float = 1.0,
    strength: float = 1.0,
    prompt: str | None = None,
    directions: Path | str | None = None,
    model: str | Path = "mini",
) -> Picture:
    """The same picture with `words` true of it, such as "with larger ventricles" or "an 80-year-old man".

    Words are read as a prompt is, and stand above what the picture was asked for. The embedding moves by
    `amount` times what the change of the caption makes; the noise stays. strength: below 1, the drawing
    begins with the picture itself, noised to this share of the steps, and keeps more of it. The size of a
    structure is moved along its direction among the embeddings of slices, where that is known (see
    brainclip.sizes); move["directions"] names these; directions: a file that `brainclip moving`
    has fitted, in place of the model's own. picture, prompt: as vary() takes them. PromptError where
    nothing in the words was understood or changes anything.
    """
    from brainclip.moving import points

    brain = load(model)
    given = points.opened(brain, picture, prompt)
    own = points.of_picture(brain, given)
    asked, _ = brain.read(words)
    if not set(asked.mentioned) - {"plane"} or own.prompt.facts.plane is None:
        known = "a plane in the picture's prompt" if asked.mentioned else "such as 'with larger ventricles'"
        raise PromptError(f"{words!r}: nothing that can be changed was understood; give words and {known}")
    whole, _ = brain.read(_with(words, given.prompt))
    if whole.mentioned == own.prompt.mentioned:
        raise PromptError(f"{words!r}: the picture was asked for with this already ({given.prompt!r})")
    step, sizes = _step(brain, own.prompt.mentioned, whole.mentioned, given, directions)
    new = replace(whole, text=f"{given.prompt}; {words}", unknown=asked.unknown)
    caption = with_tokens(brain.caption(whole, own.seed), own.tokens)
    point = replace(points.moved(own, amount * step), prompt=new, caption=caption)
    move = {
        "kind": "edit",
        "words": words,
        "amount": amount,
        "directions": sizes,
        "from": points.source(given),
    }
    start = None if strength == 1 else points.pixels(given)
    return points.draw(brain, [point], [move], start=start, strength=strength)[0]


def _step(
    brain: BrainCLIP,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    given: Picture,
    file: Path | str | None,
) -> tuple[Tensor, list[str]]:
    """(D,) by how much a picture's embedding moves when `after` is said of it in place of `before`, and the
    structures whose sizes have directions; all else moves by the difference of captions."""
    from brainclip.moving import points
    from brainclip.sizes import SIZES, direction

    plain = [dict(stated, sizes=dict(stated.get("sizes", {}))) for stated in (before, after)]
    step, known = brain.clip.age_axis * 0, []
    for structure in sorted({*plain[0]["sizes"], *plain[1]["sizes"]}):
        small, large = (SIZES[stated["sizes"].get(structure, "normal")] for stated in plain)
        place, path = given.position_mm, Path(file) if file else None
        along = direction(brain, given.plane, after.get("modality"), structure, place, file=path)
        if along is not None:
            step = step + (large - small) * along
            known.append(structure)
            for stated in plain:
                stated["sizes"].pop(structure, None)
    plain = [{key: value for key, value in stated.items() if value != {}} for stated in plain]
    if plain[0] != plain[1]:
        step = step + points.difference(brain, plain[0], plain[1], seed=given.seed)
    return step, known


def _with(words: str, prompt: str) -> str:
    """A prompt in which the words stand above the rest: of two that differ the first counts."""
    return f"{words}, {prompt}"


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise BrainclipError(f"{name} = {value:g}: give a number from 0 to 1")
