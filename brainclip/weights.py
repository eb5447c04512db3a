"""Weights on disk: safetensors in half precision, loaded strictly; what is missing is an error."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainclip.errors import WeightsError

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"  # the name from_pretrained looks for


def save_weights(module: nn.Module, path: Path, *, dtype: torch.dtype | None = torch.float16) -> None:
    """Write a module's state as safetensors; floating-point tensors in `dtype` (None: as they are)."""
    state = {}
    for key, value in module.state_dict().items():
        cast = dtype is not None and value.is_floating_point()
        state[key] = (value.to(dtype) if cast else value).detach().cpu().contiguous().clone()
    write_weights(state, path)


def write_weights(state: Mapping[str, Tensor], path: Path, header: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all; header: texts that go into the file with them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file(dict(state), temporary, metadata={"format": "pt"} | dict(header or {}))
    os.replace(temporary, path)


def read_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The texts in the header of a safetensors file, and the shape of each of its tensors.

    WeightsError when it is missing or damaged.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file")
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, shapes
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged weight file ({error}); copy it again") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. WeightsError when it is missing or damaged."""
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weight file; train the stage that writes it or name another model folder"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: damaged weight file ({error}); copy or train it again") from None


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file. WeightsError names the first key that does not agree."""
    fill(module, read_weights(path), path)


def fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fill a module from the state read from `path`, as load_weights does."""
    wanted = module.state_dict()
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing:
        raise WeightsError(
            f"{path}: {len(missing)} keys missing, first {missing[0]!r}; was this saved by another stage?"
        )
    if extra:
        raise WeightsError(
            f"{path}: {len(extra)} keys too many, first {extra[0]!r}; was this saved by another stage?"
        )
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise WeightsError(
                f"{path}: {key} has shape {tuple(value.shape)}, the model wants {tuple(wanted[key].shape)}"
            )
    module.load_state_dict(state, strict=True)


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file. WeightsError when it is missing or damaged."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; the folder is not a complete model or run") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: damaged file ({error})") from None
    if not isinstance(table, dict):
        raise WeightsError(f"{path}: expected a JSON table")
    return table


def write_json(path: Path, table: dict[str, Any]) -> None:
    """Write a JSON table so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def published(name: str, files: Sequence[str]) -> Path:
    """The folder of a published model: `name` itself, or the files (patterns) of that hub id, fetched.

    WeightsError when there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise WeightsError(f"{name}: neither a folder nor a hub id that can be reached ({why})") from None


def hash_file(path: Path) -> str:
    """First 16 hex digits of a file's sha256: the name by which one stage knows another's weights."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file")
    with path.open("rb") as file:  # some have gigabytes
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def hash_weights(module: nn.Module) -> str:
    """16 hex digits of a module's weights in memory, with their names."""
    sha256 = hashlib.sha256()
    for key, value in module.state_dict().items():
        sha256.update(key.encode())
        sha256.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()[:16]
