from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest
from toy_pairs import write_toy_pairs
from toys import toy_clip

from brainclip.data import PairDataset
from brainclip.evaluate.retrieval import chance, recall, retrieval


def test_planted_embedding_finds_every_item_first() -> None:
    items = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0]
    assert recall(items @ items.T, np.eye(24, dtype=bool), 1).all()
    assert not recall(-(items @ items.T), np.eye(24, dtype=bool), 10).any()


def test_item_at_rank_three_counts_from_five_on() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, 0.1, 0.0, -0.1]])
    truth = np.array([[False, False, True, False, False, False]])
    assert [bool(recall(similarity, truth, k)[0]) for k in (1, 2, 3, 5, 10)] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_any_true_item_counts_not_only_the_own_one() -> None:
    similarity = np.array([[0.1, 0.9, 0.3]])
    assert recall(similarity, np.array([[True, True, False]]), 1).all()


def test_chance_is_the_hypergeometric_one() -> None:
    truth = np.zeros((2, 20), dtype=bool)
    truth[0, :3] = True
    truth[1, :1] = True
    for k in (1, 5, 10):
        expected = np.mean([1 - comb(20 - t, k) / comb(20, k) for t in (3, 1)])
        assert chance(truth, k) == pytest.approx(expected, abs=1e-12)


def test_chance_agrees_with_random_orders() -> None:
    generator = np.random.default_rng(3)
    truth = generator.random((30, 25)) < 0.08
    truth[:, 0] = True
    drawn = [recall(generator.random((30, 25)), truth, 5).mean() for _ in range(400)]
    assert chance(truth, 5) == pytest.approx(np.mean(drawn), abs=0.01)  # 12000 trials: standard error 0.004


def test_chance_of_more_items_than_there_are_is_one() -> None:
    assert chance(np.eye(4, dtype=bool), 10) == 1.0


def test_untrained_clip_is_at_chance_and_states_its_pool(tmp_path: Path) -> None:
    write_toy_pairs(tmp_path / "a", subjects=(1, 1, 6))
    write_toy_pairs(tmp_path / "b", subjects=(1, 1, 2), seed=1)
    data = PairDataset([tmp_path / "a", tmp_path / "b"], "test")
    clip = toy_clip()
    clip.layout.tokenizer = _larger_tokenizer(data)
    clip.towers.token_embedding.weight.data = clip.towers.token_embedding.weight.data.repeat(8, 1)
    report = retrieval(clip, data, pool=100)
    assert [report[name]["pool"] for name in ("all", "a", "b")] == [100, 100, 48]
    figure = report["a"]["text_to_image_r5"]
    assert figure["low"] <= figure["chance"] + 0.1 and figure["value"] < figure["chance"] + 0.2
    assert (figure["n"], figure["subjects"]) == (100, 6)


def _larger_tokenizer(data: PairDataset) -> object:
    from brainclip.clip import train_tokenizer

    return train_tokenizer([pair.text for pair in data.pairs] * 5, 1500)
