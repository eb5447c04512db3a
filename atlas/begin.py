"""A folder of pairs begun, or gone on with: settings and splits, whose pictures it shows, what is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from atlas.changes import is_made_from
from atlas.cohort import SPLITS, assign_splits
from atlas.errors import PairsError
from atlas.files import subject_path, write_whole
from atlas.prepare import Settings
from atlas.records import FORMAT, read_lines
from atlas.sources import Scan

LOCK = ".lock"


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """While this lasts no other run writes the folder; a lock goes with its process, however that ends."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise PairsError(f"{out}: another run is writing this folder; wait for it, or stop it") from error


def check_begun(out: Path, source: str, settings: Settings, keep: Sequence[str]) -> None:
    """Raises PairsError for a folder begun with other settings, or one that is no folder of pairs."""
    path, wanted = out / "settings.json", _wanted(source, settings, keep)
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(found.name != LOCK for found in out.iterdir())):
            raise PairsError(f"{out}: is not empty and no folder of pairs; give a new folder")
        return
    # older folders say nothing of these: they go on under the defaults
    later = ("strip", "denoise", "least_similarity", "least_overlap")
    given = {name: getattr(Settings, name) for name in later}
    given |= json.loads(path.read_text(encoding="utf-8"))
    different = [name for name in given | wanted if given.get(name) != wanted.get(name)]
    if different:
        name = different[0]
        raise PairsError(
            f"{out}: was begun with {name} = {given.get(name)!r}, now {name} = {wanted.get(name)!r}; "
            "give another folder or delete this one"
        )


def begin(
    out: Path,
    source: str,
    settings: Settings,
    families: Mapping[str, str],
    shares: tuple[float, float, float],
    keep: Sequence[str],
) -> dict[str, str]:
    """Subject -> split, written before any work; a subject that has a split keeps it when others are added.

    families: subject -> family (its own name where it has none); a family stays together. PairsError for a
    new person of a family that is in two splits already, because it was not known as one before.
    """
    if not (out / "settings.json").exists():
        write_whole(out / "settings.json", json.dumps(_wanted(source, settings, keep), indent=1) + "\n")
    path = out / "splits.json"
    assigned: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known: dict[str, str] = {}
    growing = {family for name, family in families.items() if name not in assigned}
    for name, split in assigned.items():
        family = families.get(name)
        if family and known.setdefault(family, split) != split and family in growing:
            raise PairsError(
                f"{out}: {name} is in {split}, and others of the family {family!r} in "
                f"{known[family]}; the families were not known when it was begun: give another folder"
            )
    by_family = assign_splits(sorted(set(families.values())), shares, seed=settings.seed, assigned=known)
    assigned |= {name: by_family[family] for name, family in families.items() if name not in assigned}
    write_whole(path, json.dumps(assigned, indent=1, sort_keys=True) + "\n")
    return assigned


def _wanted(source: str, settings: Settings, keep: Sequence[str]) -> dict[str, Any]:
    """What settings.json says of a folder."""
    kept = {"keep": sorted(keep)} if keep else {}
    return {"format": FORMAT, "source": source, **asdict(settings), **kept}


def is_done(out: Path, scans: Sequence[Scan]) -> bool:
    """Whether a subject was prepared from just these scans; files of older versions do not say and count."""
    path = subject_path(out, scans[0].subject)
    if not path.exists():
        return False
    try:
        header = next(read_lines(path))
    except (PairsError, StopIteration):  # damaged
        return False
    return "made_from" not in header or is_made_from(scans, header["made_from"])


def arrange(out: Path, subjects: Container[str], assigned: Mapping[str, str]) -> None:
    """Move the pictures of subjects that are not asked for out of the splits, and those of others back.

    assigned: subject -> split. Whoever opens a split elsewhere (Hugging Face) takes every picture in it.
    """
    aside = out / "unlisted"  # no folders of splits in it: Hugging Face finds them at any depth
    moves = [(path, aside) for split in SPLITS for path in (out / split).glob("*") if path.is_dir()]
    moves = [(path, place) for path, place in moves if path.name not in subjects]
    moves += [(path, out / assigned[path.name]) for path in aside.glob("*") if path.name in subjects]
    for path, place in moves:
        place.mkdir(exist_ok=True)
        path.rename(place / path.name)
    with suppress(OSError):  # it is not there, or not empty
        aside.rmdir()


def sweep(out: Path) -> None:
    """Remove what a run that was killed had only half written."""
    shutil.rmtree(out / ".partial", ignore_errors=True)
    for folder in (out, *(out / name for name in ("subjects", *SPLITS))):
        for stale in folder.glob(".*.partial"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
