"""Study of the extractors of features: `python recipes/degradation.py recipes/degradation.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["degradation", *sys.argv[1:]]))
