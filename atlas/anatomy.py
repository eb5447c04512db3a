"""The anatomies that simulated subjects are made from: soft tissue maps, distances and true labels.

Two kinds share one dataclass: the ICBM152 template with its tissue maps (needs no data), and whole-head
label maps of real people with FreeSurfer ids, which have true gyri.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output
from scipy import ndimage

from atlas.atlas import load_atlas, tissue_maps
from atlas.errors import VolumeError
from atlas.masks import bounding_box, closed, largest, near_mask, nearest, shift, signed_distance, softened
from atlas.volume import load_labels

# brain tissues with relaxation times of their own, in the order of Anatomy.tissues
TISSUES = ("csf", "cortex", "white", "grey", "thalamus", "striatum", "pallidum", "brainstem")
IDS: dict[str, tuple[int, ...]] = {
    "csf": (4, 5, 14, 15, 24, 43, 44),
    "cortex": (3, 42),
    "white": (2, 7, 41, 46, 77, 85, 251, 252, 253, 254, 255),
    "grey": (8, 17, 18, 47, 53, 54),
    "thalamus": (10, 49),
    "striatum": (11, 12, 26, 50, 51, 58),
    "pallidum": (13, 52),
    "brainstem": (16, 28, 60),
}
VENTRICLES = (4, 5, 14, 43, 44)
CEREBRAL_WHITE = (2, 41, 77, 251, 252, 253, 254, 255)
CORTEX_REGIONS = tuple(range(1000, 1036)) + tuple(range(2000, 2036))
CEREBELLUM = (7, 8, 46, 47)
HULL_CLOSING_MM = 5.0
HULL_EDGE = 0.35  # leaves a rim of 0.4 mm of fluid outside the cortex, as brain extraction does
MARGIN_VOXELS = 8
MEAN_CORTEX_MM = 3.0  # of the maps made here, whose cortex is thicker than the 2.5 mm of histology
LABEL_MAP_LICENCE = "label maps of real people: as the folder given says"
TEMPLATE_LICENCE = "ICBM152 2009a (McConnell Brain Imaging Centre), Desikan-Killiany labels (FreeSurfer)"


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One head to start from, on its own 1 mm grid; `affine` takes its voxels to MNI152 mm.

    tissues: (len(TISSUES), X, Y, Z) float32, sums to 1 inside the hull. labels: (X, Y, Z) int32,
    Desikan-Killiany ids. white_distance, ventricle_distance: (X, Y, Z) float32 in mm, negative inside.
    hull, cerebellum, sulci: (X, Y, Z) float32 in [0, 1]; the brain is where hull > HULL_EDGE, and sulci are
    the fluid beside cortex that cortex may fill in the young.
    """

    name: str
    licence: str
    affine: np.ndarray
    tissues: np.ndarray
    labels: np.ndarray
    white_distance: np.ndarray
    ventricle_distance: np.ndarray
    hull: np.ndarray
    cerebellum: np.ndarray
    sulci: np.ndarray

    def maps(self) -> np.ndarray:
        """White and ventricle distance, hull, cerebellum and sulci as one array (5, X, Y, Z) float32."""
        maps = [self.white_distance, self.ventricle_distance, self.hull, self.cerebellum, self.sulci]
        return np.stack(maps).astype(np.float32)

    def ventricle_level_mm(self, volume_ml: float) -> float:
        """How far the ventricle wall must move outwards, in mm, for the ventricles to hold `volume_ml`."""
        levels = np.linspace(-3, 9, 49)
        distances = self.ventricle_distance[self.ventricle_distance < levels[-1]]
        voxel_ml = abs(np.linalg.det(self.affine[:3, :3])) / 1000
        volumes = np.searchsorted(np.sort(distances), levels) * voxel_ml
        return float(np.interp(volume_ml, volumes, levels))


