"""One subject, from scans to slices on disk: brain, N4, registration, window, slices, facts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from nibabel import Nifti1Image
from PIL import Image

from atlas.atlas import Atlas, load_atlas
from atlas.errors import BrainclipError, FitError, VolumeError, WeightsError
from atlas.facts import Facts, describe, with_side
from atlas.overlay import overlay
from atlas.register import OVERLAP_FLOOR, SIMILARITY_FLOOR
from atlas.slices import AXIS, PLANES, Geometry, cut, window, working_grid
from atlas.sources import Scan, load_mask
from atlas.strip import LARGEST_ML, brain_mask
from atlas.volume import load_labels, load_volume, resample, same_grid, voxel_sizes

if TYPE_CHECKING:
    from atlas.register import Registration

OF_VISIT = ("volumes", "percentiles", "sizes")  # facts that are the same for all slices of a visit
LEAST_BRAIN_MM2 = 400.0  # a slice with less brain than this is not written


@dataclass(frozen=True)
class Settings:
    """What decides the slices of a subject, apart from its scans."""

    geometry: Geometry
    every_mm: float
    seed: int
    nonlinear: bool = True
    atlas: str = "desikan-killiany"
    strip: str = "network"  # brain extraction of whole heads that come without a mask
    denoise: bool = False
    least_similarity: float = SIMILARITY_FLOOR  # a visit that fits the template less is set aside
    least_overlap: float = OVERLAP_FLOOR


@dataclass(frozen=True)
class Visit:
    """What came of the scans of one visit: volumes of regions (native mm3), slices with facts, how well the
    reference scan fits the template (None: none was registered), and a picture of its labels.

    masks: modality -> where its brain mask is from, as read_brain says. similarity, overlap: as in
    Registration, also of a visit that was set aside for them, which has no slices.
    """

    volumes: dict[str, float]
    masks: dict[str, str]
    slices: list[tuple[np.ndarray, Facts]]
    similarity: float | None = None
    overlap: float | None = None
    picture: Image.Image | None = None


def prepare_subject(scans: Sequence[Scan], split: str, out: Path, settings: Settings) -> dict[str, int]:
    """Counts of slices and rejects of one subject, written to disk: pictures, then subjects/<subject>.jsonl.

    The first line of that file holds the subject's volumes and what was rejected, each further line a slice.
    It comes by rename, so a subject with that file is done. Volumes that cannot be used are listed with the
    reason, never raised. Each visit's overlay is written before it.
    """
    subject = scans[0].subject
    images, partial = out / split / subject, out / ".partial" / f"{subject}.{os.getpid()}"
    partial.mkdir(parents=True)
    rejected: list[dict[str, str]] = []
    records: list[dict[str, Any]] = []
    sessions: dict[str, dict[str, Any]] = {}
    digest = hashlib.sha256()
    for session in sorted({scan.session or "" for scan in scans}):
        visit = [scan for scan in scans if (scan.session or "") == session]
        made = _prepare_session(visit, settings, rejected)
        sessions[session] = {
            "volumes": made.volumes,
            "masks": made.masks,
            "similarity": made.similarity,
            "overlap": made.overlap,
        }
        _save_overlay(overlay_path(out, subject, session), made.picture)
        for pixels, facts in made.slices:
            name = f"{facts.modality}_{facts.plane}_{facts.position_mm:+06.1f}.png"
            name = f"{session}_{name}" if session else name
            Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(partial / name, format="PNG")
            digest.update((partial / name).read_bytes())
            record = {key: value for key, value in facts.to_dict().items() if key not in OF_VISIT}
            records.append({"file_name": f"{split}/{subject}/{name}", "session": session, "facts": record})
    header = {
        "subject": subject,
        "split": split,
        "sessions": sessions,
        "rejected": rejected,
        "slices": len(records),
        "images_sha256": digest.hexdigest(),
    }
    shutil.rmtree(images, ignore_errors=True)  # left by a run that was stopped
    if records:
        images.parent.mkdir(exist_ok=True)
        partial.rename(images)
    else:
        partial.rmdir()
    lines = "".join(json.dumps(line) + "\n" for line in (header, *records))
    write_whole(out / "subjects" / f"{subject}.jsonl", lines)
    return {"slices": len(records), "rejected": len(rejected)}


def overlay_path(out: Path, subject: str, session: str) -> Path:
    """Where the picture of a visit's labels lies in a folder of pairs."""
    return out / "overlays" / (f"{subject}_{session}.webp" if session else f"{subject}.webp")


