"""Bases: the CLIPs that an adaptation can begin with, by the name a recipe gives them."""

from __future__ import annotations

from pathlib import Path

from brainclip.errors import RecipeError, WeightsError
from brainclip.towers import UNREADABLE, Layout, Towers, shortly
from brainclip.towers.open_clip import OpenClip, opened
from brainclip.towers.transformers import TEXT, Transformers

KINDS = ("hf-hub", "local-dir", "transformers")
FORMS = '"NAME/TAG" of open_clip, "hf-hub:ORG/MODEL", "local-dir:FOLDER" or "transformers:FOLDER"'


def open_base(base: str, size: tuple[int, ...] = ()) -> tuple[Layout, Towers]:
    """The layout and the towers of a base, every weight read.

    size: height and width of the images; empty: the base's own. RecipeError for a name of no known form or a
    size that the base cannot take, WeightsError for one that cannot be had or is incomplete.
    """
    if len(size) not in (0, 2) or any(side < 1 for side in size):
        raise RecipeError(f"clip.image_size = {list(size)}: give height and width, or nothing")
    asked = (size[0], size[1]) if size else None
    kind, name, tag = parts_of(base)
    if kind == "transformers":
        layout, towers = Transformers.read(name)
        if asked:
            layout.take_size(asked)
        return layout, towers
    return _opened(base if kind else name, tag, asked)


def parts_of(base: str) -> tuple[str, str, str | None]:
    """The library's word before the colon ("" without one), the name and the tag of a base. RecipeError for
    one of no known form."""
    kind, _, name = base.partition(":")
    if kind in KINDS and name:
        return kind, name, None
    name, _, tag = base.rpartition("/")
    if ":" in base or not name or not tag:
        raise RecipeError(f"clip.base = {base!r}: possible are {FORMS}")
    return "", name, tag


def _opened(name: str, tag: str | None, size: tuple[int, int] | None) -> tuple[OpenClip, Towers]:
    try:
        return opened(name, tag, size)
    except UNREADABLE as error:
        raise WeightsError(f"clip.base = {name!r} cannot be opened: {shortly(error)}") from None


def read_folder(folder: Path) -> tuple[Layout, Towers]:
    """The layout and the towers of a clip folder that brainclip has written."""
    if (folder / "config.json").is_file() or (folder / TEXT).is_dir():
        return Transformers.read(str(folder))
    return OpenClip.read(folder)
