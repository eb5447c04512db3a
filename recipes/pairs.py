"""Stage pairs of a recipe: `python recipes/pairs.py recipes/mini.toml`, or under `accelerate launch`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["pairs", *sys.argv[1:]]))
