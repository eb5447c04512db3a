"""Adapters merged for good: a model whose decoder has them in its own weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from brainclip.config import digest
from brainclip.decoder import PROJECTION, Decoder
from brainclip.errors import WeightsError
from brainclip.layouts.parts import write_part
from brainclip.lora import adapter_weights, attached, fuse_lora
from brainclip.model import BrainCLIP
from brainclip.weights import hash_file, read_json, write_json


def merge_adapters(model: BrainCLIP, adapter: str | Mapping[str, float], out: Path) -> Path:
    """A copy of a model in the folder `out`, whose decoder draws without adapters as that of `model` does
    with these, each so many times; decoder/contract.json says what it was made of.

    The parts that change are in single precision, so that small changes are not rounded away. Neither
    adapters nor new tokens are copied: they belong to the decoder as it was. WeightsError for an unknown
    adapter, and when there is something in `out`.
    """
    weights = adapter_weights(adapter)
    if not weights:
        raise WeightsError("no adapter with a weight is named, so there is nothing to merge")
    if out.exists():
        raise WeightsError(f"{out}: there already; name a new folder")
    decoder = Decoder.load(model.folder / "decoder", model.clip)
    decoder.use_adapter(weights)
    networks = decoder.layout.networks()
    changed = [name for name, part in networks.items() if set(weights) & set(attached(part))]
    for name in changed:
        fuse_lora(networks[name])
    shutil.copytree(
        model.folder, out, ignore=shutil.ignore_patterns("adapters", "inversions", "brainclip.json")
    )
    for name in [*changed, *({PROJECTION} & set(decoder.layout.parts))]:
        write_part(decoder.layout.parts[name], out / "decoder" / name, None)
    made_of = {
        name: {"weight": weight, "hash": _hash(decoder.adapters[name]["folder"])}
        for name, weight in weights.items()
    }
    contract = read_json(out / "decoder" / "contract.json")
    merged = [*contract.get("merged", []), {"decoder": decoder.hash, "adapters": made_of}]
    write_json(out / "decoder" / "contract.json", contract | {"merged": merged})
    write_json(out / "brainclip.json", model.card | {"hash": _hash(out)})
    return out


def _hash(folder: Path) -> str:
    """Of all weights in a folder, as the card of a model has it."""
    return digest([hash_file(path) for path in sorted(folder.rglob("*.safetensors"))])
