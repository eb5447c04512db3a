"""One subject, from scans to slices on disk: brain, N4, registration, window, slices, facts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import Nifti1Image
from PIL import Image

from atlas.atlas import load_atlas
from atlas.brain import labels_and_volumes, read_brain
from atlas.changes import made_from
from atlas.errors import BrainclipError, FitError, RegistrationError, VolumeError, WeightsError
from atlas.facts import Facts, describe
from atlas.files import overlay_path, subject_path, write_whole
from atlas.overlay import overlay
from atlas.register import OVERLAP_FLOOR, SIMILARITY_FLOOR, Registration
from atlas.slices import AXIS, PLANES, Geometry, cut, window, working_grid
from atlas.sources import Scan

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

    masks: modality -> where its brain mask is from, as read_brain says. similarity, overlap and
    warped_similarity: as in Registration, the first two also of a visit that was set aside. Such a visit has
    no slices, and its picture shows the atlas's own labels.
    """

    volumes: dict[str, float]
    masks: dict[str, str]
    slices: list[tuple[np.ndarray, Facts]]
    similarity: float | None = None
    overlap: float | None = None
    warped_similarity: float | None = None
    picture: Image.Image | None = None


def prepare_subject(scans: Sequence[Scan], split: str, out: Path, settings: Settings) -> dict[str, int]:
    """Counts of slices and rejects of one subject, written to disk: pictures, then subjects/<subject>.jsonl.

    The first line of that file holds what the subject was made from, its volumes and what was rejected, each
    further line a slice. It comes by rename, so a subject with that file is done; that of an earlier run is
    removed first. Volumes that cannot be used are listed with the reason, never raised. Each visit's overlay
    is written before it.
    """
    subject, found = scans[0].subject, made_from(scans)
    _forget(out, subject)
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
            "warped_similarity": made.warped_similarity,
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
        "made_from": found,
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
    write_whole(subject_path(out, subject), lines)
    return {"slices": len(records), "rejected": len(rejected)}


def _forget(out: Path, subject: str) -> None:
    """Remove a subject's file and overlays: from here on it is not done, and visits may have gone."""
    path = subject_path(out, subject)
    if path.exists():
        with path.open(encoding="utf-8") as file, suppress(ValueError):  # a damaged file tells of no visits
            for session in json.loads(file.readline())["sessions"]:
                overlay_path(out, subject, session).unlink(missing_ok=True)
        path.unlink()


def _save_overlay(path: Path, picture: Image.Image | None) -> None:
    """Write the picture; without one, remove that of an earlier run."""
    path.unlink(missing_ok=True)
    if picture is not None:
        path.parent.mkdir(exist_ok=True)
        picture.save(path, format="WEBP", quality=75)


def _prepare_session(scans: Sequence[Scan], settings: Settings, rejected: list[dict[str, str]]) -> Visit:
    """The volumes and slices of one visit; T1, or else the first scan, is the reference: it is registered.

    A reference that does not fit the template sets the whole visit aside: every scan is listed as rejected.
    """
    from atlas.register import denoise, n4, register

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
    ordered = in_order(scans)
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
                labels, volumes = labels_and_volumes(scan, brain, registration, atlas, affine, shape)
                own = registration
            else:
                own = to_reference(scan, brain, reference, registration, settings)
            shown = shown_on_grid(brain, mask, own, scan.modality, geometry)
        except WeightsError:
            raise  # not this scan's fault: every further one would be rejected, too
        except FitError as error:  # of the reference, so there are no slices yet
            rejected.append(_rejection(scan, str(error)))
            reason = f"set aside with {scan.path.name} of the same visit: {error}"
            rejected += [_rejection(other, reason) for other in ordered[number + 1 :]]
            aside = Registration(error.matrix, None, error.similarity, error.overlap)
            picture = _picture_aside(brain, mask, aside, scan.modality, settings)
            fit = round(error.similarity, 4), round(error.overlap, 4)
            return Visit({}, {}, [], *fit, picture=picture)
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
    warped = registration.warped_similarity
    return Visit(volumes, masks, slices, *fit, None if warped is None else round(warped, 4), picture)


def in_order(scans: Sequence[Scan]) -> list[Scan]:
    """The scans of a visit, T1 first: the first that can be used is registered, others aligned with it."""
    return sorted(scans, key=lambda scan: (scan.modality != "T1", scan.modality, str(scan.path)))


def shown_on_grid(
    brain: Nifti1Image, mask: Nifti1Image, registration: Registration, modality: str, geometry: Geometry
) -> Nifti1Image:
    """The brain on the working grid by the affine part of its registration, grey values in [0, 1]."""
    from atlas.register import to_atlas

    affine, shape = working_grid(geometry)
    volume = np.asanyarray(to_atlas(brain, registration, affine, shape, order=1).dataobj)
    inside = np.asanyarray(to_atlas(mask, registration, affine, shape, order=0).dataobj) > 0
    return Nifti1Image(window(volume, inside, modality), affine)


def _picture_aside(
    brain: Nifti1Image, mask: Nifti1Image, registration: Registration, modality: str, settings: Settings
) -> Image.Image | None:
    """The overlay of a visit that is set aside, by its affine part; None where it lies off the grid."""
    from atlas.register import atlas_labels

    atlas, geometry = load_atlas(settings.atlas), settings.geometry
    try:
        shown = shown_on_grid(brain, mask, registration, modality, geometry)
    except VolumeError:  # so far from the template that the grid is empty
        return None
    return overlay(shown, atlas_labels(registration, atlas, *working_grid(geometry)), atlas, geometry)


def _rejection(scan: Scan, reason: str) -> dict[str, str]:
    """A line of rejected.jsonl."""
    return {
        "subject": scan.subject,
        "session": scan.session or "",
        "path": scan.path.name,
        "reason": reason,
    }


def to_reference(
    scan: Scan, brain: Nifti1Image, reference: Nifti1Image, registration: Registration, settings: Settings
) -> Registration:
    """The registration of another contrast of the same visit: rigidly to the reference, then its affine.

    One with true labels lies on the reference already. Any other is aligned, even on the same grid, for
    people move between scans. Raises RegistrationError when it then fits the template less than the floor.
    """
    from atlas.register import align, similarity_at

    if scan.labels is not None:
        return registration
    own = replace(registration, matrix=registration.matrix @ align(brain, reference))
    similar = similarity_at(brain, load_atlas(settings.atlas), own.matrix)
    if similar < settings.least_similarity:
        raise RegistrationError(
            f"{scan.path.name}: aligned with the first contrast of its visit, it does not fit the template: "
            f"similarity {similar:.4f} is below {settings.least_similarity:g}; check that it is a brain "
            "of the same person and that its mask fits"
        )
    return own


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
