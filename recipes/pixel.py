"""Stage pixel of a recipe: `python recipes/pixel.py recipes/pixel.toml`, or under `accelerate launch`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["pixel", *sys.argv[1:]]))
