"""Study of the embedding space: `python recipes/embedding.py recipes/embedding.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed-report", *sys.argv[1:]]))
