"""Study of labels and captions: `python recipes/agreement.py recipes/agreement.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["agreement", *sys.argv[1:]]))
