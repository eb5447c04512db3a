"""Picture: a generated slice that says what it is, as PNG, NIfTI, in a notebook; slices from files."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from brainclip.errors import BrainclipError

if TYPE_CHECKING:
    from atlas.caption import Facts


KEYS = (  # of a picture's provenance that are not its settings
    "synthetic",
    "software",
    "model",
    "prompt",
    "seed",
    "plane",
    "position_mm",
    "position_from",
    "spacing_mm",
    "space",
    "display",
    "warnings",
)
TEXTS = ("software", "model", "prompt", "plane", "position_from", "space", "display", "caption")  # not JSON


@dataclass(frozen=True)
class Picture:
    """One synthetic slice.

    pixels: (H, W) float32 in [0, 1], subject's left at image left. position_mm: MNI coordinate along the
    plane's normal, asked for or (position_asked false) estimated from the picture's own embedding.
    embedding: (D,) unit length.
    """

    pixels: np.ndarray
    prompt: str
    seed: int
    plane: str
    position_mm: float
    position_asked: bool
    spacing_mm: float
    model: str
    facts: Facts
    warnings: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    embedding: np.ndarray | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """What is written into every file: that it is synthetic, and how it was made."""
        return {
            "synthetic": True,
            "software": "brainclip",
            "model": self.model,
            "prompt": self.prompt,
            "seed": self.seed,
            "plane": self.plane,
            "position_mm": self.position_mm,
            "position_from": "prompt" if self.position_asked else "estimated from the picture",
            "spacing_mm": self.spacing_mm,
            "space": "MNI152",
            "display": "neurological, subject's left at image left",
            "warnings": list(self.warnings),
        } | self.settings

    def image(self) -> Image.Image:
        """The slice as an 8-bit grey PIL image."""
        return Image.fromarray((self.pixels.clip(0, 1) * 255).round().astype(np.uint8))

    def _png(self) -> bytes:
        text = PngImagePlugin.PngInfo()
        for key, value in self.provenance.items():
            text.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
        buffer = io.BytesIO()
        self.image().save(buffer, "PNG", pnginfo=text)
        return buffer.getvalue()

    def nifti(self) -> Any:
        """A one-slice nibabel.Nifti1Image at the slice's place in MNI space; its header says synthetic."""
        from atlas.slices import Geometry, slice_to_nifti

        image = slice_to_nifti(
            self.pixels, self.plane, self.position_mm, Geometry(len(self.pixels), self.spacing_mm)
        )
        image.header["descrip"] = b"synthetic, brainclip " + self.model.encode()[:40]
        return image

    def save(self, path: Path | str) -> Path:
        """Write a .png, or a .nii or .nii.gz with a .json beside it, which say what the picture is."""
        path = Path(path)
        if path.suffix == ".png":
            write(path, self._png())
        elif path.name.endswith((".nii", ".nii.gz")):
            from atlas.volume import save_volume

            save_volume(self.nifti(), path)
            sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
            write(sidecar, (json.dumps(self.provenance, indent=2, ensure_ascii=False) + "\n").encode())
        else:
            raise BrainclipError(f"{path}: unknown kind of file; a picture is saved as .png, .nii or .nii.gz")
        return path

    @classmethod
    def load(cls, path: Path | str) -> Picture:
        """The picture that save() wrote, in 8 bits from a PNG, without its embedding.

        BrainclipError for a file that does not say that it is one.
        """
        from atlas.prompt import read_prompt

        path = Path(path)
        said, pixels = _said(path), None
        if said.get("synthetic") is not True or not {"prompt", "seed", "plane", "position_mm"} <= set(said):
            raise BrainclipError(
                f"{path}: does not say that brainclip made it; give a prompt that says what it shows"
            )
        spacing = float(said.get("spacing_mm", 0))
        if path.suffix == ".png":
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L"), dtype=np.float32) / 255
        else:
            from atlas.volume import load_volume, voxel_sizes

            volume = load_volume(path, fewest=1)
            spacing = float(voxel_sizes(volume)[0])
            pixels = read_slice(path, max(volume.shape), spacing)
        return cls(
            pixels=pixels,
            prompt=said["prompt"],
            seed=said["seed"],
            plane=said["plane"],
            position_mm=said["position_mm"],
            position_asked=said.get("position_from") == "prompt",
            spacing_mm=spacing,
            model=str(said.get("model")),
            facts=read_prompt(said["prompt"]).facts,
            warnings=tuple(said.get("warnings", ())),
            settings={key: value for key, value in said.items() if key not in KEYS},
        )

    def _repr_png_(self) -> bytes:
        return self._png()

    def __repr__(self) -> str:
        return (
            f"Picture({self.prompt!r}, seed={self.seed}, {self.plane} {self.position_mm:+.0f} mm, synthetic)"
        )


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise BrainclipError(f"{path}: cannot be written ({error.strerror})") from None


def _said(path: Path) -> dict[str, Any]:
    """The provenance beside a NIfTI or in a PNG; empty where there is none."""
    if path.name.endswith((".nii", ".nii.gz")):
        sidecar = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
        try:
            found = json.loads(sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
    try:
        with Image.open(path) as image:
            texts = {key: str(value) for key, value in image.info.items() if isinstance(key, str)}
    except FileNotFoundError:
        raise BrainclipError(f"{path}: no such file") from None
    except (OSError, UnidentifiedImageError):
        raise BrainclipError(f"{path}: not a readable PNG or NIfTI slice") from None
    said: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            said[key] = text if key in TEXTS else json.loads(text)
        except ValueError:
            said[key] = text  # a setting that is a word
    return said


def read_slice(path: Path, size: int, spacing_mm: float) -> np.ndarray:
    """(H, W) float32 in [0, 1] from a PNG or a one-slice NIfTI in MNI space."""
    if path.name.endswith((".nii", ".nii.gz")):
        from atlas.slices import Geometry, nifti_to_slice
        from atlas.volume import load_volume

        return nifti_to_slice(load_volume(path, fewest=1), Geometry(size, spacing_mm))[0]
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # of 16 bits, which convert("L") would cut off at 255
                return np.asarray(image, dtype=np.float32) / 65535
            return np.asarray(image.convert("L"), dtype=np.float32) / 255
    except FileNotFoundError:
        raise BrainclipError(f"{path}: no such file") from None
    except (OSError, UnidentifiedImageError):
        raise BrainclipError(f"{path}: not a readable PNG or NIfTI slice") from None


def as_pixels(image: Any, size: int, spacing_mm: float) -> np.ndarray:
    """(H, W) float32 in [0, 1] of a Picture, a file or an array, `size` pixels along each side.

    BrainclipError for another size, and for values that are not in this range.
    """
    if isinstance(image, Picture):
        pixels = image.pixels
    elif isinstance(image, str | Path):
        pixels = read_slice(Path(image), size, spacing_mm)
    else:
        pixels = np.asarray(image, dtype=np.float32)
    if pixels.shape != (size, size):
        raise BrainclipError(
            f"slice of {pixels.shape}; this model takes {size} x {size} at {spacing_mm} mm, as `brainclip "
            "pairs` cuts them"
        )
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise BrainclipError(
            "slice with values outside [0, 1] or not finite; window it as `brainclip pairs` does"
        )
    return pixels.astype(np.float32)
