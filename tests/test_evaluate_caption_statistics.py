"""Words of captions and terms of a prompt, counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_pairs import write_toy_pairs

from brainclip import cli
from brainclip.errors import PairsError, PromptError
from brainclip.evaluate.caption_statistics import caption_statistics, tokens

CAPTIONS = ["Axial T1 slice of a brain, z=-66.", "The axial slice; axial.", "A coronal T2-weighted slice"]


def test_stop_words_and_punctuation_go_and_signs_and_hyphens_stay() -> None:
    assert tokens("An axial T1 slice (z=-66, y = 4.5) of a 79-year-old man's brain.") == [
        "axial", "t1", "slice", "z", "-66", "y", "4.5", "79-year-old", "man's", "brain",
    ]  # fmt: skip


def test_words_and_runs_are_counted_with_their_shares() -> None:
    found = caption_statistics(CAPTIONS)
    assert (found["captions"], found["words"]["total"], found["words"]["different"]) == (3, 12, 8)
    assert found["words"]["most"][0] == {"term": "axial", "count": 3, "percent": 25.0, "in_captions": 66.667}
    assert found["words"]["most"][1] == {"term": "slice", "count": 3, "percent": 25.0, "in_captions": 100.0}
    assert found["pairs of words"]["total"] == 5 + 2 + 2
    runs = {row["term"]: row["count"] for row in found["threes"]["most"]}
    assert runs["axial slice axial"] == 1  # across the removed semicolon
    assert found["threes"]["total"] == 4 + 1 + 1


def test_every_term_of_a_prompt_has_its_count_in_training() -> None:
    found = caption_statistics(CAPTIONS, prompt="an axial slice of the thalamus")
    counts = {row["term"]: row["count"] for row in found["prompt_terms"]}
    assert list(counts.items()) == [
        ("axial", 3),
        ("slice", 3),
        ("thalamus", 0),
        ("axial slice", 1),
        ("slice thalamus", 0),
        ("axial slice thalamus", 0),
    ]


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(PairsError, match="no captions"):
        caption_statistics([])
    with pytest.raises(PromptError, match="no word to count"):
        caption_statistics(CAPTIONS, prompt="of the, and!")


def test_the_verb_counts_the_captions_of_one_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_toy_pairs(tmp_path / "pairs", subjects=(3, 1, 1))
    argv = ["captions", str(tmp_path / "pairs"), "--out", str(tmp_path / "out"), "--prompt", "axial T1 zebra"]
    assert cli.main([*argv, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert cli.main(argv) == 0
    assert "never seen: zebra" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "captions.json").read_text())
    lines = (tmp_path / "pairs" / "metadata.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    assert (found["pairs"], found["captions"]) == (72, sum(len(row["captions"]) for row in rows))
    axial = next(row for row in found["prompt_terms"] if row["term"] == "axial")
    assert axial["count"] == sum(tokens(text).count("axial") for row in rows for text in row["captions"])
    text = (tmp_path / "out" / "captions.md").read_text()
    assert "Never seen: zebra, t1 zebra, axial t1 zebra." in text
    assert cli.main(["captions", str(tmp_path / "none")]) == 2
