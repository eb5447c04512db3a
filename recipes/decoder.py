"""Stage decoder of a recipe: python recipes/decoder.py recipes/mini.toml [--adapter NAME]."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["decoder", *sys.argv[1:]]))
