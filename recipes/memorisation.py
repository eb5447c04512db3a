"""Check for copies of training slices: `python recipes/memorisation.py recipes/memorisation.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["memorisation", *sys.argv[1:]]))
