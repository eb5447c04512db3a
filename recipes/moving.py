"""Study of the moves: `python recipes/moving.py recipes/moving.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["moving", *sys.argv[1:]]))
