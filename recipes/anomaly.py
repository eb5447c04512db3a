"""Study of the detectors of lesions: `python recipes/anomaly.py recipes/anomaly.toml`."""

from __future__ import annotations

import sys

from brainclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["anomaly-study", *sys.argv[1:]]))
