"""Shards of a folder of pairs: the same pairs and pixels by random access, the same bytes again."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pairs import write_toy_pairs

from atlas.errors import PairsError
from atlas.records import read_dataset, read_pairs
from atlas.shards import write_shards
from brainclip.data import PairDataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_toy_pairs(tmp_path / "pairs", subjects=(3, 1, 2))
    return tmp_path / "pairs"


def test_shards_and_folder_are_one_data_set(folder: Path) -> None:
    write_shards(folder, shard_mb=0.05)
    assert len(list((folder / "shards").glob("train-*.tar"))) > 1
    for split, subjects in (("train", 3), ("validation", 1), ("test", 2)):
        files, shards = PairDataset([folder], split), PairDataset([folder / "shards"], split)
        assert len(files) == len(shards) == subjects * 24
        assert [replace(pair, place=None) for pair in shards.pairs] == files.pairs
        order = np.random.default_rng(0).permutation(len(files))
        assert torch.equal(files.images(order), shards.images(order))
        assert files.hash == shards.hash == "toy0"


def test_a_shard_has_picture_caption_and_facts_under_one_key(folder: Path) -> None:
    """WebDataset takes the name up to its first point as the key, so a key has no point of its own."""
    pair = read_pairs(folder, "validation")[0]
    (folder / pair.file_name).rename((folder / pair.file_name).with_name("T1_axial_-068.5.png"))
    text = (folder / "metadata.jsonl").read_text()
    named = f"{Path(pair.file_name).parent}/T1_axial_-068.5.png"
    (folder / "metadata.jsonl").write_text(text.replace(pair.file_name, named))
    write_shards(folder)
    with tarfile.open(folder / "shards" / "validation-000000.tar") as tar:
        names = tar.getnames()
        assert names[:3] == [f"validation00/T1_axial_-068_5.{ending}" for ending in ("png", "txt", "json")]
        assert len(names) == 3 * 24 and all(Path(name).name.count(".") == 1 for name in names)
        contents = [file.read() for name in names[:3] if (file := tar.extractfile(name))]
    assert contents[0] == (folder / named).read_bytes()
    assert contents[1].decode() == pair.text
    assert json.loads(contents[2])["file_name"] == named


def test_shards_come_out_the_same_and_are_kept_until_the_pairs_change(folder: Path) -> None:
    write_shards(folder)
    first = {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    write_shards(folder)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()} == times
    write_shards(folder, folder.parent / "elsewhere")
    assert {path.name: path.read_bytes() for path in (folder.parent / "elsewhere").iterdir()} == first
    changed = read_dataset(folder) | {"content_sha256": "other"}
    (folder / "dataset.json").write_text(json.dumps(changed))
    assert write_shards(folder)["content_sha256"] == "other"
    assert PairDataset([folder / "shards"], "test").hash == "other"


def test_a_shard_cut_off_and_a_foreign_folder_are_refused(folder: Path) -> None:
    write_shards(folder)
    shard = folder / "shards" / "test-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(PairsError, match=r"test-000000.tar: has \d+ bytes, dataset.json says \d+; copy"):
        read_pairs(folder / "shards")
    with pytest.raises(PairsError, match="is in shards already"):
        write_shards(folder / "shards")
    (folder.parent / "thesis").mkdir()
    (folder.parent / "thesis" / "thesis.txt").write_text("mine")
    with pytest.raises(PairsError, match="is not empty and holds no shards"):
        write_shards(folder, folder.parent / "thesis")
    assert (folder.parent / "thesis" / "thesis.txt").read_text() == "mine"
