"""The project's two commands. Each needs Python 3.11 or newer with pip, and does all its own set-up.

    python make.py picture "axial T1 slice at the level of the thalamus, healthy 70-year-old man"
    python make.py test

The first call makes an environment in .venv and installs the project into it (some GB, because of PyTorch);
later calls use it again. `picture` writes picture.png; options of `brainclip generate` may follow the prompt,
such as --out and --seed. `test` is the whole local ritual: ruff, mypy, import-linter, pytest.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
SCRIPTS = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
    ("pytest", "-n", "2", "--dist", "loadfile"),  # by file: its fixtures are built once
)


def main() -> int:
    """The exit code: 0 when all went well, 2 for a wrong call, else that of what failed."""
    if sys.version_info < (3, 11):  # noqa: UP036 (this file runs before anything checks it)
        print(f"make.py: Python 3.11 or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    command, arguments = sys.argv[1:2], sys.argv[2:]
    if command == ["picture"] and arguments:
        install()
        given = any(word == "--out" or word.startswith("--out=") for word in arguments)
        out = [] if given else ["--out", "picture.png"]
        return call("brainclip", "generate", *arguments, *out)
    if command == ["test"] and not arguments:
        install()
        failed = [" ".join(check) for check in CHECKS if call(*check, cwd=ROOT, announce=True)]
        print(f"FAILED: {', '.join(failed)}" if failed else "all checks passed")
        return 1 if failed else 0
    print(__doc__.strip(), file=sys.stderr)
    return 2


def install() -> None:
    """Bring .venv up to date with pyproject.toml. The package index is what the user set for uv or pip."""
    stamp = ENVIRONMENT / "installed-for"
    wanted = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + sys.version.encode() + bytes(ROOT)
    ).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print("make.py: installing into .venv (the first time takes some minutes)", file=sys.stderr)
    if (
        Path(sys.prefix).resolve() != ENVIRONMENT
    ):  # called from within .venv it cannot be made anew, but brought up to date
        venv.create(ENVIRONMENT, clear=True, symlinks=os.name != "nt")
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet"]
    project = ["--editable", f"{ROOT}[dev]"]
    uv = [str(SCRIPTS / "uv"), "pip", "install", "--python", str(PYTHON), "--compile-bytecode"]
    # uv is several times faster but reads its own settings only; pip serves whoever has configured pip alone
    if subprocess.call([*pip, "pip", "uv"]) or subprocess.call([*uv, *project], env=surroundings()):
        print("make.py: uv could not install the project, trying pip", file=sys.stderr)
        if subprocess.call([*pip, *project]):
            sys.exit("make.py: the installation failed; the reason is above")
    stamp.write_text(wanted)


def call(program: str, *arguments: str, cwd: Path | None = None, announce: bool = False) -> int:
    """The exit code of a program of the environment."""
    if announce:
        print("==", program, *arguments, file=sys.stderr, flush=True)
    return subprocess.call([str(SCRIPTS / program), *arguments], cwd=cwd, env=surroundings())


def surroundings() -> dict[str, str]:
    """This process's variables, the environment's scripts first in PATH, bytecode written."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}
    }
    return kept | {
        "PATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PATH", "")]),
        "VIRTUAL_ENV": str(ENVIRONMENT),
    }


if __name__ == "__main__":
    sys.exit(main())
