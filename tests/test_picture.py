from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from atlas.facts import Facts
from brainclip.errors import BrainclipError
from brainclip.picture import Picture


def picture(plane: str = "axial") -> Picture:
    pixels = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    return Picture(
        pixels=pixels,
        prompt="axial T1 slice, naïve words",
        seed=4,
        plane=plane,
        position_mm=12.0,
        position_asked=True,
        spacing_mm=6.0,
        model="toy-0123",
        facts=Facts(plane=plane),
        warnings=("'glioblastoma' is not in this model's training captions",),
        settings={"steps": 3},
    )


def test_png_says_synthetic_with_prompt_seed_and_model(tmp_path: Path) -> None:
    path = picture().save(tmp_path / "new" / "x.png")
    with Image.open(path) as image:
        assert image.text["synthetic"] == "true"
        assert image.text["prompt"] == "axial T1 slice, naïve words"
        assert (image.text["seed"], image.text["model"], image.text["steps"]) == ("4", "toy-0123", "3")
        assert "glioblastoma" in image.text["warnings"]
        assert np.array_equal(np.array(image), (picture().pixels * 255).round().astype(np.uint8))


@pytest.mark.parametrize(("plane", "axis"), [("axial", 2), ("coronal", 1), ("sagittal", 0)])
def test_nifti_lies_at_the_slices_place_and_says_synthetic(tmp_path: Path, plane: str, axis: int) -> None:
    picture(plane).save(tmp_path / "x.nii.gz")
    image = nib.load(tmp_path / "x.nii.gz")
    centre = image.affine @ [*((np.array(image.shape) - 1) / 2), 1]
    assert centre[axis] == pytest.approx(12.0)
    assert bytes(image.header["descrip"]).startswith(b"synthetic")
    sidecar = json.loads((tmp_path / "x.json").read_text())
    assert sidecar["synthetic"] is True and sidecar["prompt"].startswith("axial T1")
    assert sorted(np.asanyarray(image.dataobj).ravel())[-1] == pytest.approx(1.0)


def test_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrainclipError, match=r"saved as \.png, \.nii or \.nii\.gz"):
        picture().save(tmp_path / "x.jpg")


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrainclipError, match="cannot be written"):
        picture().save(tmp_path / "file" / "x.png")


def test_notebook_shows_a_png() -> None:
    assert picture()._repr_png_().startswith(b"\x89PNG")
