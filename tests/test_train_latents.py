"""Where a decoder's slices are encoded: in its objective, or once, into files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_bases import Lab, recipe_of, toy_lab
from toys import smooth_images

from brainclip.config import DecoderRecipe
from brainclip.data import PairDataset
from brainclip.decoder import Decoder
from brainclip.train import latents as cache
from brainclip.train.decoder import DecoderObjective, decoder_batches, train_adapter, train_decoder
from brainclip.train.latents import cached_latents


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return toy_lab(tmp_path_factory.mktemp("lab"))


def decoder_of(lab: Lab, **keys: object) -> Decoder:
    recipe = DecoderRecipe(base=str(lab.bases["stable-diffusion"]), **keys)  # type: ignore[arg-type]
    return Decoder.new(recipe, lab.clip, size=32).eval()


def test_rows_are_the_latents_of_their_slices(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ROWS", 100)  # files of 100, 100 and 88 slices
    layout, data = decoder_of(lab).layout, PairDataset([lab.folder / "pairs" / "toy"], "train")
    rows = cached_latents(layout, data, tmp_path)
    indices = np.array([287, 3, 99, 100, 3])
    assert len(data) == 288 and len(list(tmp_path.glob("*/*.safetensors"))) == 3
    assert torch.allclose(rows(indices), layout.encode(data.images(indices)), atol=1e-5)


def test_a_file_is_computed_once_and_for_these_weights_size_and_pairs_alone(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ROWS", 100)
    data = PairDataset([lab.folder / "pairs" / "toy"], "train")

    def written(decoder: Decoder) -> list[Path]:
        """The files that were not there before."""
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
        cached_latents(decoder.layout, data, tmp_path)
        return [path for path in tmp_path.glob("*/*") if path.stat().st_mtime_ns != before.get(path)]

    first = written(decoder_of(lab))
    assert len(first) == 3 and written(decoder_of(lab, tokens=2)) == []
    first[1].unlink()  # as a kill leaves it
    assert written(decoder_of(lab)) == first[1:2]
    assert len(written(decoder_of(lab, size=48))) == 3
    other = decoder_of(lab)
    other.vae.encoder.conv_in.bias.data += 1
    assert len(written(other)) == 3
    data.datasets[0] = data.datasets[0] | {"content_sha256": "of other pairs"}
    assert len(written(decoder_of(lab))) == 3


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_decoder_and_its_adapter_train_alike_with_and_without(lab: Lab, tmp_path: Path) -> None:
    found = {}
    for cached in (False, True):
        recipe = recipe_of(lab, tmp_path / str(cached), base=str(lab.bases["kandinsky"]), cache=cached)
        site = replace(recipe.adapter["site"], cache=cached)
        train_decoder(recipe)
        train_adapter(replace(recipe, adapter={"site": site}), "site")
        run = tmp_path / str(cached) / "decoder"
        found[cached] = losses(run) + losses(run / "adapters" / "site")
        files = list((tmp_path / str(cached) / "latents").glob("*/*.safetensors"))
        assert len(files) == 2 * cached  # what the adapter works over was saved in half precision
    assert len(found[True]) == 4 and found[True] == pytest.approx(found[False], rel=1e-4)


def test_slices_are_encoded_in_single_precision_where_the_network_works_in_half(lab: Lab) -> None:
    decoder, images = decoder_of(lab), smooth_images(2)
    objective = DecoderObjective(decoder)
    batch = {"noise": torch.randn(2, 4, 16, 16), "time": torch.tensor([3, 900])}
    batch["whitened"] = torch.randn(2, 32)
    wanted = decoder.layout.encode(images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, known = (objective(**batch, **own)[0] for own in ({"images": images}, {"latents": wanted}))
        rounded = objective(**batch, latents=decoder.layout.encode(images))[0]
    assert torch.equal(found, known) and not torch.equal(found, rounded)


def test_a_batch_holds_what_is_read_and_nothing_that_is_computed(lab: Lab, tmp_path: Path) -> None:
    """Networks work in the objective, where the processes share the rows, and on its device."""
    data = PairDataset([lab.folder / "pairs" / "toy"], "train")
    decoder = decoder_of(lab, text=True).to("meta")  # which has no numbers to compute with
    stage = recipe_of(lab, lab.folder).decoder
    batch = decoder_batches(decoder, data, torch.randn(len(data), 32), stage, tmp_path)(0)
    assert {value.device.type for value in batch.values()} == {"cpu"}
    assert batch["images"].shape == (4, 1, 32, 32) and batch["noise"].shape == (4, 4, 16, 16)
    assert batch["tokenizer"].shape == (4, 77)
