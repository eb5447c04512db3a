"""What every adapter gives back: scans, and notes of what was left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nibabel import Nifti1Image

from atlas.errors import SourceError
from atlas.volume import has_orientation, load_labels


@dataclass(frozen=True)
class Scan:
    """One volume on disk and what is known of the person.

    known: any of age (years), sex ("female", "male"), handedness, site, field_strength (tesla), health; from
    some data sets also age_range ("26-30"), cdr, nwbv. Captions speak of the first group only.
    mask: an image whose voxels above 0 are brain. labels: true region ids on its grid (simulated only).
    family: subjects of one family stay in one split (simulated from one person's anatomy); empty: none.
    orientation: where the voxel axes run to ("LAS"), for files that do not say so; empty: the file does.
    scale: mm3 of the image for one native mm3; not 1 where the data set has resized the head.
    standing: what the data set's health column says ("0.5", "Demented", "" for blank); None: it has none.
    """

    source: str
    subject: str
    session: str
    modality: str
    path: Path
    known: dict[str, Any] = field(default_factory=dict)
    mask: Path | None = None
    labels: Path | None = None
    family: str = ""
    orientation: str = ""
    scale: float = 1.0
    standing: str | None = None


HERE = Path()
Notes = list[dict[str, Any]]
Adapter = Callable[[Path, Path | None], tuple[list[Scan], Notes]]

NO_ORIENTATION = "its header does not say which side is left; write it again with its orientation set"


def note(subject: str, path: Path, reason: str, *, kept: bool = False) -> dict[str, Any]:
    """One line of what was left out; kept: the scan stays and only a fact about it was dropped."""
    return {"subject": subject, "path": str(path), "reason": reason, "kept": kept}


def stem(path: Path) -> str:
    """A file's name without any of its endings: "x.nii.gz" -> "x"."""
    return path.name.split(".")[0]


def find_mask(name: str, masks: Path | None, place: Path = HERE) -> tuple[Path | None, str]:
    """The mask of a scan and, when a folder of masks was given and there is not exactly one, the reason.

    name: the scan's file name without endings; masks are called `<name>_*.nii.gz` or as the scan. place: the
    scan's folder below that of the data set; masks lie in the same one below `masks`, or in `masks` itself.
    """
    if masks is None:
        return None, ""
    for folder in dict.fromkeys((masks / place, masks)):
        found = sorted([*folder.glob(f"{name}_*.nii*"), *folder.glob(f"{name}.nii*")])
        if len(found) == 1:
            return found[0], ""
        if found:
            break
    return None, f"{len(found)} masks named {name}_*.nii.gz in {masks.name}; one is needed"


def load_mask(scan: Scan, volume: Nifti1Image) -> Nifti1Image:
    """The image given beside a scan, ids as stored (brain above 0), in the place of the scan's volume."""
    assert scan.mask is not None
    given = load_labels(scan.mask, orientation="" if has_orientation(scan.mask) else scan.orientation)
    if scan.orientation and given.shape == volume.shape:
        # the volume's file says nothing of its place, so a mask that does lies elsewhere
        given = Nifti1Image(given.dataobj, volume.affine)
    return given


def field_strength(*sidecars: Path) -> dict[str, float]:
    """{"field_strength": tesla} from the first JSON sidecar that is there and says it, or nothing."""
    for sidecar in sidecars:
        value = read_json(sidecar).get("MagneticFieldStrength") if sidecar.is_file() else None
        if isinstance(value, int | float):
            return {"field_strength": float(value)}
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises SourceError when it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise SourceError(f"{path}: not a JSON object ({error}); repair or remove it") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path}: not a JSON object; repair or remove it")
    return found
