from __future__ import annotations

from pathlib import Path

import torch
from toys import SIZE, smooth_images, toy_vae

from brainclip.vae import PatchAutoencoder


def test_latents_of_the_fitted_images_are_centred_and_of_unit_spread() -> None:
    vae = toy_vae()
    latents = vae.encode(smooth_images(60) * 2 - 1).latent_dist.mode()
    assert latents.shape == (60, 8, SIZE // 8, SIZE // 8)
    assert abs(latents.mean()) < 0.01
    assert abs(latents.pow(2).mean().sqrt() - 1) < 0.01


def test_with_all_components_the_closed_form_is_exact() -> None:
    vae = PatchAutoencoder(4, 16, (16,), 1, SIZE)
    images = torch.rand(8, 1, SIZE, SIZE) * 2 - 1
    vae.fit(images, whiten=0.5)
    assert torch.allclose(vae.linear_decode(vae.encode(images).latent_dist.mode()), images, atol=1e-4)


def test_whitening_exponent_sets_the_spread_of_the_components() -> None:
    images = smooth_images(60) * 2 - 1
    ratios = []
    for whiten in (0.0, 0.5, 1.0):
        vae = PatchAutoencoder(8, 4, (8,), 1, SIZE)
        vae.fit(images, whiten=whiten)
        spread = vae.encode(images).latent_dist.mode().std(dim=(0, 2, 3))
        ratios.append(float(spread[0] / spread[3]))
    assert ratios[0] > ratios[1] > ratios[2]
    assert abs(ratios[2] - 1) < 0.01
    assert abs(ratios[1] ** 2 / ratios[0] - 1) < 0.02


def test_autoencoder_folder_round_trips_through_from_pretrained(tmp_path: Path) -> None:
    vae = toy_vae()
    vae.save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path).eval()
    images = smooth_images(3) * 2 - 1
    assert torch.equal(vae(images).sample, again(images).sample)
    assert again.latent_scale.std() > 0  # what the data decided travels with the weights
