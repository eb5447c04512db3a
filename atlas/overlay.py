"""A small picture of one registered volume with the outlines of its regions, to judge the registration by."""

from __future__ import annotations

import numpy as np
from nibabel import Nifti1Image
from PIL import Image

from atlas.atlas import Atlas
from atlas.slices import AXIS, CENTRE_MM, PLANES, Geometry, cut

VIEW = 128  # pixels along a side of each of three views, whatever the slices' size: 10 KB as WebP
COLOURS = {  # a region's parent in the table -> colour of its outline
    "white matter": (255, 214, 10),
    "ventricles": (0, 200, 255),
    "diencephalon": (80, 230, 80),
    "basal ganglia": (255, 90, 200),
    "medial temporal lobe": (255, 140, 0),
    "cerebellum": (90, 140, 255),
    "brainstem": (170, 110, 255),
}
EDGE = (255, 60, 60)  # where the regions end; borders between regions of other parents are not drawn


def overlay(volume: Nifti1Image, labels: Nifti1Image, atlas: Atlas, geometry: Geometry) -> Image.Image:
    """RGB picture, 3 VIEW x VIEW: the axial, coronal and sagittal slice through the middle of the grid.

    volume: grey values [0, 1]; labels: region ids; both on working_grid(geometry). The subject's left is at
    image left in the first two.
    """
    numbers = {parent: number for number, parent in enumerate(COLOURS, start=2)}
    colours = np.array([(0, 0, 0), EDGE, *COLOURS.values()], dtype=np.uint8)
    kind_of = np.zeros(max(region.id for region in atlas.regions) + 1, dtype=np.int32)
    for region in atlas.regions:
        kind_of[region.id] = numbers.get(region.parent, 1)
    views = []
    for plane in PLANES:
        slice_ = cut(volume, labels, plane, CENTRE_MM[AXIS[plane]], geometry)
        grey = Image.fromarray(np.round(slice_.pixels * 255).astype(np.uint8))
        kinds = Image.fromarray(kind_of[np.where(slice_.labels < len(kind_of), slice_.labels, 0)])
        shown = np.asarray(grey.resize((VIEW, VIEW), Image.Resampling.BILINEAR))
        view = np.stack([shown] * 3, axis=-1)
        drawn = outline(np.asarray(kinds.resize((VIEW, VIEW), Image.Resampling.NEAREST)))
        view[drawn > 0] = colours[drawn[drawn > 0]]
        views.append(view)
    return Image.fromarray(np.concatenate(views, axis=1))


def outline(kinds: np.ndarray) -> np.ndarray:
    """(H, W): a kind of 2 or more where it borders on another, 1 where any kind borders on 0, else 0.

    Borders count to the left, to the right, above and below.
    """
    padded = np.pad(kinds, 1)
    around = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    drawn = np.where((kinds > 1) & (around != kinds).any(0), kinds, 0)
    return np.where((kinds > 0) & (around == 0).any(0), 1, drawn)
