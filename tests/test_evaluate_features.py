"""Extractors: real networks, weight files in the layouts that users have, and the features kept on disk."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import inception_v3
from toys import smooth_images, toy_clip

from brainclip.config import EvaluateRecipe
from brainclip.errors import WeightsError
from brainclip.evaluate.features import Extractor, FeatureFolder, extractors
from brainclip.evaluate.inception import Inception
from brainclip.evaluate.judge import Judge
from brainclip.weights import hash_file

# (rows, columns, filters) of keras.applications' InceptionV3, in the order in which it makes them
STEM = [(3, 3, 32), (3, 3, 32), (3, 3, 64), (1, 1, 80), (3, 3, 192)]
KERAS_ORDER = [
    *STEM,
    *(
        row
        for pool in (32, 64, 64)
        for row in (
            (1, 1, 64),
            (1, 1, 48),
            (5, 5, 64),
            (1, 1, 64),
            (3, 3, 96),
            (3, 3, 96),
            (1, 1, pool),
        )
    ),
    *((3, 3, 384), (1, 1, 64), (3, 3, 96), (3, 3, 96)),
    *(
        row
        for n in (128, 160, 160, 192)
        for row in (
            *((1, 1, 192), (1, 1, n), (1, 7, n), (7, 1, 192)),
            *((1, 1, n), (7, 1, n), (1, 7, n), (7, 1, n), (1, 7, 192), (1, 1, 192)),
        )
    ),
    *((1, 1, 192), (3, 3, 320), (1, 1, 192), (1, 7, 192), (7, 1, 192), (3, 3, 192)),
    *(
        2
        * [
            *((1, 1, 320), (1, 1, 384), (1, 3, 384), (3, 1, 384)),
            *((1, 1, 448), (3, 3, 384), (1, 3, 384), (3, 1, 384), (1, 1, 192)),
        ]
    ),
]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Inception v3 with random weights and planted statistics."""
    torch.manual_seed(0)
    made = inception_v3(weights=None, init_weights=False, aux_logits=False, transform_input=False).eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.bias.data.normal_(std=0.1)
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.01, 0.05)
    return made


def write_keras(network: nn.Module, path: Path, *, start: int = 0, inside: str = "") -> None:
    """The network as Keras saves it without top: numbered layers, (H, W, in, out), no scale."""
    with h5py.File(path, "w") as file:
        layers = [part for part in network.modules() if hasattr(part, "conv")]
        for k, part in enumerate(layers, start):
            end = f"_{k}" if k else ""
            weights = {
                f"conv2d{end}": {"kernel:0": part.conv.weight.permute(2, 3, 1, 0)},
                f"batch_normalization{end}": {
                    "beta:0": part.bn.bias,
                    "moving_mean:0": part.bn.running_mean,
                    "moving_variance:0": part.bn.running_var,
                },
            }
            for layer, values in weights.items():
                for name, value in values.items():
                    file[f"{inside}{layer}/{layer}/{name}"] = value.detach().numpy()


def expected(network: nn.Module, images: Tensor) -> Tensor:
    """(B, 2048) of torchvision's own forward."""
    images = functional.interpolate(images, size=(299, 299), mode="bilinear", antialias=True)
    with torch.no_grad():
        seen: list[Tensor] = []
        hook = network.avgpool.register_forward_hook(lambda *call: seen.append(call[2].flatten(1)))
        network(images.repeat(1, 3, 1, 1) * 2 - 1)
        hook.remove()
    return seen[0]


