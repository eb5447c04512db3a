"""Evaluation of a recipe's model: python recipes/evaluate.py recipes/mini.toml [--set key=value ...]."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
