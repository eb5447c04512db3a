"""What more sampler steps cost and bring: `python recipes/steps.py recipes/steps.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["steps", *sys.argv[1:]]))
