from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_pairs import write_toy_pairs
from toys import CLIP, SIZE

from atlas.caption import restate
from atlas.facts import Facts, levels
from atlas.prompt import read_prompt
from brainclip.clip import Clip, new_clip, train_tokenizer
from brainclip.data import PairDataset
from brainclip.embedding.classes import BANDS, WORDS, chosen, meanings
from brainclip.evaluate import zero_shot as module
from brainclip.evaluate.zero_shot import AGES, ASKED, zero_shot


@pytest.fixture
def data(tmp_path: Path) -> PairDataset:
    write_toy_pairs(tmp_path / "a", subjects=(1, 1, 6))
    return PairDataset([tmp_path / "a"], "test")


def direction(facts: Facts) -> torch.Tensor:
    """A unit vector that shows plane, contrast, level, sex and age, each in dimensions of its own."""
    rows = []
    for name in ASKED:
        words = WORDS[name]
        value = facts.known.get("sex") if name == "sex" else getattr(facts, name)
        rows.append(torch.tensor([float(value == word) for word in words]))
    names = [level.name for rows_of_plane in levels().values() for level in rows_of_plane]
    level = torch.tensor([float(name == facts.level) for name in names])
    age, band = torch.zeros(2), facts.known.get("age_band")
    years = facts.known.get("age") or (band and {"young": 26, "middle-aged": 52, "elderly": 78}[band])
    if years:
        turn = torch.tensor(float(years) / 100 * np.pi)
        age = torch.stack([turn.cos(), turn.sin()])
    return torch.nn.functional.normalize(torch.cat([*rows, level, age]), dim=0)


class Planted(Clip):
    """Embeddings made from the facts, so that every answer is known."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def tokenize(self, texts: Any) -> Any:
        return list(texts)

    def encode_text(self, tokens: Any) -> Any:
        return torch.stack([direction(read_prompt(text).facts) for text in tokens]), None


def test_planted_embeddings_are_read_without_a_mistake(
    data: PairDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module,
        "embed_all",
        lambda clip, data, rows: torch.stack([direction(data.pairs[i].facts) for i in rows]),
    )
    figures = zero_shot(Planted(), data)["a"]
    assert {name: figures[name]["value"] for name in ASKED} == dict.fromkeys(ASKED, 1.0)
    assert figures["age_order"]["value"] > 0.95
    assert figures["age_error"]["value"] <= 2.5  # the ages asked for are five years apart
    assert figures["age_band"]["value"] == 1.0  # 40 years are middle-aged, 62 still


def test_embeddings_without_age_have_no_order_of_age(
    data: PairDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ageless(clip: Clip, data: PairDataset, rows: Any) -> torch.Tensor:
        known = [
            Facts(f.plane, f.position_mm, f.modality, f.level) for f in (data.pairs[i].facts for i in rows)
        ]
        return torch.stack([direction(fact) for fact in known])

    monkeypatch.setattr(module, "embed_all", ageless)
    order = zero_shot(Planted(), data)["a"]["age_order"]["value"]
    assert order is None or abs(order) < 0.5


def test_untrained_clip_gives_finite_figures_and_unit_meanings(data: PairDataset) -> None:
    ages = [{"age": 20 + k % 70} if k % 4 else {"age_band": BANDS[k % 3]} for k in range(600)]
    stated = {"plane": "axial", "modality": "T1"}
    texts = [restate(stated | age, seed=k).text for k, age in enumerate(ages)]
    clip = new_clip(CLIP, SIZE, train_tokenizer(texts, 1500)).eval()
    said = meanings(clip, [{"plane": "axial", "age": age} for age in AGES])
    assert torch.allclose(said.norm(dim=1), torch.ones(len(AGES)), atol=1e-5)
    figures = zero_shot(clip, data)["a"]
    assert all(0 <= figures[name]["value"] <= 1 for name in (*ASKED, "age_band"))


def test_each_slice_gets_its_own_candidates() -> None:
    facts = [Facts("axial"), Facts("coronal")]
    image = torch.stack(
        [direction(Facts("axial", level="thalamus")), direction(Facts("coronal", modality="T2"))]
    )
    picked = chosen(
        Planted(),
        image,
        facts,
        lambda fact: [{"plane": fact.plane, "modality": "T1"}, {"plane": fact.plane, "modality": "T2"}],
    )
    assert picked[1] == 1
