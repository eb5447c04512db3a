"""Whatever can be embedded, as slices prepared like the training data: arrays, pictures, PNG and NIfTI."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atlas.facts import Facts, level_at
from atlas.slices import MODALITIES, Geometry
from brainclip.errors import BrainclipError, VolumeError
from brainclip.picture import Picture, as_pixels

NIFTI = (".nii", ".nii.gz")
FILES = (".png", *NIFTI)
EVERY_MM = 6.0  # distance of the slices that are cut from a volume


@dataclass(frozen=True)
class Sample:
    """One slice to be embedded.

    pixels: (H, W) float32 in [0, 1]. facts: what is known of it. source: the input as it was given. prepared:
    it was cut from a volume or drawn by this package; otherwise it is taken as it is, and a Fingerprint says
    whether it looks like the training data.
    """

    pixels: np.ndarray = field(repr=False)
    facts: Facts = field(default_factory=Facts)
    source: str = ""
    subject: str = ""
    prepared: bool = False


def samples(
    inputs: Any,
    geometry: Geometry,
    *,
    contrast: str | None = None,
    every_mm: float = EVERY_MM,
    strip: str = "network",
) -> Iterator[Sample]:
    """The slices of one or several inputs, in order; a volume gives as many as are cut from it.

    inputs: one, or a list of: array (H, W) or (N, H, W) in [0, 1]; Picture; path of a PNG, of a NIfTI slice
    in MNI152, or of a volume, which goes through brain extraction, bias field, registration and window as the
    training data did; a nibabel image of either. contrast: "T1", "T2", "PD" or "FLAIR", needed for a volume
    whose file name does not say it. every_mm: distance of the slices of a volume.
    BrainclipError and its kin for what cannot be used, with the input named.
    """
    if contrast is not None and contrast not in MODALITIES:
        raise BrainclipError(f"contrast {contrast!r}; possible: {', '.join(MODALITIES)}")
    for number, one in enumerate(listed(inputs)):
        if isinstance(one, str | Path):
            yield from _of_file(Path(one), geometry, contrast, every_mm, strip)
        elif hasattr(one, "header") and hasattr(one, "affine"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"image{number}.nii"
                one.to_filename(path)
                for sample in _of_file(path, geometry, contrast, every_mm, strip):
                    yield Sample(sample.pixels, sample.facts, f"image {number}", "", sample.prepared)
        elif isinstance(one, Picture):
            place = round(one.position_mm, 3)
            facts = Facts(one.plane, place, one.facts.modality, level_at(one.plane, place))
            made = as_pixels(one, geometry.size, geometry.spacing_mm)
            yield Sample(made, facts, f"picture {number}", prepared=True)
        else:
            stack = np.asarray(one)
            for pixels in stack if stack.ndim == 3 else (stack,):
                made = as_pixels(pixels, geometry.size, geometry.spacing_mm)
                yield Sample(made, Facts(modality=contrast), f"array {number}")


def listed(inputs: Any) -> Iterable[Any]:
    """The inputs one by one; a single one is a list of one. BrainclipError for what is neither."""
    single = isinstance(inputs, str | Path | Picture) or hasattr(inputs, "affine")
    if single or getattr(inputs, "ndim", 0) == 2:
        return [inputs]
    if not isinstance(inputs, Iterable):
        raise BrainclipError(
            f"{type(inputs).__name__}: possible are files, arrays (H, W) or (N, H, W) in [0, 1], nibabel "
            "images, Pictures, and lists of them"
        )
    return inputs


def is_volume(path: Path) -> bool:
    """Whether a NIfTI file holds more than one slice; VolumeError where it cannot be read."""
    from atlas.volume import load_volume

    shape = load_volume(path, fewest=1).shape
    return min(shape) > 1


def _of_file(
    path: Path, geometry: Geometry, contrast: str | None, every_mm: float, strip: str
) -> Iterator[Sample]:
    """The slices of one file."""
    if path.is_dir():
        raise BrainclipError(f"{path}: a folder; embed it with `brainclip embed {path} --out x.parquet`")
    if not path.is_file():
        raise BrainclipError(f"{path}: no such file")
    if not path.name.lower().endswith(FILES):
        raise BrainclipError(f"{path}: unknown kind of file; slices and volumes are {', '.join(FILES)}")
    if path.name.lower().endswith(NIFTI) and is_volume(path):
        yield from volume_samples([scan_of(path, contrast)], geometry, every_mm=every_mm, strip=strip)
        return
    facts = Facts(modality=contrast)
    if path.name.lower().endswith(NIFTI):
        from atlas.slices import nifti_to_slice
        from atlas.volume import load_volume

        _, plane, place = nifti_to_slice(load_volume(path, fewest=1), geometry)
        facts = Facts(plane, round(place, 3), contrast, level_at(plane, place))
    try:
        yield Sample(as_pixels(path, geometry.size, geometry.spacing_mm), facts, str(path))
    except BrainclipError as error:
        said = str(error)
        raise BrainclipError(said if str(path) in said else f"{path}: {said}") from None


def scan_of(path: Path, contrast: str | None) -> Any:
    """The Scan of a single volume; VolumeError where nothing says its contrast or which side is left."""
    from atlas.sources.names import read_name
    from atlas.sources.scan import NO_ORIENTATION, Scan
    from atlas.volume import has_orientation

    named = read_name(Path(path.name))
    modality = contrast or named.modality
    if not modality:
        raise VolumeError(
            f"{path}: its name does not say the contrast; say one of {', '.join(MODALITIES)} (--contrast)"
        )
    if not has_orientation(path):
        raise VolumeError(f"{path}: {NO_ORIENTATION}")
    return Scan("folder", named.subject or path.name.split(".")[0], named.session, modality, path)


def volume_samples(
    scans: Sequence[Any], geometry: Geometry, *, every_mm: float = EVERY_MM, strip: str = "network"
) -> list[Sample]:
    """The slices of the scans of one visit, all or the first reason why not."""
    made, refused = visit_samples(scans, geometry, every_mm=every_mm, strip=strip)
    if refused:
        scan, error = refused[0]
        said = str(error)
        raise VolumeError(said if scan.path.name in said else f"{scan.path}: {said}")
    return made


def visit_samples(
    scans: Sequence[Any], geometry: Geometry, *, every_mm: float = EVERY_MM, strip: str = "network"
) -> tuple[list[Sample], list[tuple[Any, BrainclipError]]]:
    """The slices of the scans of one visit that can be used, and the other scans with the reason."""
    from atlas.prepare import Settings
    from atlas.visit import prepare_visit, slices_of

    settings = Settings(geometry, every_mm=every_mm, seed=1, nonlinear=False, strip=strip)
    prepared, refused = prepare_visit(scans, settings)
    made = []
    for one in prepared:
        for plane, place, pixels in slices_of(one.image, geometry, every_mm):
            facts = Facts(
                plane,
                round(place, 3),
                one.scan.modality,
                level_at(plane, place),
                known=dict(one.scan.known),
                source=one.scan.source,
            )
            # in 8 bits, as the pictures of a folder of pairs
            grey = (np.round(pixels * 255) / 255).astype(np.float32)
            made.append(Sample(grey, facts, str(one.scan.path), one.scan.subject, True))
    return made, refused
