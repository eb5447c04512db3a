"""A model goes to a hub after the check for copies alone; the hub is a small server of this machine."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from test_evaluate_memorisation import noisy, people
from toy_pairs import write_toy_pairs
from toy_run import toy_run

from atlas.facts import Facts
from brainclip import cli
from brainclip.errors import BrainclipError
from brainclip.evaluate.memorisation_study import memorised
from brainclip.evaluate.nearness import Slices
from brainclip.evaluate.page import write_page
from brainclip.evaluate.push import check_before_push
from brainclip.evaluate.sections.memorisation import section
from brainclip.model import load
from brainclip.picture import Picture


class Hub(BaseHTTPRequestHandler):
    """Takes every file as it is; `seen`: the paths asked for; `files`: name -> content of the last commit."""

    seen: list[str]
    files: dict[str, bytes]
    message: str

    @property
    def home(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind, answer = type(self), {"url": f"{self.home}/lab/toy"}
        kind.seen.append(self.path)
        if self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            rows = [{"path": row["path"], "uploadMode": "regular", "shouldIgnore": False} for row in asked]
            answer = {"files": rows}  # type: ignore[dict-item]
        elif self.path.endswith("/commit/main"):
            header, *rows = [json.loads(line) for line in body.splitlines()]
            kind.message = header["value"]["summary"]
            kind.files = {r["value"]["path"]: base64.b64decode(r["value"]["content"]) for r in rows}
            answer = {"commitUrl": f"{self.home}/lab/toy/commit/1", "commitOid": "1"}
        self.reply(answer)

    def do_GET(self) -> None:
        self.reply({"id": "lab/toy", "sha": "0", "siblings": []})

    def reply(self, answer: dict[str, str]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    Hub.seen, Hub.files, Hub.message = [], {}, ""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_toy")
        yield Hub
        server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run whose pairs are slices of 24 people; pictures "copies" of the training's and "strangers"."""
    folder = tmp_path_factory.mktemp("push")
    toy_run(folder)
    pairs = folder / "people"
    write_toy_pairs(pairs, subjects=(12, 6, 6))
    rows = [json.loads(line) for line in (pairs / "metadata.jsonl").read_text().splitlines()]
    true = people(24, 7, each=24)
    for image, row in zip(true.images, rows, strict=True):
        Image.fromarray(image[0].numpy()).save(pairs / row["file_name"])
    trained = [k for k, row in enumerate(rows) if row["split"] == "train"][:24]
    sets = {"copies": noisy(true.take(trained)), "strangers": people(24, 99)}
    for name, slices in sets.items():
        _save(slices, [rows[k] for k in trained], folder / name, load(folder / "model").name)
    return folder


def _save(slices: Slices, rows: list[dict], folder: Path, model: str) -> None:
    for k, (image, row) in enumerate(zip(slices.images, rows, strict=True)):
        pixels, prompt = image[0].numpy().astype(np.float32) / 255, f"{row['plane']} {row['modality']} slice"
        place = (row["plane"], row["position_mm"])
        Picture(pixels, prompt, k, *place, True, 6.0, model, Facts()).save(folder / f"{k:02d}.png")


def recipe(folder: Path, pictures: str, adapter: str = "none") -> str:
    path = folder / f"{pictures}-{adapter}.toml"
    path.write_text(
        f'folder = "{folder}/out"\nmodel = "{folder}/model"\nwithin_mm = 40.0\nfalse_alarm = 0.02\n'
        f'[check.base]\nadapter = "{adapter}"\npairs = ["{folder}/people"]\n'
        f'pictures = "{folder}/{pictures}"\n'
    )
    return str(path)


def test_a_model_without_copies_is_pushed_whole(
    folder: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", recipe(folder, "strangers"), "lab/toy"]) == 0
    assert "passes (base)" in capsys.readouterr().out and "passes (base)" in hub.message
    model = folder / "model"
    names = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert set(hub.files) == names and len(names) > 8
    assert hub.files["brainclip.json"] == (model / "brainclip.json").read_bytes()


def test_copies_block_the_push_before_the_hub_is_asked(
    folder: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    copies = recipe(folder, "copies")
    assert cli.main(["push", copies, "lab/toy"]) == 2
    assert "seems to copy training slices and is not pushed" in capsys.readouterr().err and hub.seen == []
    assert cli.main(["push", copies, "lab/toy", "--dry-run"]) == 0 and hub.seen == []
    assert cli.main(["push", copies, "lab/toy", "--force"]) == 0
    assert "although it seems to copy" in hub.message and "brainclip.json" in hub.files


def test_the_page_of_the_evaluation_shows_the_check(folder: Path) -> None:
    out, model = folder / "page", load(folder / "model").name
    assert cli.main(["memorisation", recipe(folder, "copies")]) == 0
    found = memorised(folder / "out", model, out)
    made = section({"memorisation": found})
    assert "base FAILS" in made.conclusion and "of 24 pictures are copies" in made.conclusion
    write_page("Title", "About.", [made], out, "page")
    assert "<img" in (out / "page.html").read_text() and (out / "memorisation" / "base.png").is_file()
    with pytest.raises(BrainclipError, match="not of 'other'"):
        memorised(folder / "out", "other", out)
    assert "was not checked here" in section({"memorisation": {}}).conclusion


def test_what_the_recipe_does_not_check_is_named(
    folder: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", recipe(folder, "copies", "ixi"), "lab/toy", "--force"]) == 2
    assert "draws with no adapter as well" in capsys.readouterr().err and hub.seen == []


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_toy")
    assert cli.main(["push", recipe(folder, "strangers"), "lab/toy"]) == 2
    printed = capsys.readouterr().err
    assert "lab/toy: the hub did not take it" in printed and "Traceback" not in printed


def test_verdict_decides_unless_forced() -> None:
    verdict = {"passes": False, "because": ["3 of 50 pictures lie below the copy limit"]}
    report = {"model": "toy-1", "checks": {"base": {"verdict": verdict}}}
    with pytest.raises(BrainclipError, match=r"not pushed \(base: 3 of 50 pictures"):
        check_before_push(report, "toy-1")
    assert "although it seems to copy" in check_before_push(report, "toy-1", force=True)
    with pytest.raises(BrainclipError, match="of 'toy-1', not of 'toy-2'"):
        check_before_push(report, "toy-2", force=True)
    verdict["passes"] = True
    assert check_before_push(report, "toy-1") == "memorisation: toy-1 passes (base)"