def test_torchvision_file_gives_torchvisions_features(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    state |= {"AuxLogits.fc.weight": torch.zeros(3, 3)}
    torch.save({key: v for key, v in state.items() if "tracked" not in key}, tmp_path / "i.pth")
    images = smooth_images(2)
    found = Inception(tmp_path / "i.pth")(images)
    assert found.shape == (2, 2048) and float(found.std()) > 0.01
    assert torch.allclose(found, expected(network, images), atol=1e-5)


def test_radimagenets_torch_backbone_is_read_by_the_number_of_its_parts(
    network: nn.Module, tmp_path: Path
) -> None:
    parts = [part for name, part in network.named_children() if name not in ("avgpool", "dropout", "fc")]
    backbone = nn.ModuleDict({"backbone": nn.Sequential(*parts)})
    torch.save(backbone.state_dict(), tmp_path / "InceptionV3.pt")
    images = smooth_images(1)
    assert torch.allclose(
        Inception(tmp_path / "InceptionV3.pt")(images), expected(network, images), atol=1e-5
    )


@pytest.mark.parametrize(("start", "inside"), [(0, ""), (94, "model_weights/")])
def test_keras_file_fills_every_layer_in_its_order(
    network: nn.Module, tmp_path: Path, start: int, inside: str
) -> None:
    write_keras(network, tmp_path / "r.h5", start=start, inside=inside)
    read = Inception(tmp_path / "r.h5")
    wanted = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    state = read.network.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())
    kernels = [part.conv.weight.shape for part in read.network.modules() if hasattr(part, "conv")]
    assert [(shape[2], shape[3], shape[0]) for shape in kernels] == KERAS_ORDER


def test_keras_network_averages_within_the_picture(network: nn.Module, tmp_path: Path) -> None:
    write_keras(network, tmp_path / "r.h5")
    block = Inception(tmp_path / "r.h5").network.Mixed_5b
    x = torch.rand(1, 192, 7, 9)
    with torch.no_grad():
        mean = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        pool = network.Mixed_5b.branch_pool(mean)
        assert torch.allclose(block(x)[:, -32:], pool, atol=1e-5)
        assert not torch.allclose(network.Mixed_5b(x)[:, -32:], pool, atol=1e-3)


def test_files_that_do_not_serve_are_named(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing is downloaded"):
        Inception(tmp_path / "none.pth")
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="keys missing"):
        Inception(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match="not a state dict"):
        Inception(tmp_path / "text.pth")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(WeightsError, match="not an HDF5 file"):
        Inception(tmp_path / "text.h5")
    with h5py.File(tmp_path / "few.h5", "w") as file:
        file["conv2d/conv2d/kernel:0"] = np.zeros((3, 3, 3, 32))
    with pytest.raises(WeightsError, match="1 layers named conv2d, Inception v3 has 94"):
        Inception(tmp_path / "few.h5")


def test_extractors_carry_the_hash_of_their_weights(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "i.pth")
    clip, judge = toy_clip(), Judge(8, 32).eval()
    clip.hash, judge.hash = "c", "j"
    found = extractors(clip, judge, EvaluateRecipe(radimagenet=str(tmp_path / "i.pth")))
    assert [one.name for one in found] == ["clip", "judge", "radimagenet"]
    assert [one.hash for one in found] == ["c", "j", hash_file(tmp_path / "i.pth")]
    images = smooth_images(5)
    with torch.no_grad():
        seen = FeatureFolder(tmp_path / "kept").features(found[1], images)
        assert seen.shape == (5, 64)
        assert np.allclose(seen @ judge.heads.weight.numpy().T[:, :3] + judge.heads.bias.numpy()[:3],
                           judge(images)["plane"].numpy(), atol=1e-5)  # fmt: skip
        assert np.allclose(FeatureFolder(tmp_path / "kept").features(found[0], images),
                           clip.whiten(clip.encode_image(images)).numpy(), atol=1e-5)  # fmt: skip


def test_features_are_computed_once_for_the_same_pictures_and_weights(tmp_path: Path) -> None:
    calls: list[int] = []

    def see(images: Tensor) -> Tensor:
        calls.append(len(images))
        return images.flatten(1)[:, :3]

    images, folder = smooth_images(70), FeatureFolder(tmp_path)
    first = folder.features(Extractor("toy", "a", see), images)
    assert calls == [32, 32, 6] and np.array_equal(first, images.flatten(1)[:, :3].numpy())
    again = folder.features(Extractor("toy", "a", see), images)
    assert calls == [32, 32, 6] and np.array_equal(first, again)
    folder.features(Extractor("toy", "b", see), images)  # other weights
    changed = images.clone()
    changed[3, 0, 0, 0] += 0.25
    assert folder.features(Extractor("toy", "a", see), changed)[3, 0] == changed[3, 0, 0, 0]
    assert len(calls) == 9
    assert (folder.times["toy"]["computed"], folder.times["toy"]["read"]) == (210, 70)
