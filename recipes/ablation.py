"""Ablations of the decoder: `python recipes/ablation.py recipes/ablation.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["ablation", *sys.argv[1:]]))
