from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_pairs import write_toy_pairs
from toys import toy_clip, toy_decoder

from brainclip.data import PairDataset
from brainclip.evaluate.reconstruction import psnr, reconstruction, ssim


@pytest.mark.parametrize(("error", "decibel"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_psnr_of_a_known_error(error: float, decibel: float) -> None:
    assert psnr(np.zeros((24, 28)), np.full((24, 28), error)) == pytest.approx(decibel, abs=1e-9)


def test_psnr_within_the_mask_sees_only_the_mask() -> None:
    true, made = np.zeros((24, 28)), np.zeros((24, 28))
    mask = np.zeros((24, 28), dtype=bool)
    mask[:6] = True  # a quarter of the picture
    made[mask] = 0.1
    assert psnr(true, made, mask) == pytest.approx(20.0, abs=1e-9)
    assert psnr(true, made) == pytest.approx(20.0 + 10 * np.log10(4), abs=1e-9)


def test_equal_pictures_have_ssim_one_and_the_psnr_limit() -> None:
    image = np.random.default_rng(0).random((24, 28)).astype(np.float32)
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-6)
    assert psnr(image, image) == 99.0


def test_ssim_of_two_flat_pictures_is_its_luminance_term() -> None:
    a, b, c = 0.5, 0.7, 0.01**2
    expected = (2 * a * b + c) / (a**2 + b**2 + c)
    assert ssim(np.full((24, 28), a), np.full((24, 28), b)) == pytest.approx(expected, abs=1e-6)


def test_both_decoders_are_reported_over_subjects(tmp_path: Path) -> None:
    write_toy_pairs(tmp_path / "toy")
    report = reconstruction(toy_decoder(toy_clip()), PairDataset([tmp_path / "toy"], "test"), slices=30)[
        "toy"
    ]
    assert set(report) == {
        f"{a}{b}{c}" for a in ("", "closed_form_") for b in ("psnr", "ssim") for c in ("", "_brain")
    }
    assert (report["psnr"]["n"], report["psnr"]["subjects"]) == (30, 3)
    figure = report["closed_form_psnr"]
    # the encoder was fitted on smooth blobs: it keeps some of the boxes; the fresh decoder adds nothing yet
    assert 8 < figure["value"] < 40
    assert figure["low"] <= figure["value"] <= figure["high"]
