"""Arguments that several verbs share, and their warnings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from brainclip.errors import BrainclipError, PromptError

FILES = (".png", ".nii", ".nii.gz")  # what a slice may be, a volume the last two
CONTRASTS = ("T1", "T2", "PD", "FLAIR")
SPLITS = ("train", "validation", "test")


class AddVerb(Protocol):
    """Adds a verb and returns its parser. `call` takes the parsed arguments and returns a line of result."""

    def __call__(
        self, name: str, call: Callable[[argparse.Namespace], Any], summary: str
    ) -> argparse.ArgumentParser: ...


def add_overrides(verb: argparse.ArgumentParser) -> None:
    """--set KEY=VALUE, of verbs that read a recipe."""
    verb.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="such as clip.steps=10",
    )


def add_recipe(verb: argparse.ArgumentParser, example: str) -> None:
    """RECIPE and --set."""
    verb.add_argument("recipe", type=Path, metavar="RECIPE", help=f"such as {example}")
    add_overrides(verb)


def add_model(verb: argparse.ArgumentParser) -> None:
    """--model, of verbs that need one."""
    verb.add_argument("--model", default="mini", help="mini, a model folder or a hub id (mini)")


def check_text(text: str) -> None:
    """BrainclipError where a text is empty, or names what lies on the disk and is no slice or volume."""
    if not text.strip():
        raise PromptError("empty text; give a caption such as 'axial T1 slice'")
    if text.lower().endswith(FILES) or len(text) > 255:
        return
    path = Path(text)
    if path.is_dir():
        raise BrainclipError(f"{text}: a folder; embed it alone: `brainclip embed {text} --out x.parquet`")
    if path.is_file():
        raise BrainclipError(f"{text}: unknown kind of file; slices and volumes are {', '.join(FILES)}")


def warn(warnings: Sequence[str]) -> None:
    """Each warning once, on stderr."""
    for warning in dict.fromkeys(warnings):
        print("brainclip: warning:", warning, file=sys.stderr)


def at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


at_least_one.__name__ = "whole number"
above_zero.__name__ = share.__name__ = "number"  # argparse says "invalid number value: 'x'"