def _save_overlay(path: Path, picture: Image.Image | None) -> None:
    """Write the picture; without one, remove that of an earlier run."""
    path.unlink(missing_ok=True)
    if picture is not None:
        path.parent.mkdir(exist_ok=True)
        picture.save(path, format="WEBP", quality=75)


@contextmanager
def writing_whole(path: Path) -> Iterator[IO[str]]:
    """A text file open for writing under a temporary name, renamed at the end: it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that it is whole or absent."""
    with writing_whole(path) as file:
        file.write(text)


def _prepare_session(scans: Sequence[Scan], settings: Settings, rejected: list[dict[str, str]]) -> Visit:
    """The volumes and slices of one visit; T1, or else the first scan, is the reference: it is registered.

    A reference that does not fit the template sets the whole visit aside: every scan is listed as rejected.
    """
    from atlas.register import denoise, n4, register, to_atlas

    atlas, geometry = load_atlas(settings.atlas), settings.geometry
    affine, shape = working_grid(geometry)
    slices: list[tuple[np.ndarray, Facts]] = []
    volumes: dict[str, float] = {}
    masks: dict[str, str] = {}
    reference: Nifti1Image | None = None
    registration: Registration | None = None
    labels: Nifti1Image | None = None
    picture: Image.Image | None = None
    seen: set[str] = set()
    ordered = sorted(scans, key=lambda scan: (scan.modality != "T1", scan.modality, str(scan.path)))
    for number, scan in enumerate(ordered):
        try:
            if scan.modality in seen:
                raise VolumeError(
                    f"{scan.path}: a second {scan.modality} of the same visit; the first one is used"
                )
            brain, mask, origin = read_brain(scan, settings.strip)
            brain = n4(denoise(brain, mask) if settings.denoise else brain, mask)
            if reference is None or registration is None or labels is None:
                registration = register(
                    brain,
                    atlas,
                    nonlinear=settings.nonlinear and scan.labels is None,
                    seed=settings.seed or 1,
                    least_similarity=settings.least_similarity,
                    least_overlap=settings.least_overlap,
                )
                reference = brain
                labels, volumes = labels_and_volumes(scan, registration, atlas, affine, shape)
                own = registration
            else:
                own = (
                    registration
                    if same_grid(brain, reference)
                    else _to_reference(brain, reference, registration)
                )
            volume = np.asanyarray(to_atlas(brain, own, affine, shape, order=1).dataobj)
            inside = np.asanyarray(to_atlas(mask, own, affine, shape, order=0).dataobj) > 0
            shown = Nifti1Image(window(volume, inside, scan.modality), affine)
        except WeightsError:
            raise  # not this scan's fault: every further one would be rejected, too
        except FitError as error:  # of the reference, so there are no slices yet
            rejected.append(_rejection(scan, str(error)))
            reason = f"set aside with {scan.path.name} of the same visit: {error}"
            rejected += [_rejection(other, reason) for other in ordered[number + 1 :]]
            return Visit({}, {}, [], round(error.similarity, 4), round(error.overlap, 4))
        except BrainclipError as error:
            rejected.append(_rejection(scan, str(error)))
            continue
        seen.add(scan.modality)
        masks[scan.modality] = origin
        picture = picture or overlay(shown, labels, atlas, geometry)
        for plane, position_mm in _positions(scan, affine, shape, settings):
            slice_ = cut(shown, labels, plane, position_mm, geometry)
            if np.count_nonzero(slice_.pixels) * geometry.spacing_mm**2 < LEAST_BRAIN_MM2:
                continue
            facts = describe(
                slice_,
                atlas,
                modality=scan.modality,
                known=scan.known,
                volumes=volumes,
                spacing_mm=geometry.spacing_mm,
                source=scan.source,
            )
            slices.append((slice_.pixels, facts))
    if registration is None:
        return Visit({}, {}, [])
    fit = round(registration.similarity, 4), round(registration.overlap, 4)
    return Visit(volumes, masks, slices, *fit, picture)


