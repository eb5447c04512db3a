"""`brainclip VERB ...`: parse, call, print. One line of result on stdout, progress on stderr.

Exit codes: 0 done, 1 our own mistake (with a traceback), 2 the user's mistake or a full disk (one sentence),
130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from brainclip.commands import anomaly, data, embedding, evaluation, model, moving, search, training
from brainclip.errors import BrainclipError

AREAS = (data, training, model, embedding, search, moving, evaluation, anomaly)  # in the order of --help


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    # before torch: its threads otherwise spin while they wait, beside other programs for eight times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        asked = parser().parse_args(argv)
        line = asked.call(asked)
        if line:  # none in the further processes of a training run
            print(line)
        return 0
    except BrainclipError as error:
        return _mistake(str(error))
    except KeyboardInterrupt:
        print("brainclip: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if _is_full(error):
            return _mistake(f"the disk is full{_of(error)}; free some space and run the same command again")
        if not isinstance(error, OSError) or error.errno is None:
            raise
        return _mistake(f"{error.strerror}{_of(error)}")


def _is_full(error: Exception) -> bool:
    """Whether an error says that the disk is full: safetensors and numpy do so in words alone."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return bool(re.search(r"No space left on device|\d+ requested and \d+ written", str(error)))


def _of(error: Exception) -> str:
    name = getattr(error, "filename", None)
    return f": {name}" if name else ""


def _mistake(sentence: str) -> int:
    print("brainclip:", " ".join(sentence.split()), file=sys.stderr)
    return 2


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one sentence, like every other mistake's."""

    def error(self, message: str) -> NoReturn:
        raise BrainclipError(f"{message}; see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """The command line: a sub-parser per verb, whose `call` takes the parsed arguments and returns a line."""
    top = Parser(prog="brainclip", description="From a sentence to a slice of a healthy brain, and back.")
    added = top.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, call: Any, summary: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = added.add_parser(name, help=summary, description=summary)
        made.add_argument(
            "--dry-run", action="store_true", help="check everything, say what would be done, do nothing"
        )
        made.set_defaults(call=call)
        return made

    for area in AREAS:
        area.add_verbs(verb)
    return top


if __name__ == "__main__":
    sys.exit(main())
