"""Samples a second of training programs in turns on this machine, each what follows `python` in a command:

python recipes/throughput.py --batch 16 "train_unconditional.py --train_batch_size 16 ..." \\
    "recipes/pixel.py recipes/pixel.toml"
"""

from __future__ import annotations

import argparse
import sys

from brainclip.errors import BrainclipError
from brainclip.evaluate.throughput import side_by_side, table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("programs", nargs="+", metavar="PROGRAM")
    parser.add_argument("--batch", type=int, required=True, help="rows that a step of each takes")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each program (%(default)s)")
    asked = parser.parse_args()
    try:
        turns = side_by_side(asked.programs, batch=asked.batch, steps=asked.steps, rounds=asked.rounds)
    except BrainclipError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{table(turns)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
