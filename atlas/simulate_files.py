"""A simulated cohort's files: BIDS-like folders of NIfTI, what is known of each subject, what the set is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image

from atlas.anatomy import LABEL_MAP_LICENCE, TEMPLATE_LICENCE
from atlas.errors import SourceError

INT16_STEP = 1e-3  # images are about 0 to 1


def write_subject(
    final: Path, images: dict[str, Nifti1Image], labels: Nifti1Image, facts: dict[str, object]
) -> None:
    """Nothing; the folder `final` appears at once, complete, by rename."""
    unfinished = final.with_name(f".{final.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "anat").mkdir(parents=True)
    stem = unfinished / "anat" / final.name
    for modality, image in images.items():
        suffix = modality if modality == "FLAIR" else f"{modality}w"
        steps = np.asanyarray(image.dataobj) / INT16_STEP
        write_integers(steps, np.int16, image.affine, f"{stem}_{suffix}.nii.gz")
    write_integers(np.asanyarray(labels.dataobj), np.int32, labels.affine, f"{stem}_dseg.nii.gz")
    write_text(unfinished / f"{final.name}.json", json.dumps(facts))
    unfinished.rename(final)


def write_integers(data: np.ndarray, kind: type[np.integer], affine: np.ndarray, path: str) -> None:
    """Nothing; a NIfTI file of integers that says in its header that it is synthetic."""
    limit = np.iinfo(kind).max
    image = Nifti1Image(np.clip(np.round(data), 0, limit).astype(kind), affine)
    image.header["descrip"] = "synthetic, atlas.simulate"
    nib.save(image, path)


def write_participants(folder: Path) -> None:
    """Nothing; participants.tsv lists every subject in the folder, participants.json explains its columns."""
    rows = ["participant_id\tage\tsex\tanatomy"]
    for path in sorted(folder.glob("sub-*/sub-*.json")):
        facts = json.loads(path.read_text())
        rows.append(f"{path.stem}\t{facts['age']}\t{facts['sex']}\t{facts['anatomy']}")
    write_text(folder / "participants.tsv", "\n".join(rows))
    columns = {
        "age": {"Description": "simulated age", "Units": "years"},
        "sex": {"Description": "simulated sex", "Levels": {"female": "female", "male": "male"}},
        "anatomy": {"Description": "the anatomy that the subject was warped from"},
    }
    write_text(folder / "participants.json", json.dumps(columns, indent=2))


def write_description(folder: Path, *, seed: int, spacing_mm: float, label_maps: list[str]) -> None:
    """Nothing; dataset_description.json says that the set is synthetic, how it was made and from what.

    Raises SourceError when the folder already holds a cohort of other settings.
    """
    settings = {"seed": seed, "spacing_mm": spacing_mm, "label_maps": label_maps}
    path = folder / "dataset_description.json"
    earlier = json.loads(path.read_text()).get("Simulation", settings) if path.exists() else settings
    different = [name for name in settings if earlier.get(name) != settings[name]]
    if different:
        raise SourceError(
            f"{folder}: holds a cohort made with another {', '.join(different)} ({earlier}); "
            "choose another folder, or the same settings to continue"
        )
    description = {
        "Name": "Simulated healthy brains (synthetic)",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "License": "; ".join([TEMPLATE_LICENCE] + [LABEL_MAP_LICENCE] * bool(label_maps)),
        "GeneratedBy": [{"Name": "atlas.simulate", "Description": "synthetic images, no person's scan"}],
        "Simulation": settings,
    }
    write_text(path, json.dumps(description, indent=2))


def write_text(path: Path, text: str) -> None:
    """Nothing; `path` holds `text` and a newline, never half of it."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text + "\n")
    unfinished.rename(path)
