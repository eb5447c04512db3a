"""Are generated slices of use for training? `python recipes/downstream.py recipes/downstream.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["downstream", *sys.argv[1:]]))
