from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pairs import write_toy_pairs

from brainclip.data import PairDataset
from brainclip.evaluate.matched import match, matching_rows
from brainclip.evaluate.prompts import Asked


def asked(plane: str, modality: str, position: float) -> Asked:
    return Asked("", plane, modality, position, None, None, None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [tmp_path_factory.mktemp("pairs") / name for name in ("one", "two")]
    for seed, folder in enumerate(made):
        write_toy_pairs(folder, seed=seed)
    return made


def test_matching_slices_have_the_planes_and_contrasts_of_the_prompts_and_none_is_taken_twice(
    folders: list[Path],
) -> None:
    data = PairDataset(folders[:1], "test")
    rows = [asked("axial", "T1", 10), asked("axial", "T1", 10), asked("sagittal", "PD", -20)]
    found = matching_rows(data, rows, [folders[:1]] * 3, times=2)
    kinds = [(data.pairs[i].facts.plane, data.pairs[i].facts.modality) for i in found]
    assert kinds == [("axial", "T1"), ("axial", "T1"), ("sagittal", "PD")] * 2
    assert len(set(found)) == 6


def test_the_nearest_is_taken_where_none_is_near(folders: list[Path]) -> None:
    data = PairDataset(folders[:1], "test")
    place = np.array(
        [
            p.facts.position_mm if (p.facts.plane, p.facts.modality) == ("coronal", "T2") else np.inf
            for p in data.pairs
        ]
    )
    (found,) = matching_rows(data, [asked("coronal", "T2", 500)], [folders[:1]], times=1)
    assert place[found] == place[np.isfinite(place)].max()
    near = matching_rows(data, [asked("coronal", "T2", 0)], [folders[:1]], times=1)[0]
    assert abs(place[near]) <= max(6, np.abs(place).min())


def test_slices_come_from_the_folder_that_the_decoder_has_learned_from(folders: list[Path]) -> None:
    data = PairDataset(folders, "test")
    rows = [asked("axial", "T1", 0), asked("axial", "T1", 0)]
    found = matching_rows(data, rows, [[folders[1]], [folders[0]]], times=2)
    assert data.folder_of[found].tolist() == [1, 0, 1, 0]
    elsewhere = matching_rows(data, rows[:1], [[Path("nowhere")]], times=1)
    assert data.pairs[elsewhere[0]].facts.plane == "axial"


def test_floor_is_of_other_people_and_as_many_as_the_pictures(folders: list[Path]) -> None:
    held_out, training = (PairDataset(folders[:1], split) for split in ("test", "train"))
    rows = [asked("axial", "T1", 10), asked("coronal", "PD", 0), asked("sagittal", "FLAIR", 5)]
    found = match(torch.zeros(3, 1, 32, 32), rows, [folders[:1]] * 3, held_out, training)
    assert found.made.modality.tolist() == found.floor.modality.tolist() == ["T1", "PD", "FLAIR"]
    assert Counter(found.real.modality.tolist()) == {"T1": 4, "PD": 4, "FLAIR": 4}
    assert not set(found.real.subjects) & set(found.floor.subjects)
    part = found.real.take(np.array([1, 2]))
    assert part.modality.tolist() == ["PD", "FLAIR"] and len(part.images) == len(part.subjects) == 2
