"""Brain extraction: which voxels of a whole head lie inside the skull, by the bundled network or a tool.

"Brain" is all that lies inside the skull: brain, ventricles and the fluid around it, down to the foramen
magnum, as DLMUSE marks it (SynthStrip and HD-BET keep less of the outer fluid).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image
from nibabel.spaces import vox2out_vox

from atlas.errors import VolumeError
from atlas.masks import largest
from atlas.volume import load_labels, resample, save_volume, voxel_sizes

METHODS = ("network", "mri_synthstrip", "hd-bet")
WEIGHTS = Path(__file__).parent / "weights" / "strip.safetensors"
SMALLEST_ML, LARGEST_ML = 600.0, 2500.0  # of one brain with its fluid, children and giants included
GRID_MM = 2.0  # the network's voxels
# voxels at which the network is neither 90 % sure of brain nor of none, for one of brain: 0.06 to 0.15 in
# heads of IXI, PD, FLAIR, with lesions, of 5 mm slices and with noise added; 0.4 and more in noise alone
MOST_UNSURE = 0.3
RAS = np.array([[0, 1], [1, 1], [2, 1]])


def brain_mask(volume: Nifti1Image, *, method: str = "network", weights: Path = WEIGHTS) -> Nifti1Image:
    """1 inside the skull, else 0 (uint8), on the volume's own grid: one piece without holes.

    volume: 3-D, a whole head or a stripped brain, any contrast, orientation and voxel size. method: one of
    METHODS; the tools run as their own programs, on the CPU. Raises VolumeError when the tool is missing or
    fails, when the network is not sure, or when what was found is not of a brain's size; WeightsError when
    the weights are missing.
    """
    check_method(method)
    if volume.ndim != 3:
        raise VolumeError(f"a volume of shape {volume.shape}: brain extraction takes 3-D; give one frame")
    upright = nib.as_closest_canonical(volume)
    inside = _by_network(upright, weights) if method == "network" else _by_tool(upright, method)
    if inside.any():
        inside = filled(largest(inside))
    millilitres = float(inside.sum() * np.prod(voxel_sizes(upright)) / 1000)
    if not SMALLEST_ML <= millilitres <= LARGEST_ML:
        raise VolumeError(
            f"{method} finds {millilitres:.0f} ml of brain, not {SMALLEST_ML:.0f} to {LARGEST_ML:.0f}; "
            "check that this is a whole head rightly oriented, or give a mask"
        )
    back = nib.orientations.ornt_transform(RAS, nib.io_orientation(volume.affine))
    return Nifti1Image(nib.apply_orientation(inside.astype(np.uint8), back), volume.affine)


def check_method(method: str) -> None:
    """Raises VolumeError for an unknown method, or a tool that is not installed."""
    if method not in METHODS:
        raise VolumeError(f"unknown brain extraction {method!r}; possible: {', '.join(METHODS)}")
    if method != "network" and shutil.which(method) is None:
        raise VolumeError(
            f"{method} is not installed: no such program on PATH; install it or use the bundled network"
        )


def filled(mask: np.ndarray) -> np.ndarray:
    """The mask with every cavity filled that does not reach the border of the box."""
    return ~largest(~np.pad(mask, 1))[1:-1, 1:-1, 1:-1]


def at_grid(volume: Nifti1Image, *, order: int = 1) -> Nifti1Image:
    """The volume on the network's grid: RAS+ along the world's axes at 2 mm, covering the whole of it.

    order 1 smooths first, so that fine voxels do not alias; order 0 is for masks and labels.
    """
    from scipy import ndimage

    volume = nib.as_closest_canonical(volume)
    shape, affine = vox2out_vox((volume.shape, volume.affine), voxel_sizes=(GRID_MM,) * 3)
    if order > 0:
        ratio = GRID_MM / voxel_sizes(volume)
        sigma = 0.35 * np.sqrt(np.maximum(ratio**2 - 1, 0))  # thick slices stay as they are
        smooth = ndimage.gaussian_filter(np.asanyarray(volume.dataobj, dtype=np.float32), sigma)
        volume = Nifti1Image(smooth, volume.affine)
    return resample(volume, affine, shape, order=order)


def _by_network(upright: Nifti1Image, weights: Path) -> np.ndarray:
    """The network's answer at 2 mm, brought to the volume's grid as a probability and cut at one half."""
    from atlas.strip_network import load_network, probability  # torch and monai, 6 s

    coarse = at_grid(upright)
    found = probability(np.asanyarray(coarse.dataobj), load_network(weights))
    unsure, brain = int(((found > 0.1) & (found < 0.9)).sum()), int((found > 0.5).sum())
    if brain and unsure > MOST_UNSURE * brain:
        raise VolumeError(
            f"no clear brain: the network is not sure of {unsure / brain:.2g} voxels for each that it finds, "
            f"{MOST_UNSURE:g} at most in a head; check that it is one, rightly oriented, or give a mask"
        )
    own = resample(Nifti1Image(found, coarse.affine), upright.affine, upright.shape)
    return np.asanyarray(own.dataobj) > 0.5


def _by_tool(upright: Nifti1Image, method: str) -> np.ndarray:
    """The mask that an installed program writes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head, mask = folder / "head.nii.gz", folder / "brain_bet.nii.gz"
        save_volume(Nifti1Image(np.asanyarray(upright.dataobj, dtype=np.float32), upright.affine), head)
        if method == "mri_synthstrip":
            command = [method, "-i", str(head), "-m", str(mask)]
        else:  # options of hd-bet 2, which adds _bet to the name of the output
            command = [method, "-i", str(head), "-o", str(folder / "brain.nii.gz"), "-device", "cpu"]
            command += ["--disable_tta", "--save_bet_mask", "--no_bet_image"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not mask.is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise VolumeError(
                f"{method} wrote no mask (exit code {done.returncode}, last words: {said}); "
                "run it by hand to see why, or use the bundled network"
            )
        found = resample(load_labels(mask), upright.affine, upright.shape, order=0)
        return np.asanyarray(found.dataobj) > 0
