"""The model folder: what each trained stage contributes, and brainclip.json, which says how to use it."""

from __future__ import annotations

import shutil
from pathlib import Path

from brainclip.clip import Clip
from brainclip.config import Recipe, digest
from brainclip.data import PairDataset
from brainclip.errors import WeightsError
from brainclip.inversion import FILES as FILES_OF_TOKENS
from brainclip.layouts import layout_files
from brainclip.model import FORMAT
from brainclip.weights import DIFFUSERS_WEIGHTS, hash_file, write_json

FILES = {
    "prior": ("config.json", DIFFUSERS_WEIGHTS, "scheduler_config.json", "contract.json"),
    "decoder": ("scheduler", "contract.json"),  # and what its layout consists of
}


def assemble(recipe: Recipe) -> Path:
    """Copy the trained stages of a recipe into <folder>/model, which load() opens; brainclip.json last."""
    source, target = Path(recipe.folder), Path(recipe.folder) / "model"
    if (target / "brainclip.json").is_file():
        (target / "brainclip.json").unlink()  # from here to the end the folder is incomplete
    if (target / "decoder").is_dir():
        shutil.rmtree(target / "decoder")  # that of another layout would leave its index behind
    Clip.load(source / "clip").save(target / "clip")  # the same weights, without what is beside them there
    for stage, names in FILES.items():
        for name in names:
            _copy(source / stage / name, target / stage / name)
    for name in layout_files(source / "decoder"):
        _copy(source / "decoder" / name, target / "decoder" / name)
    for path in source.glob("decoder/adapters/*/adapter.json"):
        for name in ("unet", "expected", "text_encoder", "text_encoder_2", "projection", "adapter.json"):
            if (path.parent / name).exists():
                _copy(path.parent / name, target / "decoder" / "adapters" / path.parent.name / name)
    for path in source.glob("decoder/inversions/*/inversion.json"):
        for name in (*FILES_OF_TOKENS.values(), "inversion.json"):
            if (path.parent / name).exists():
                _copy(path.parent / name, target / "decoder" / "inversions" / path.parent.name / name)
    data = PairDataset([recipe.pairs_folder(name) for name in recipe.decoder.mix], "train")
    facts = [pair.facts for pair in data.pairs]
    ages = [fact.known["age"] for fact in facts if "age" in fact.known] or [0.0]
    positions = {}
    for plane in sorted({fact.plane for fact in facts if fact.plane}):
        at = [fact.position_mm for fact in facts if fact.plane == plane and fact.position_mm is not None]
        positions[plane] = [min(at), max(at)]
    hashes = [hash_file(path) for path in sorted(target.rglob("*.safetensors"))]
    card = {
        "format": FORMAT,
        "name": recipe.name,
        "hash": digest(hashes),
        "size": recipe.size,
        "spacing_mm": recipe.spacing_mm,
        "modalities": sorted({fact.modality for fact in facts if fact.modality}),
        "positions": positions,
        "ages": [min(ages), max(ages)],
        "pairs": data.hash,
        "generate": {
            "steps": recipe.decoder.sampling_steps,
            "guidance": recipe.decoder.guidance,
            "prior_steps": recipe.prior.sampling_steps,
            "prior_guidance": recipe.prior.guidance,
            "prior_age_guidance": recipe.prior.age_guidance or None,
            "prior_candidates": recipe.prior.candidates,
            "restate": recipe.prior.restate,
        },
    }
    write_json(target / "brainclip.json", card)
    return target


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise WeightsError(f"{source}: no such file; train that stage first")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