def load_anatomy(spacing_mm: float = 1.0, label_map: Path | None = None) -> Anatomy:
    """The template anatomy, or that of a whole-head label map (FreeSurfer ids), smoothed for `spacing_mm`.

    Raises VolumeError when the label map holds no brain in FreeSurfer ids.
    """
    anatomy = template_anatomy() if label_map is None else label_map_anatomy(Path(label_map))
    if spacing_mm <= 1.0:
        return anatomy
    sigma = 0.35 * np.sqrt(spacing_mm**2 - 1)  # else coarse sampling of 1 mm maps aliases
    tissues = np.stack([ndimage.gaussian_filter(tissue, sigma) for tissue in anatomy.tissues])
    return Anatomy(**{**vars(anatomy), "tissues": tissues})


def template_anatomy() -> Anatomy:
    """The ICBM152 template: its tissue maps, sharpened, and the atlas labels made to agree with them."""
    atlas = load_atlas("desikan-killiany")
    # padded, because the template's grid ends within the brainstem
    grey, white = (
        np.pad(np.asarray(image.dataobj, np.float32), MARGIN_VOXELS) for image in tissue_maps()[1:]
    )
    labels = np.pad(np.asanyarray(atlas.labels.dataobj).astype(np.int32), MARGIN_VOXELS)
    box = bounding_box(grey + white > 0.05, MARGIN_VOXELS)
    grey, white, labels = grey[box], white[box], labels[box]
    csf = np.clip(1 - grey - white, 0, 1)
    soft = np.stack([0.8 * csf, grey, white]) ** 1.8  # the average of many brains is blurred: sharpen it
    csf, grey, white = soft / soft.sum(0)
    hull = closed(largest(csf < 0.5), HULL_CLOSING_MM)

    labels = labels_for_tissue(labels, csf=csf, grey=grey, white=white, hull=hull)
    stem = softened(np.isin(labels, IDS["brainstem"]))
    tissues = np.zeros((len(TISSUES), *grey.shape), np.float32)
    tissues[TISSUES.index("brainstem")] = (grey + white) * stem
    tissues[TISSUES.index("white")] = white * (1 - stem)
    left = grey * (1 - stem)  # grey matter not yet given to a structure
    for name in ("pallidum", "striatum", "thalamus", "grey"):
        near = softened(near_mask(labels, IDS[name], 2))
        tissues[TISSUES.index(name)] = left * near
        left = left * (1 - near)
    tissues[TISSUES.index("cortex")] = left
    tissues[0] = csf

    # the average shows no far bank of a sulcus, so distance is counted back from the fluid it does show
    fluid = (csf > 0.3) & ~near_mask(labels, VENTRICLES, 3) | ~hull
    distance = MEAN_CORTEX_MM - signed_distance(fluid)
    affine = atlas.labels.affine @ shift([s.start - MARGIN_VOXELS for s in box])
    return build("icbm152", TEMPLATE_LICENCE, affine, tissues, labels, hull, distance)


def label_map_anatomy(path: Path) -> Anatomy:
    """The anatomy of a whole-head label map with FreeSurfer ids, aligned to the template.

    Raises VolumeError when there is no brain in it.
    """
    image = load_labels(path)
    if not np.allclose(nib.affines.voxel_sizes(image.affine), 1, atol=0.02):
        image = resample_to_output(image, 1.0, order=0)  # distances are counted in voxels of 1 mm
    ids = np.asanyarray(image.dataobj).astype(np.int32)
    tissue_ids = [k for group in IDS.values() for k in group]
    solid_ids = [k for k in tissue_ids if k != 24]
    if not np.isin(ids, IDS["cortex"]).any() or not np.isin(ids, CEREBRAL_WHITE).any():
        raise VolumeError(f"{path}: no FreeSurfer ids of a brain (2, 3, 41, 42, ...); give a label map")
    box = bounding_box(np.isin(ids, solid_ids), MARGIN_VOXELS)
    ids = ids[box]
    affine = image.affine @ shift([s.start for s in box])
    odd = (ids > 0) & (ids < 500) & ~np.isin(ids, tissue_ids)  # vessels, lesions: as their surroundings
    ids = np.where(odd, nearest(ids, tissue_ids), ids)
    brain = largest(np.isin(ids, solid_ids))
    ids = np.where(brain, ids, 0)
    hull = closed(brain, HULL_CLOSING_MM)

    one_hot = [hull & ~brain | np.isin(ids, IDS["csf"])] + [np.isin(ids, IDS[name]) for name in TISSUES[1:]]
    tissues = np.stack([softened(mask) for mask in one_hot])
    tissues[0] += np.clip(1 - tissues.sum(0), 0, 1)
    affine = align(ids, affine) @ affine
    tissues = add_folia(tissues, ids, affine)
    labels = split_cortex(ids, affine)
    distance = signed_distance(np.isin(ids, CEREBRAL_WHITE))
    return build(path.name.split(".")[0], LABEL_MAP_LICENCE, affine, tissues, labels, hull, distance)