def _rejection(scan: Scan, reason: str) -> dict[str, str]:
    """A line of rejected.jsonl."""
    return {
        "subject": scan.subject,
        "session": scan.session or "",
        "path": scan.path.name,
        "reason": reason,
    }


def read_brain(scan: Scan, strip: str) -> tuple[Nifti1Image, Nifti1Image, str]:
    """A scan's volume, zero outside the brain, the brain mask on its grid, and where the mask is from.

    "given": the image beside the scan. "above 0": of a volume that is stripped already. Else the brain
    extraction `strip`, for a whole head.
    """
    volume = load_volume(scan.path, orientation=scan.orientation)
    values = np.asanyarray(volume.dataobj)
    if scan.mask is not None:
        given = load_mask(scan, volume)
        inside = np.asanyarray(resample(given, volume.affine, volume.shape, order=0).dataobj) > 0
        origin = "given"
    else:
        inside, origin = values > 0, "above 0"
        if inside.sum() * np.prod(voxel_sizes(volume)) / 1000 > LARGEST_ML:  # a whole head
            try:
                inside, origin = np.asanyarray(brain_mask(volume, method=strip).dataobj) > 0, strip
            except VolumeError as error:
                raise VolumeError(f"{scan.path.name}: {error}") from error
    millilitres = float(inside.sum() * np.prod(voxel_sizes(volume)) / 1000)
    if not 300 <= millilitres <= LARGEST_ML:
        raise VolumeError(
            f"{scan.path.name}: {millilitres:.0f} ml lie inside the brain mask, a brain has 300 to "
            f"{LARGEST_ML:.0f}; give brain masks for volumes that are not stripped"
        )
    brain = Nifti1Image(np.where(inside, values, 0).astype(np.float32), volume.affine)
    return brain, Nifti1Image(inside.astype(np.int32), volume.affine), origin


def labels_and_volumes(
    scan: Scan, registration: Registration, atlas: Atlas, affine: np.ndarray, shape: tuple[int, ...]
) -> tuple[Nifti1Image, dict[str, float]]:
    """Region labels on the working grid, and each region's native mm3, from true labels or from the atlas."""
    from atlas.register import atlas_labels, to_atlas

    if scan.labels is not None:
        own = load_labels(scan.labels)
        labels = to_atlas(own, registration, affine, shape, order=0)
        counted, voxel_mm3 = np.asanyarray(own.dataobj), float(np.prod(voxel_sizes(own)))
    else:
        labels = atlas_labels(registration, atlas, affine, shape)
        counted = np.asanyarray(labels.dataobj)
        # the affine takes native to atlas millimetres; its determinant is atlas mm3 per native mm3
        voxel_mm3 = float(
            abs(np.linalg.det(affine[:3, :3])) / abs(np.linalg.det(registration.matrix[:3, :3]))
        )
    voxel_mm3 /= scan.scale
    counts = np.bincount(counted.ravel().astype(np.int64))
    volumes: dict[str, float] = {}
    for region in atlas.regions:
        if region.id < len(counts) and counts[region.id]:
            name = with_side(region.name, region.side)
            volumes[name] = volumes.get(name, 0.0) + float(counts[region.id]) * voxel_mm3
    volumes["brain"] = float(counts[1:].sum()) * voxel_mm3
    return labels, {name: round(mm3, 1) for name, mm3 in sorted(volumes.items())}


def _to_reference(brain: Nifti1Image, reference: Nifti1Image, registration: Registration) -> Registration:
    """The registration of another contrast of the same visit: rigidly to the reference, then its affine."""
    from atlas.register import align

    return replace(registration, matrix=registration.matrix @ align(brain, reference))


def _positions(
    scan: Scan, affine: np.ndarray, shape: tuple[int, ...], settings: Settings
) -> list[tuple[str, float]]:
    """(plane, MNI mm) of every slice to cut: grid planes every_mm apart, from a start of this scan's own."""
    step = max(1, round(settings.every_mm / settings.geometry.spacing_mm))
    chosen = []
    for plane in PLANES:
        axis = AXIS[plane]
        name = f"{settings.seed}/{scan.subject}/{scan.session}/{scan.modality}/{plane}"
        start = zlib.crc32(name.encode()) % step  # so that all positions occur in the cohort
        chosen += [
            (plane, float(affine[axis, axis] * index + affine[axis, 3]))
            for index in range(start, shape[axis], step)
        ]
    return chosen
