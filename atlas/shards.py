"""A folder of pairs as WebDataset shards: few large files to copy or to stream, each slice read by its place.

dataset.json            that of the folder, and the size of each shard; written last
metadata.jsonl          one line a slice: that of the folder, and shard, offset and bytes of the picture
volumes.jsonl           that of the folder
<split>-000000.tar ...  per slice <subject>/<name>.png, .txt (the caption) and .json (the line)
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from atlas.errors import PairsError
from atlas.files import write_whole, writing_whole
from atlas.records import read_dataset, read_metadata

SHARD_MB = 256  # about 29 000 slices of 128 x 128


def write_shards(
    folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, shard_mb: float = SHARD_MB
) -> dict[str, Any]:
    """The content of the shards' dataset.json; out: a new folder or that of earlier shards, <folder>/shards.

    Every shard holds slices of one split, in the folder's order; the same pairs give the same bytes. Shards
    of the same content are left as they are. Raises PairsError for an incomplete folder of pairs, one that is
    itself in shards, and an `out` that holds something else.
    """
    folder = Path(folder)
    out = Path(out) if out is not None else folder / "shards"
    dataset = read_dataset(folder)
    if "shards" in dataset:
        raise PairsError(f"{folder}: is in shards already; give the folder of pairs they were made from")
    if _kept(out, dataset, shard_mb):
        return read_dataset(out)
    unfinished = out.with_name(f".{out.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with ExitStack() as open_shards, writing_whole(unfinished / "metadata.jsonl") as lines:
        writers: dict[str, _Writer] = {}
        for line in read_metadata(folder):
            split = line["split"]
            if split not in writers:
                writers[split] = _Writer(unfinished, split, int(shard_mb * 1e6))
                open_shards.callback(writers[split].close)
            png = (folder / line["file_name"]).read_bytes()
            shard, offset = writers[split].add(line, png)
            lines.write(json.dumps(line | {"shard": shard, "offset": offset, "bytes": len(png)}) + "\n")
    shutil.copyfile(folder / "volumes.jsonl", unfinished / "volumes.jsonl")
    sizes = {path.name: path.stat().st_size for path in sorted(unfinished.glob("*.tar"))}
    made = dataset | {"shard_mb": shard_mb, "shards": sizes}
    write_whole(unfinished / "dataset.json", json.dumps(made, indent=1) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)
    return made


def _kept(out: Path, dataset: dict[str, Any], shard_mb: float) -> bool:
    """Whether `out` holds these shards already; PairsError when it holds something else than shards."""
    if not out.exists() or not any(out.iterdir()):
        return False
    if not (out / "dataset.json").exists() or "shards" not in (found := read_dataset(out)):
        raise PairsError(f"{out}: is not empty and holds no shards; give a new folder or delete this one")
    return {key: found.get(key) for key in dataset} == dataset and found.get("shard_mb") == shard_mb


class _Writer:
    """The shards of one split, begun anew at a slice once they have reached `size` bytes."""

    def __init__(self, folder: Path, split: str, size: int) -> None:
        self.names: Iterator[str] = (f"{split}-{number:06d}.tar" for number in range(10**6))
        self.folder, self.size = folder, size
        self.tar: tarfile.TarFile | None = None

    def add(self, line: dict[str, Any], png: bytes) -> tuple[str, int]:
        """(shard, where in it the picture begins) of a slice."""
        if self.tar is None or self.tar.offset >= self.size:
            self.close()
            path = self.folder / next(self.names)
            self.tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by close)
        _, subject, name = line["file_name"].split("/")
        # a WebDataset key ends at the first point of the name, and positions have one
        key = f"{subject}/{name.removesuffix('.png').replace('.', '_')}"
        offset = self.tar.offset + tarfile.BLOCKSIZE
        for ending, content in (
            ("png", png),
            ("txt", line["text"].encode()),
            ("json", json.dumps(line).encode()),
        ):
            member = tarfile.TarInfo(f"{key}.{ending}")  # no owner and no time: the same bytes again
            member.size = len(content)
            self.tar.addfile(member, io.BytesIO(content))
        return Path(str(self.tar.name)).name, offset

    def close(self) -> None:
        """Finish the shard that is open, if one is."""
        if self.tar is not None:
            self.tar.close()
