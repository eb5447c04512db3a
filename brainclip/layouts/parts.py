"""Parts of a diffusion model in diffusers' layout: read strictly, written as from_pretrained reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from brainclip.errors import WeightsError
from brainclip.vae import PatchAutoencoder
from brainclip.weights import DIFFUSERS_WEIGHTS, load_weights, published, read_json, save_weights

FOLDERS = ("unet", "vae", "movq", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def base_folder(name: str, folders: Sequence[str] = FOLDERS) -> Path:
    """The folder of a published model: `name` itself, or a download of what these folders of that hub id
    hold. WeightsError when there is neither."""
    files = ("*.json", "*.txt", DIFFUSERS_WEIGHTS, "model.safetensors")
    inner = [f"{folder}/{file}" for folder in folders for file in files]
    return published(name, ["model_index.json", "config.json", DIFFUSERS_WEIGHTS, *inner])


def read_part(kind: Any, folder: Path) -> Any:
    """A model of diffusers or transformers from its folder, in single precision.

    Both libraries fill a missing key with random numbers; here it is a WeightsError, as one too many is.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder}: no {kind.__name__} there; the folder of the base is not complete")
    try:
        part, found = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        why = str(error).partition("\n")[0]
        raise WeightsError(f"{folder}: cannot be read ({why})") from None
    for what, keys in (("missing", found["missing_keys"]), ("too many", found["unexpected_keys"])):
        if keys:
            raise WeightsError(
                f"{folder}: {len(keys)} keys {what}, first {min(keys)!r}; copy or download it again"
            )
    if hasattr(part, "register_to_config"):
        part.register_to_config(_name_or_path="")  # no path of this machine in what is saved
    return part.eval()


def write_part(part: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """Write a part so that its own from_pretrained reads it; weights in `dtype`, None: as they are."""
    if hasattr(part, "save_config"):
        save_weights(part, folder / DIFFUSERS_WEIGHTS, dtype=dtype)
        part.save_config(folder)
        return
    state = {
        key: value.to(dtype) if dtype is not None and value.is_floating_point() else value
        for key, value in part.state_dict().items()
    }
    part.save_pretrained(folder, state_dict=state)  # transformers: its own names of files


def load_autoencoder(folder: Path) -> Any:
    """The autoencoder of the stage vae in `folder`, strictly loaded: ours, or an adapted AutoencoderKL."""
    config = read_json(folder / "config.json")
    kinds = {kind.__name__: kind for kind in (PatchAutoencoder, AutoencoderKL)}
    if config.get("_class_name") not in kinds:
        raise WeightsError(f"{folder}: a {config.get('_class_name')}; possible are {', '.join(kinds)}")
    vae = kinds[config["_class_name"]].from_config(config)
    load_weights(vae, folder / DIFFUSERS_WEIGHTS)
    return vae.eval()
