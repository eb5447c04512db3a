from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from safetensors import SafetensorError

from atlas.register import OVERLAP_FLOOR, SIMILARITY_FLOOR
from brainclip import cli
from brainclip.commands.model import numbered
from brainclip.config_pairs import PairsRecipe

TINY = str(ROOT / "recipes" / "tiny.toml")
VERBS = (
    "simulate",
    "pairs",
    "strip",
    "qc",
    "agreement",
    "ablation",
    "anatomy",
    "degradation",
    "memorisation",
    "downstream",
    "steps",
    "push",
    "clip",
    "vae",
    "prior",
    "decoder",
    "pixel",
    "generate",
    "trajectory",
    "vary",
    "interpolate",
    "edit",
    "redraw",
    "inpaint",
    "mark",
    "stack",
    "moving",
    "export",
    "import",
    "merge",
    "embed",
    "index",
    "search",
    "caption",
    "embed-report",
    "evaluate",
    "captions",
    "reader-kit",
    "reader-score",
    "reader-counts",
)


def mistake(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a wrong call says; asserts exit code 2, silence on stdout, one line and no traceback on stderr."""
    assert cli.main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("brainclip: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with its card and nothing else: enough for what fails or stops before the weights."""
    card = {
        "format": 1,
        "name": "toy",
        "hash": "0123",
        "size": 32,
        "spacing_mm": 6.0,
        "modalities": ["T1"],
        "positions": {"axial": [-40, 60]},
        "ages": [20, 80],
        "generate": {"steps": 2, "guidance": 1.0, "prior_steps": 2, "prior_guidance": 1.0, "restate": True},
    }
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "brainclip.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "required: VERB"),
        (["draw"], "invalid choice: 'draw'"),
        (["clip"], "required: RECIPE; see `brainclip clip --help`"),
        (["clip", "none.toml"], "none.toml: no such recipe"),
        (["clip", TINY, "--set", "clip.layer=3"], "unknown key 'layer' in [clip]"),
        (["clip", TINY, "--set", "clip.steps=many"], "clip.steps = 'many' should be of type int"),
        (["clip", TINY, "--set", "clip.steps"], "expected key=value"),
        (["decoder", TINY, "--adapter", "none-such"], "no table [adapter.none-such]"),
        (["evaluate", "none.toml"], "none.toml: no such recipe"),
        (["evaluate", TINY, "--prompts", "0"], "argument --prompts: 0 is below 1"),
        (["pairs", "ixi"], "needs a recipe (.toml), or a source, a folder of scans and --out"),
        (["pairs", TINY, "somewhere"], "a recipe names its own folders"),
        (["pairs", TINY, "--shards"], "give --set pairs.NAME.dask=local or pairs.NAME.shards=true"),
        (["pairs", "ixi", "--least-overlap", "2"], "argument --least-overlap: 2 is not from 0 to 1"),
        (["qc", "none"], "none: no dataset.json, so this is no complete folder of pairs"),
        (["simulate", "x", "--spacing", "-1"], "argument --spacing: -1 is not above 0"),
        (["simulate", "x", "--subjects", "two"], "argument --subjects: invalid whole number value: 'two'"),
        (["generate", "axial T1 slice"], "required: --out"),
        (["generate", "axial T1 slice", "--out", "x.jpg"], "saved as .png, .nii or .nii.gz"),
        (["generate", "axial T1 slice", "--out", ".png"], "saved as .png, .nii or .nii.gz"),
        (["generate", "axial T1 slice", "--out", "x.png", "--n", "0"], "argument --n: 0 is below 1"),
        (
            ["generate", "axial T1 slice", "--out", "x.png", "--candidates", "0"],
            "argument --candidates: 0 is below 1",
        ),
        (["generate", "axial T1 slice", "--out", "x.png", "--model", "./none"], "no such model folder"),
        (["export", "x", "y.bin"], "y.bin: an adapter is exported as .safetensors"),
        (["export", "x", "y.safetensors", "--form", "ckpt"], "invalid choice: 'ckpt'"),
        (["export", "x", "y.safetensors"], "x: no place of an adapter; that is DECODER/adapters/NAME"),
        (["import", "y.safetensors", "a/b"], "a/b: no place of an adapter"),
        (["merge", "mini", "x"], "merge needs names of adapters"),
        (["merge", "mini", "x", "--adapter", "a:b"], "--adapter 'a:b': expected a name and a weight"),
        (["merge", "mini", "x", "--adapter", "a", "--adapter", "a:2"], "each of them once"),
        (["merge", "mini", "x", "--adapter", "a", "--adapter", "none"], "expected one adapter's name"),
        (
            ["generate", "axial T1 slice", "--out", "x.png", "--model", "no/such"],
            "neither a folder nor a hub",
        ),
        (["embed", "axial T1 slice", "--out", "x.csv"], "embeddings are saved as .npz"),
        (["embed", "missing.png", "--out", "x.npz"], "missing.png: no such file"),
        (["embed", ".", "--out", "x.npz"], "of a folder are saved as .parquet"),
        (["embed", ".", "--out", "x.npz", "--contrast", "T9"], "invalid choice: 'T9'"),
        (["index", "none.parquet", "--out", "x"], "none.parquet: no such file"),
        (["index", ".", "--out", "x"], ".: no folder of pairs; embed scans first"),
        (["search", "axial T1", "--index", "none"], "none: no index.json, so this is no complete index"),
        (["search", "axial T1", "--index", "none", "--out", "x.txt"], "results are saved as .csv or .png"),
        (["search", "axial T1"], "required: --index"),
        (["caption", "notes.txt"], "notes.txt: a slice is a file that ends in .png, .nii, .nii.gz"),
        (["caption", "none.png"], "none.png: no such file"),
        (["caption", "none.png", "--out", "x.csv"], "facts are saved as .json"),
        (["embed-report", "none.toml"], "none.toml: no such recipe"),
    ],
)
def test_wrong_call_gives_exit_code_2_and_one_sentence(
    argv: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in mistake(argv, capsys)
    assert list(tmp_path.iterdir()) == []


def test_the_floors_are_the_same_on_the_command_line_in_recipes_and_in_the_registration() -> None:
    asked = cli.parser().parse_args(["pairs", "ixi"])
    assert asked.least_similarity == PairsRecipe().least_similarity == SIMILARITY_FLOOR
    assert asked.least_overlap == PairsRecipe().least_overlap == OVERLAP_FLOOR


def test_empty_prompt_is_refused_before_weights_are_read(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb, out in (("generate", "x.png"), ("embed", "x.npz")):
        assert "empty" in mistake([verb, "  ", "--model", str(model), "--out", out], capsys)


def test_model_without_weights_is_refused_by_the_name_of_the_file(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["generate", "axial T1 slice", "--model", str(model), "--out", str(tmp_path / "x.png")]
    assert str(model / "clip") in mistake(argv, capsys)
    assert not (tmp_path / "x.png").exists()


def volume(kind: str) -> np.ndarray:
    data = np.random.default_rng(0).random((24, 28, 26), dtype=np.float32)
    if kind == "4-D":
        return np.stack([data, data], axis=-1)
    if kind == "NaN":
        data[3, 4, 5] = np.nan
    return np.zeros_like(data) if kind == "all-zero" else data


@pytest.mark.parametrize("kind", ["4-D", "NaN", "all-zero", "truncated"])
def test_unusable_slice_is_refused(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(volume(kind), np.diag([6.0, 6.0, 6.0, 1.0])), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    argv = ["embed", str(path), "--model", str(model), "--out", str(tmp_path / "x.npz")]
    assert "scan.nii.gz" in mistake(argv, capsys)


@pytest.mark.parametrize(
    "source", ["ixi", "bids", "simulated", "oasis1", "oasis2", "oasis3", "hcp", "folder", "nonesuch"]
)
def test_pairs_of_a_folder_without_scans_are_refused(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scans").mkdir()
    mistake(["pairs", source, str(tmp_path / "scans"), "--out", str(tmp_path / "pairs")], capsys)
    mistake(["pairs", source, str(tmp_path / "missing"), "--out", str(tmp_path / "pairs")], capsys)


@pytest.mark.parametrize("stage", ["pairs", "clip", "vae", "prior", "decoder", "pixel", "evaluate"])
def test_dry_run_of_a_stage_says_what_it_would_do_and_does_nothing(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([stage, TINY, "--set", f"folder={tmp_path}", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{stage}: would ")
    assert str(tmp_path) in out
    assert out.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_the_other_verbs_writes_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = ["--dry-run", "--model", str(model), "--out"]
    assert cli.main(["simulate", str(out), "--dry-run"]) == 0
    assert cli.main(["embed", "axial T1 slice", *common, f"{out}.npz"]) == 0
    assert cli.main(["generate", "axial T2 slice with glioblastoma", "--n", "3", *common, f"{out}.png"]) == 0
    printed = capsys.readouterr()
    last = printed.out.splitlines()[-1]
    assert last == f"generate: would write {out}-0.png ... out-2.png, 3 pictures with toy-0123"
    assert "'glioblastoma' is not in this model's training captions" in printed.err
    assert "not trained on T2" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_names_dry_run(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert "--dry-run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left", "a/b.png"), 2, "the disk is full: a/b.png; free some space"),
        (OSError("215808 requested and 76768 written"), 2, "the disk is full; free some space"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            2,
            "the disk is full; free some space",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a/b.png"), 2, "Permission denied: a/b.png"),
    ],
)
def test_interruption_and_full_disk_end_in_one_sentence(
    error: BaseException,
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("brainclip.train.run_stage", fail)
    assert cli.main(["clip", TINY]) == code
    printed = capsys.readouterr()
    assert re.fullmatch(f"brainclip: {re.escape(sentence)}.*\n", printed.err)
    assert printed.out == ""


def test_our_own_mistake_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("brainclip.train.run_stage", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["clip", TINY])


@pytest.mark.parametrize("command", [["-m", "brainclip.cli"], [str(ROOT / "recipes" / "clip.py")]])
def test_command_line_runs_as_a_program(command: list[str]) -> None:
    argv = [sys.executable, *command, *(["clip"] if "-m" in command else []), TINY, "--dry-run"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("clip: would write runs/tiny/clip")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("out", "count", "names"),
    [
        ("a/x.png", 1, ["a/x.png"]),
        ("a/x.png", 2, ["a/x-0.png", "a/x-1.png"]),
        ("x.1.nii.gz", 2, ["x.1-0.nii.gz", "x.1-1.nii.gz"]),
    ],
)
def test_several_pictures_are_numbered_before_the_ending(out: str, count: int, names: list[str]) -> None:
    assert [path.as_posix() for path in numbered(Path(out), count)] == names


def test_pairs_prints_what_it_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", str(tmp_path / "cohort"), "--subjects", "1", "--spacing", "6"]) == 0
    out = tmp_path / "pairs"
    command = ["pairs", "simulated", str(tmp_path / "cohort"), "--out", str(out), "--modalities", "T1"]
    assert cli.main([*command, "--size", "48", "--spacing", "4", "--every", "40", "--workers", "1"]) == 0
    found = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"pairs: {re.escape(str(out))} \([1-9]\d* pairs, 0 rejected\)", found), found


def test_threads_of_torch_wait_without_spinning_unless_the_user_says_otherwise() -> None:
    code = (
        "import os, sys; from brainclip import cli; cli.main(['generate', 'axial T1 slice', '--dry-run']);"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    for given, wanted in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        known = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        made = subprocess.run(
            [sys.executable, "-c", code], env=known | given, capture_output=True, text=True, check=True
        )
        assert made.stdout.split()[-1] == wanted
