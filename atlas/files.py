"""Where the parts of a folder of pairs lie, and files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def subject_path(out: Path, subject: str) -> Path:
    """Where the file of a subject lies in a folder of pairs; it is there when the subject is done."""
    return out / "subjects" / f"{subject}.jsonl"


def overlay_path(out: Path, subject: str, session: str) -> Path:
    """Where the picture of a visit's labels lies in a folder of pairs."""
    return out / "overlays" / (f"{subject}_{session}.webp" if session else f"{subject}.webp")


@contextmanager
def writing_whole(path: Path) -> Iterator[IO[str]]:
    """A text file open for writing under a temporary name, renamed at the end: it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that it is whole or absent."""
    with writing_whole(path) as file:
        file.write(text)
