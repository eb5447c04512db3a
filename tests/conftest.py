"""One thread per process (toy models crawl on shared cores otherwise), no network, real data where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# before torch, numpy and ants are imported; subprocesses inherit it
for library in ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "ITK_GLOBAL_DEFAULT_NUMBER_OF"):
    os.environ[f"{library}_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; skips the test where there is none."""
    folder = Path(os.environ.get("BRAINCLIP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set BRAINCLIP_DATA to a folder with ixi/ and ixi-dlmuse/")
    return folder


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """The folder of the bundled weights; skips the test while they are absent."""
    folder = ROOT / "brainclip" / "models" / "mini"
    if not (folder / "brainclip.json").is_file():
        pytest.skip("brainclip/models/mini is absent: its training is not finished")
    return folder
