"""Parts: figures kept by what they were made from, so that a stopped evaluation goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brainclip.config import digest
from brainclip.weights import read_json, write_json


class Parts:
    """Parts of an evaluation, one <folder>/<name>.json each.

    times: of each part asked for so far, the "seconds" it took when it was computed, and whether it was
    "reused" now.
    """

    def __init__(self, folder: Path, code: str) -> None:
        """code: a hash of the code, with which older figures are computed anew."""
        self.folder, self.code = folder, code
        self.times: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str, inputs: list[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A part's figures: read from its file where that was made from the same inputs and code."""
        key, path = digest([self.code, name, *inputs]), self.folder / f"{name}.json"
        if path.is_file() and (kept := read_json(path)).get("key") == key:
            self.times[name] = {"seconds": kept["seconds"], "reused": True}
            return dict(kept["figures"])
        begun = time.monotonic()
        figures = compute()
        seconds = round(time.monotonic() - begun, 3)
        write_json(path, {"key": key, "seconds": seconds, "figures": figures})
        self.times[name] = {"seconds": seconds, "reused": False}
        return figures
