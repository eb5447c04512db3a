"""Inception v3 from a user's weight file: ImageNet's of torchvision, RadImageNet's of Keras or torch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from brainclip.errors import WeightsError
from brainclip.weights import fill, read_weights

SIZE = 299  # pixels along a side, as both were trained for and as the FID's papers do
DIMENSIONS = 2048
KERAS = (".h5", ".hdf5")
TAIL = ("AuxLogits.", "fc.")  # what comes after the features
WRAPPERS = ("module.", "backbone.")


class Inception(nn.Module):
    """Grey slices (B, 1, H, W) in [0, 1] to the 2048 averaged features before the classifier."""

    def __init__(self, path: Path) -> None:
        """Weights from `path`: .h5 in the layout of Keras; .safetensors or a file of torch in that of
        torchvision or of RadImageNet's backbone. WeightsError when it is missing or another network's."""
        super().__init__()
        from torchvision.models import inception_v3

        if not path.is_file():
            raise WeightsError(
                f"{path}: no such weight file; download the weights yourself, nothing is downloaded here, "
                "or leave the key away"
            )
        self.network = inception_v3(weights=None, init_weights=False, aux_logits=False, transform_input=False)
        self.network.fc = nn.Identity()
        from_keras = path.suffix in KERAS
        fill(self.network, (_keras if from_keras else _torch)(self.network, path), path)
        if from_keras:
            _average_within_the_picture(self.network)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        images = functional.interpolate(
            images, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True
        )
        features: Tensor = self.network(images.expand(-1, 3, -1, -1) * 2 - 1)  # both were trained on [-1, 1]
        return features


def _average_within_the_picture(network: nn.Module) -> None:
    """Make the 3 x 3 averages in front of `branch_pool` leave out what lies beyond the edge, as Keras does:
    torchvision counts it as zeros, a third of the weight at an edge."""

    def mend(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        share = functional.avg_pool2d(torch.ones_like(inputs[0][:1, :1]), 3, stride=1, padding=1)
        return (inputs[0] / share,)

    for name, module in network.named_modules():
        if name.endswith("branch_pool"):
            module.register_forward_pre_hook(mend)


def _torch(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """The state of the network in a file of torch, without classifiers.

    RadImageNet's backbone is a Sequential of the network's parts, whose numbers stand for their names.
    """
    if path.suffix == ".safetensors":
        state: Any = read_weights(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise WeightsError(f"{path}: not a state dict of torch ({str(error).splitlines()[0]})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a state dict of torch; save the network's state_dict()")
    for wrapper in WRAPPERS:
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    numbers = sorted({int(key.split(".")[0]) for key in state if key.split(".")[0].isdigit()})
    parts = [name for name, part in network.named_children() if any(True for _ in part.parameters())]
    if len(numbers) == len(parts):
        named = dict(zip(map(str, numbers), parts, strict=True))
        state = {f"{named[key.split('.')[0]]}.{key.split('.', 1)[1]}": v for key, v in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(TAIL)}
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("batches_tracked")}
    return counters | state  # files of old versions have no counters, which are used in training alone


def _keras(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """The state of the network in a .h5 file of keras.applications' InceptionV3, with top or without.

    Keras numbers convolutions and normalisations in the order in which they are made, which is torchvision's:
    conv2d, conv2d_1 ..., from whichever number the session had come to. Its normalisations have no scale.
    """
    import h5py

    found: dict[str, dict[int, dict[str, np.ndarray]]] = {"conv2d": {}, "batch_normalization": {}}

    def collect(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.count("/") == 0:
            return
        *_, layer, weight = name.split("/")
        kind, _, number = layer.rpartition("_") if layer.split("_")[-1].isdigit() else (layer, "", "0")
        if kind in found:
            found[kind].setdefault(int(number), {})[weight.split(":")[0]] = np.asarray(item)

    try:
        with h5py.File(path, "r") as file:
            file.get("model_weights", file).visititems(collect)
    except OSError as error:
        raise WeightsError(f"{path}: not an HDF5 file of Keras ({error})") from None
    layers = {name: part for name, part in network.named_modules() if hasattr(part, "conv")}
    for kind, made in found.items():
        if len(made) != len(layers):
            raise WeightsError(
                f"{path}: {len(made)} layers named {kind}, Inception v3 has {len(layers)}; "
                "is this keras.applications' InceptionV3?"
            )
    state = {key: value for key, value in network.state_dict().items() if key.endswith("batches_tracked")}
    ordered = [[found[kind][number] for number in sorted(found[kind])] for kind in found]
    for name, convolution, normalisation in zip(layers, *ordered, strict=True):
        try:
            kernel, mean = convolution["kernel"], normalisation["moving_mean"]
            values = {
                "conv.weight": kernel.transpose(3, 2, 0, 1),  # (H, W, in, out) -> (out, in, H, W)
                "bn.weight": normalisation.get("gamma", np.ones_like(mean)),
                "bn.bias": normalisation["beta"],
                "bn.running_mean": mean,
                "bn.running_var": normalisation["moving_variance"],
            }
        except KeyError as error:
            raise WeightsError(f"{path}: the layer for {name} has no weight {error}") from None
        state |= {f"{name}.{key}": torch.tensor(np.ascontiguousarray(v)) for key, v in values.items()}
    return state
