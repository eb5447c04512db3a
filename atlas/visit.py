"""The scans of one visit on the working grid, as a folder of pairs has them, but without labels and facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel import Nifti1Image

from atlas.atlas import load_atlas
from atlas.brain import read_brain
from atlas.errors import BrainclipError, WeightsError
from atlas.prepare import LEAST_BRAIN_MM2, Settings, in_order, shown_on_grid, to_reference
from atlas.register import Registration
from atlas.slices import PLANES, Geometry, positions, show
from atlas.sources import Scan


@dataclass(frozen=True)
class Prepared:
    """A scan ready to be cut. image: grey values in [0, 1] on the working grid, 0 outside the brain.

    registration: where the scan lies in MNI152, no warp. mask: the brain on the scan's own grid; mask_from:
    as read_brain says.
    """

    scan: Scan
    image: Nifti1Image
    registration: Registration
    mask: Nifti1Image
    mask_from: str


def prepare_visit(
    scans: Sequence[Scan], settings: Settings
) -> tuple[list[Prepared], list[tuple[Scan, BrainclipError]]]:
    """The scans of one visit that can be used, and the others with the reason.

    T1, or else the first scan, is registered with the template (affine, 2 s a head), the others are aligned
    with it; brain extraction, bias field, registration and window are those of atlas.prepare, so a slice cut
    from here has the pixels it would have in a folder of pairs made with the same settings.
    """
    from atlas.register import denoise, n4, register

    atlas = load_atlas(settings.atlas)
    made: list[Prepared] = []
    refused: list[tuple[Scan, BrainclipError]] = []
    reference: tuple[Nifti1Image, Registration] | None = None
    for scan in in_order(scans):
        try:
            brain, mask, origin = read_brain(scan, settings.strip)
            brain = n4(denoise(brain, mask) if settings.denoise else brain, mask)
            if reference is None:
                own = register(
                    brain,
                    atlas,
                    nonlinear=False,
                    seed=settings.seed or 1,
                    least_similarity=settings.least_similarity,
                    least_overlap=settings.least_overlap,
                )
                reference = brain, own
            else:
                own = to_reference(scan, brain, *reference, settings)
            image = shown_on_grid(brain, mask, own, scan.modality, settings.geometry)
            made.append(Prepared(scan, image, own, mask, origin))
        except WeightsError:
            raise
        except BrainclipError as error:
            refused.append((scan, error))
    return made, refused


def slices_of(
    image: Nifti1Image, geometry: Geometry, every_mm: float
) -> Iterator[tuple[str, float, np.ndarray]]:
    """(plane, position_mm, pixels (H, W)) of an image on the working grid, plane by plane, ascending.

    The slices nearest to the multiples of every_mm in MNI152 that show at least as much brain as those of a
    folder of pairs.
    """
    values = np.asanyarray(image.dataobj)
    for plane in PLANES:
        places = positions(plane, geometry)
        wanted = np.arange(np.ceil(places[0] / every_mm), np.floor(places[-1] / every_mm) + 1) * every_mm
        for index in np.unique(np.abs(places[None] - wanted[:, None]).argmin(1)):
            pixels = show(values, plane, int(index))
            if np.count_nonzero(pixels) * geometry.spacing_mm**2 >= LEAST_BRAIN_MM2:
                yield plane, float(places[index]), pixels
