"""Radiomics: the texture features of pyradiomics, for whoever compares with studies that use it."""

from __future__ import annotations

import importlib.util

import numpy as np
from torch import Tensor

from brainclip.errors import BrainclipError
from brainclip.evaluate.grey import brain
from brainclip.evaluate.texture import quantised

CLASSES = ("firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")


def check_radiomics() -> None:
    """BrainclipError where pyradiomics is not installed."""
    if importlib.util.find_spec("radiomics") is None:
        raise BrainclipError(
            "[evaluate] radiomics = true needs pyradiomics, which is not installed: "
            "`pip install pyradiomics==3.0.1` (Python 3.11), or set it to false"
        )


def radiomic_texture(images: Tensor) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N, F) features within the brain of slices (N, 1, H, W) in [0, 1], and their F names, class first.

    In the plane alone, on the 32 grey levels of `quantised`, which pyradiomics counts from a slice's darkest
    one; means over directions. 0 for a slice without brain and where a feature is not finite.
    """
    check_radiomics()
    import SimpleITK
    from radiomics import firstorder, glcm, gldm, glrlm, glszm, ngtdm, setVerbosity

    setVerbosity(60)  # no words on what is as usual
    kinds = (
        firstorder.RadiomicsFirstOrder,
        glcm.RadiomicsGLCM,
        glrlm.RadiomicsGLRLM,
        glszm.RadiomicsGLSZM,
        gldm.RadiomicsGLDM,
        ngtdm.RadiomicsNGTDM,
    )
    names = [
        [name for name, old in kind.getFeatureNames().items() if not old]  # deprecated ones are left out
        for kind in kinds
    ]
    rows = []
    for image in images[:, 0].numpy():
        inside, row = brain(image), []
        levels = SimpleITK.GetImageFromArray(quantised(image, inside)[None].astype(np.int32))
        mask = SimpleITK.GetImageFromArray(inside[None].astype(np.uint8))
        for kind, wanted in zip(kinds, names, strict=True):
            if inside.sum() < 2:
                row += [0.0] * len(wanted)
                continue
            found = kind(levels, mask, binWidth=1, force2D=True, force2Ddimension=0, label=1).execute()
            row += [float(found[name]) for name in wanted]
        rows.append(row)
    flat = tuple(f"{kind}_{name}" for kind, part in zip(CLASSES, names, strict=True) for name in part)
    return np.nan_to_num(np.array(rows).reshape(-1, len(flat)), posinf=0.0, neginf=0.0), flat
