"""Stage strip, the brain extraction: `python recipes/strip.py recipes/strip.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["strip", *sys.argv[1:]]))
