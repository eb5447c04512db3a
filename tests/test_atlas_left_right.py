"""The subject's left through the whole chain, from each data set's files to PNG, caption and NIfTI.

One person, made from the template, whose left putamen shines four times as bright as anything else, lies in
the layout, the format and the orientation of each source; `write_pairs` builds the pairs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import test_atlas_sources_layouts as layouts
from nibabel import Nifti1Image
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, ornt_transform
from PIL import Image

from atlas.atlas import load_atlas
from atlas.pairs import write_pairs
from atlas.records import Pair, read_pairs
from atlas.slices import Geometry, cut, working_grid
from atlas.volume import resample
from brainclip.picture import Picture

GEOMETRY = Geometry(size=64, spacing_mm=3.0)
MIDDLE = GEOMETRY.size // 2  # the column where x = 0; the subject's left has lower ones
MARKED = "left putamen"
SHINING = 250  # of 255; no tissue of the template is as bright
SOURCES = ("ixi", "bids", "simulated", "oasis1", "oasis1 raw", "oasis2", "oasis3", "hcp", "folder")


@lru_cache(maxsize=1)
def person() -> tuple[Nifti1Image, Nifti1Image]:
    """A stripped head with the marker, and its labels: RAS, three voxel sizes, not where the template is."""
    atlas = load_atlas()
    turn = np.diag([1.04, 1.0, 0.97, 1.0])
    turn[:3, 3] = (3, -4, 5)
    affine, grid = np.diag([3.0, 2.5, 2.8, 1.0]), (56, 80, 66)
    affine[:3, 3] = (-84, -122, -88)
    own = [
        np.asanyarray(
            resample(Nifti1Image(image.dataobj, turn @ image.affine), affine, grid, order=order).dataobj
        )
        for image, order in ((atlas.template, 1), (atlas.labels, 0))
    ]
    head = 1000 * own[0] / own[0].max()
    (marked,) = (region.id for region in atlas.regions if (region.side, region.name) == ("left", "putamen"))
    head[own[1] == marked] = 4000
    return Nifti1Image(head.astype(np.int16), affine), Nifti1Image(own[1].astype(np.int32), affine)


def turned(image: Nifti1Image, orientation: str) -> Nifti1Image:
    """The image in the order in which a file with these axes holds it."""
    return image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation)))


def put(path: Path, orientation: str = "RAS", *, code: int = 1) -> Path:
    """The person, or the labels where the name asks for them, as a NIfTI file or pair."""
    image = turned(person()["_dseg" in path.name], orientation)
    pair = path.name.endswith(".img")
    image = (nib.Nifti1Pair if pair else Nifti1Image)(np.asanyarray(image.dataobj), image.affine)
    image.set_sform(image.affine, code=code)
    image.set_qform(image.affine, code=code)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def put_analyze(path: Path, orientation: str) -> Path:
    """The person as 16-bit big-endian Analyze, which says nothing of its orientation."""
    image = turned(person()[0], orientation)
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    path.parent.mkdir(parents=True, exist_ok=True)
    bare = nib.AnalyzeImage(np.asanyarray(image.dataobj), None, header)
    bare.header.set_zooms(image.header.get_zooms())
    nib.save(bare, path)
    return path


def check_regions(pair: Pair, labels: Nifti1Image) -> None:
    """In an axial or coronal slice every region that the facts call left, or right, lies on that side."""
    atlas, facts = load_atlas(), pair.facts
    assert facts.plane is not None and facts.position_mm is not None
    shown = cut(labels, labels, facts.plane, facts.position_mm, GEOMETRY).labels
    seen = set()
    for region in atlas.regions:
        columns = np.nonzero(shown == region.id)[1]
        if region.side and len(columns) >= 5 and f"{region.side} {region.name}" in facts.regions:
            assert (columns.mean() < MIDDLE) == (region.side == "left"), (pair.file_name, region)
            seen.add(region.side)
    assert seen == {"left", "right"}


def check_nifti(pair: Pair, pixels: np.ndarray, path: Path) -> None:
    """The slice as a NIfTI file has its marker at negative x, and in the atlas's left putamen."""
    facts, atlas = pair.facts, load_atlas()
    picture = Picture(
        pixels=pixels.astype(np.float32) / 255,
        prompt=pair.text,
        seed=0,
        plane=str(facts.plane),
        position_mm=float(facts.position_mm or 0.0),
        position_asked=True,
        spacing_mm=GEOMETRY.spacing_mm,
        model="none",
        facts=facts,
    )
    image = nib.load(picture.save(path))
    places = apply_affine(image.affine, np.argwhere(image.get_fdata() * 255 >= SHINING - 0.5))
    assert len(places) == np.count_nonzero(pixels >= SHINING)
    assert (places[:, 0] < 0).all()
    index = np.round(apply_affine(np.linalg.inv(atlas.labels.affine), places)).astype(int)
    names = {region.id: f"{region.side} {region.name}" for region in atlas.regions}
    found = [names.get(int(id_)) for id_ in np.asanyarray(atlas.labels.dataobj)[tuple(index.T)]]
    assert found.count(MARKED) > 0.5 * len(found)


@pytest.mark.parametrize("source", SOURCES)
def test_left_stays_left_from_the_files_of_every_source_to_png_caption_and_nifti(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "put", put)
    monkeypatch.setattr(layouts, "put_analyze", put_analyze)
    folder = layouts.one_of_each(source, tmp_path / "data")
    write_pairs(
        source.split()[0],
        folder,
        tmp_path / "pairs",
        geometry=GEOMETRY,
        every_mm=6,
        splits=(1.0, 0.0, 0.0),
        workers=1,
        limit=1,
        nonlinear=False,
    )
    labels = resample(load_atlas().labels, *working_grid(GEOMETRY), order=0)
    planes, said = set(), ""
    for pair in read_pairs(tmp_path / "pairs"):
        facts = pair.facts
        pixels = np.asarray(Image.open(tmp_path / "pairs" / pair.file_name))
        shining = np.argwhere(pixels >= SHINING)
        if facts.plane == "sagittal":
            assert len(shining) == 0 or (facts.position_mm or 0) < 0
        else:
            assert (shining[:, 1] < MIDDLE).all()
        if len(shining) < 25:  # the marker's edge may lie a voxel beside the label's
            continue
        planes.add(facts.plane)
        assert MARKED in facts.regions
        check_nifti(pair, pixels, tmp_path / "slice.nii.gz")
        if facts.plane == "sagittal":
            assert str(facts.level).startswith("left")
            text = " ".join(pair.captions).lower().replace("right-handed", "")
            assert "right" not in text, pair.captions
            said += text
        else:
            check_regions(pair, labels)
    assert planes == {"axial", "coronal", "sagittal"}
    assert "left" in said
