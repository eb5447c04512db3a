"""Stage decoder of a recipe: python recipes/decoder.py RECIPE [--adapter NAME | --inversion NAME]."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["decoder", *sys.argv[1:]]))