def build(
    name: str,
    licence: str,
    affine: np.ndarray,
    tissues: np.ndarray,
    labels: np.ndarray,
    hull: np.ndarray,
    white_distance: np.ndarray,
) -> Anatomy:
    """An Anatomy with the distances that both kinds share."""
    ventricle_distance = signed_distance(np.isin(labels, VENTRICLES))
    cortex = CORTEX_REGIONS + IDS["cortex"]
    beside = near_mask(labels, cortex, 2) & ~np.isin(labels, cortex)
    sulci = beside & (tissues[0] > 0.5) & (ventricle_distance > 3) & hull
    labels = np.where(sulci, nearest(labels, cortex), labels)
    return Anatomy(
        name=name,
        licence=licence,
        affine=affine,
        tissues=tissues.astype(np.float32),
        labels=labels.astype(np.int32),
        white_distance=white_distance,
        ventricle_distance=ventricle_distance,
        hull=ndimage.gaussian_filter(hull.astype(np.float32), 1.0),
        cerebellum=ndimage.gaussian_filter(np.isin(labels, CEREBELLUM).astype(np.float32), 1.5),
        sulci=softened(near_mask(sulci, [True], 1)),
    )


def add_folia(tissues: np.ndarray, ids: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Tissues with cerebellar folia, which label maps lack: fissures fanning out from the core."""
    cortex, core = np.isin(ids, (8, 47)), np.isin(ids, (7, 46))
    if not (cortex.any() and core.any()):
        return tissues
    where = np.nonzero(ndimage.binary_dilation(cortex, iterations=1))
    depth = signed_distance(core)[where]
    x, y, z = nib.affines.apply_affine(affine, np.stack(where, 1)).T
    centre = nib.affines.apply_affine(affine, np.argwhere(core).mean(0)) + np.array([0, 10, 2])
    back, up = y - centre[1] - 0.006 * x**2, z - centre[2]
    noise = np.random.default_rng(0).standard_normal(ids.shape).astype(np.float32)
    wobble = 60 * ndimage.gaussian_filter(noise, 5)[where]  # unit variance or so
    angle, radius = np.arctan2(up, -back), np.hypot(up, back)
    wave = np.cos(46 * angle + 1.5 * wobble)  # about 5 mm from fissure to fissure at the surface
    fade = np.clip((radius - 12) / 12, 0, 1) * (0.7 + 0.3 * np.cos(7 * angle + wobble))
    fissure = 0.55 * fade * np.clip((depth - 1) / 4, 0, 1) / (1 + np.exp(-(wave - 0.65) / 0.12))
    lamina = 0.6 * fade * np.clip((9 - depth) / 5, 0, 1) / (1 + np.exp((wave + 0.65) / 0.12))
    out, grey = tissues.copy(), TISSUES.index("grey")
    out[0][where] += fissure * tissues[grey][where]
    out[TISSUES.index("white")][where] += lamina * tissues[grey][where]
    out[grey][where] *= 1 - fissure - lamina
    return out


def native_ventricles_ml(path: Path) -> float:
    """Volume of the ventricles of a label map, ml, as it lies there."""
    image = load_labels(path)
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    return float(np.isin(np.asanyarray(image.dataobj), VENTRICLES).sum() * voxel_ml)


def align(ids: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The (4, 4) affine from the label map's world to MNI mm: centres of structures, then the extents."""
    centres, middle, covariance = structures(ids, affine)
    targets, target_middle, target_covariance = template_structures()
    common = sorted(set(centres) & set(targets))
    source = np.array([[*centres[k], 1] for k in common])
    target = np.array([targets[k] for k in common])
    solution, *_ = np.linalg.lstsq(source, target, rcond=None)
    fitted = np.eye(4)
    fitted[:3] = solution.T
    variance = np.diag(fitted[:3, :3] @ covariance @ fitted[:3, :3].T)
    extent = np.diag([*np.sqrt(np.diag(target_covariance) / variance), 1])
    extent[:3, 3] = target_middle - (extent @ fitted @ [*middle, 1])[:3]
    return extent @ fitted


def structures(ids: np.ndarray, affine: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Centres in mm of the brain's structures, cortex by side; centre and covariance (3, 3) of all."""
    sides = np.where((ids >= 1000) & (ids < 2000), 3, np.where(ids >= 2000, 42, ids))
    sides[np.isin(sides, (*VENTRICLES, 24))] = 0  # too different between people to align on
    found, counts = np.unique(sides, return_counts=True)
    wanted = [int(k) for k, n in zip(found, counts, strict=True) if 0 < k < 100 and n >= 200]
    centres = ndimage.center_of_mass(np.ones_like(sides), sides, wanted)
    in_mm = {k: nib.affines.apply_affine(affine, c) for k, c in zip(wanted, centres, strict=True)}
    voxels = np.stack(np.nonzero(np.isin(sides, wanted)))
    middle = nib.affines.apply_affine(affine, voxels.mean(1))
    return in_mm, middle, affine[:3, :3] @ np.cov(voxels) @ affine[:3, :3].T


@lru_cache(maxsize=1)
def template_structures() -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """`structures` of the atlas, in MNI mm."""
    return structures(*atlas_regions())


@lru_cache(maxsize=1)
def atlas_regions() -> tuple[np.ndarray, np.ndarray]:
    """The atlas's label array, cut to the brain, and its (4, 4) affine."""
    image = load_atlas("desikan-killiany").labels
    labels = np.asanyarray(image.dataobj)
    box = bounding_box(labels > 0, MARGIN_VOXELS)
    return labels[box], image.affine @ shift([s.start for s in box])


def split_cortex(ids: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Labels with left and right cortex (3, 42) split into the nearest atlas region of the same side."""
    regions, atlas_affine = atlas_regions()
    to_atlas = np.linalg.inv(atlas_affine) @ affine
    labels = ids.copy()
    for cortex, first in ((3, 1000), (42, 2000)):
        side = nearest(regions, tuple(range(first + 1, first + 36)))
        where = np.nonzero(ids == cortex)
        voxels = nib.affines.apply_affine(to_atlas, np.stack(where, 1)).round().astype(int)
        voxels = np.clip(voxels, 0, np.array(regions.shape) - 1)
        labels[where] = side[tuple(voxels.T)]
    return labels


def labels_for_tissue(
    labels: np.ndarray, *, csf: np.ndarray, grey: np.ndarray, white: np.ndarray, hull: np.ndarray
) -> np.ndarray:
    """Atlas labels moved to the nearest voxel of their own tissue, so that truth and picture agree."""
    deep = sum((IDS[name] for name in ("thalamus", "striatum", "pallidum", "brainstem")), ())
    out = labels.copy()
    is_deep = np.isin(labels, deep)
    is_white = (white > np.maximum(csf, grey)) & ~is_deep & hull
    is_grey = (grey >= np.maximum(csf, white)) & ~is_deep & hull
    out[is_white] = nearest(labels, IDS["white"])[is_white]
    out[is_grey] = nearest(labels, CORTEX_REGIONS + IDS["grey"])[is_grey]
    fluid = (csf > np.maximum(grey, white)) & hull
    inside = fluid & near_mask(labels, (*VENTRICLES, 15), 3)
    out[fluid] = 0
    out[inside] = nearest(labels, (*VENTRICLES, 15))[inside]
    out[~hull] = 0
    return out
