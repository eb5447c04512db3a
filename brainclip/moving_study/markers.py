"""Are marked synthetic slices of use? A detector trained on them alone, scored on real patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel import Nifti1Image
from scipy import ndimage
from torch import Tensor, nn
from tqdm import tqdm

from atlas.facts import Facts
from atlas.prepare import Settings
from atlas.register import to_atlas
from atlas.slices import Geometry, cut, working_grid
from atlas.sources import Scan
from atlas.visit import prepare_visit, slices_of
from atlas.volume import load_labels
from brainclip.anomaly.cases import BETWEEN, Case, Cases, together
from brainclip.anomaly.figures import pixel_figures, slice_figures
from brainclip.config import as_dict, digest
from brainclip.data import mirror
from brainclip.errors import BrainclipError, RecipeError, VolumeError
from brainclip.model import BrainCLIP
from brainclip.moving.markers import mark
from brainclip.moving_study.kept import arrays, in_8_bits, key_of
from brainclip.moving_study.recipe import MovingRecipe
from brainclip.train.loop import Batch, Stage, train
from brainclip.weights import hash_file, load_weights, read_json, save_weights, write_json

WEIGHTS = "detector.safetensors"
HELD_OUT = 5  # every fifth synthetic person is not trained on
TOP = 0.002  # share of a slice's pixels, about 70 mm2, of which the mean is the slice's score
SURE = 0.5


class Detector(nn.Module):
    """Grey slices (B, 1, H, W) in [0, 1] to logits (B, 1, H, W) of lesion, by MONAI's residual U-Net."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        from monai.networks.nets import UNet

        super().__init__()
        self.config = {"channels": list(channels)}
        self.network = UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=channels,
            strides=[2] * (len(channels) - 1),
            num_res_units=1,
        )
        self.hash = ""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def maps(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W) float32 chances of slices (N, H, W) in [0, 1]; 0 outside the brain."""
        shown = torch.from_numpy(images)[:, None]
        parts = [self(shown[i : i + 32]).sigmoid()[:, 0] for i in range(0, len(shown), 32)]
        return np.where(images > 0, torch.cat(parts).numpy(), 0).astype(np.float32)

    @classmethod
    def load(cls, folder: Path) -> Detector:
        """The detector saved in `folder`. WeightsError when a file or key is missing."""
        detector = cls(tuple(read_json(folder / "detector.json")["channels"]))
        load_weights(detector, folder / WEIGHTS)
        detector.hash = hash_file(folder / WEIGHTS)
        return detector.eval()

    def save(self, folder: Path) -> None:
        """Write the folder that load() reads; detector.json last."""
        save_weights(self, folder / WEIGHTS)
        write_json(folder / "detector.json", self.config)


class DetectorObjective(nn.Module):
    """Cross-entropy and soft Dice over the batch, by MONAI's DiceCELoss."""

    def __init__(self, detector: Detector) -> None:
        from monai.losses import DiceCELoss

        super().__init__()
        self.detector = detector
        self.loss = DiceCELoss(sigmoid=True, batch=True)

    def forward(self, images: Tensor, masks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss: Tensor = self.loss(self.detector(images).float(), masks)
        return loss, {}


def run_markers(model: BrainCLIP, recipe: MovingRecipe) -> dict[str, Any]:
    """What a detector that has seen markers alone finds in held-out markers and in real patients.

    Beside it the grey level alone, bright in FLAIR and T2, dark in T1. RecipeError without real cases.
    """
    if not recipe.real:
        raise RecipeError("the recipe names no [real.NAME]; a detector is measured on real patients")
    asked, seen = recipe.markers, marked(model, recipe)
    held = seen.column("subject").astype(int) % HELD_OUT == 0
    detector = trained(recipe, seen.of(~held))
    real = together([patient(model, recipe, name) for name in recipe.real])
    report: dict[str, Any] = {
        "detector": detector.hash,
        "trained_on": {"slices": int((~held).sum()), "steps": asked.steps, "batch": asked.batch},
        "sets": {},
    }
    sets = {"held-out markers": seen.of(held)}
    for modality in asked.modalities:
        own = np.array([row.facts.modality == modality for row in real.rows])
        if own.any():
            sets[f"patients, {modality}"] = real.of(own)
    for name in recipe.real:
        own = np.array([row.subject == name and row.facts.modality == "FLAIR" for row in real.rows])
        if own.any():
            sets[f"{name}, FLAIR"] = real.of(own)
    for name, cases in sets.items():
        found: dict[str, Any] = {"slices": len(cases.rows), "with": int((cases.column("kind") != "").sum())}
        found["people"] = len(np.unique(cases.column("subject")))
        for by, maps in (("detector", detector.maps(cases.images)), ("grey level", grey_maps(cases))):
            fixed = np.array(SURE) if by == "detector" else None
            found[by] = {"slice": slice_figures(slice_scores(maps), cases)}
            found[by]["pixel"] = pixel_figures(maps, cases, fixed)
        report["sets"][name] = found
    return report


def slice_scores(maps: np.ndarray) -> np.ndarray:
    """(N,) mean of the highest TOP of each map (N, H, W)."""
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(TOP * flat.shape[1]))
    scores: np.ndarray = np.partition(flat, -count, axis=1)[:, -count:].mean(1)
    return scores


def grey_maps(cases: Cases) -> np.ndarray:
    """(N, H, W) the plainest detector: bright is abnormal, in T1 dark within the brain is."""
    dark = np.array([row.facts.modality == "T1" for row in cases.rows])[:, None, None]
    return np.where(dark & (cases.images > 0), 1 - cases.images, np.where(dark, 0, cases.images))


def marked(model: BrainCLIP, recipe: MovingRecipe) -> Cases:
    """Synthetic healthy slices, and each of them with every marker, made once."""
    asked = recipe.markers
    made = {key: value for key, value in as_dict(asked).items() if key in _MADE}
    folder = Path(recipe.folder) / "markers" / key_of(model, made, recipe.seed)
    parts = []
    for modality in asked.modalities:
        for person in tqdm(range(asked.pictures), desc=f"markers, {modality}", unit="person"):

            def make(modality: str = modality, person: int = person) -> dict[str, np.ndarray]:
                return _marked_slices(model, recipe, modality, person)

            kept = arrays(folder / f"{modality}-{person}.npz", make)
            facts = Facts("axial", float(kept["position"]), modality)
            rows = [Case("synthetic", "", str(person), facts, str(kind)) for kind in kept["kinds"]]
            parts.append(Cases(tuple(rows), kept["grey"].astype(np.float32) / 255, kept["masks"]))
    return together(parts)


_MADE = ("kinds", "marks", "strength")  # keys of the recipe that a person's slices depend on


def _marked_slices(
    model: BrainCLIP, recipe: MovingRecipe, modality: str, person: int
) -> dict[str, np.ndarray]:
    """grey (N, H, W) uint8, masks, kinds of one synthetic person, the healthy slice first; its position."""
    asked = recipe.markers
    rng = np.random.default_rng([recipe.seed, person, asked.modalities.index(modality)])
    age, who = rng.integers(20, 86), ("woman", "man")[person % 2]
    place = round(float(rng.uniform(*BETWEEN["axial"])))
    prompt = f"axial {modality} slice, z = {place} mm, healthy {age}-year-old {who}"
    healthy = model.generate(prompt, seed=recipe.seed + person)[0]
    grey, masks, kinds = [healthy.pixels], [np.zeros(healthy.pixels.shape, dtype=bool)], [""]
    for turn in range(asked.marks):
        kind = list(asked.kinds)[(person + turn) % len(asked.kinds)]
        size = float(rng.uniform(min(asked.kinds[kind]), max(asked.kinds[kind])))
        contrast = float(rng.uniform(0.5, 1.1))
        try:
            made = mark(
                healthy,
                kind,
                size_mm=size,
                contrast=contrast,
                seed=int(rng.integers(2**31)),
                strength=asked.strength,
                model=model.folder,
            )[0]
        except BrainclipError:
            continue  # no place for it in this slice
        if made.mask.any():
            grey.append(made.picture.pixels)
            masks.append(made.mask)
            kinds.append(kind)
    return {
        "grey": in_8_bits(np.stack(grey)),
        "masks": np.stack(masks),
        "kinds": np.array(kinds),
        "position": np.array(float(place)),
    }


def trained(recipe: MovingRecipe, seen: Cases) -> Detector:
    """The detector of a recipe, trained into <folder>/detector on these slices."""
    asked, folder = recipe.markers, Path(recipe.folder) / "detector"
    torch.manual_seed(asked.seed)
    detector = Detector(asked.channels)
    images, masks = torch.from_numpy(seen.images)[:, None], torch.from_numpy(seen.masks)[:, None]

    def batch(step: int) -> Batch:
        generator = np.random.default_rng([asked.seed, step])
        rows = torch.from_numpy(generator.choice(len(images), asked.batch, replace=len(images) < asked.batch))
        return dict(zip(("images", "masks"), changed(images[rows], masks[rows], generator), strict=True))

    facts = {"recipe": as_dict(asked), "inputs": {"slices": digest([len(images), float(seen.images.sum())])}}
    train(Stage("detector", DetectorObjective(detector), batch, detector.save), asked, folder, facts)
    return Detector.load(folder)


def changed(images: Tensor, masks: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Slices and masks (B, 1, H, W) alike mirrored and moved; grey values of the slices changed by gamma,
    slow shading, blur and noise, so that scanners matter less."""
    shown, known = [], []
    for image, mask in zip(images, masks, strict=True):
        image, mask = image[None], mask[None].float()
        if generator.random() < 0.5:
            image, mask = mirror(image), mirror(mask)
        shift = generator.integers(-6, 7, size=2).tolist()
        image, mask = (torch.roll(x, shift, dims=(2, 3)) for x in (image, mask))
        field = torch.from_numpy(generator.uniform(-0.2, 0.2, (1, 1, 3, 3)).astype(np.float32))
        field = nn.functional.interpolate(field, size=image.shape[2:], mode="bicubic", align_corners=True)
        values = (image * (1 + field)).clamp(0, 1).numpy() ** np.exp(generator.uniform(-0.3, 0.3))
        blur, noise = generator.uniform(0, 1), generator.uniform(0, 0.04)
        values = ndimage.gaussian_filter(values, (0, 0, blur, blur))
        values = values + noise * generator.standard_normal(values.shape) * (values > 0)
        shown.append(torch.from_numpy(values.clip(0, 1).astype(np.float32))[0])
        known.append(mask[0])
    return torch.stack(shown), torch.stack(known)


def patient(model: BrainCLIP, recipe: MovingRecipe, name: str) -> Cases:
    """Axial slices of a real patient's scans, prepared once as the training data is, with the mask.

    VolumeError for a scan that cannot be used.
    """
    one, every = recipe.real[name], recipe.markers.every_mm
    geometry = Geometry(model.size, float(model.card["spacing_mm"]))

    def make() -> dict[str, np.ndarray]:
        scans = [Scan("folder", name, "", modality, Path(path)) for modality, path in one.scans.items()]
        made, refused = prepare_visit(scans, Settings(geometry, every_mm=every, seed=0))
        if refused:
            raise VolumeError(f"{refused[0][0].path}: {refused[0][1]}")
        found: dict[str, list[Any]] = {"grey": [], "masks": [], "places": [], "modalities": []}
        mask, (affine, shape) = load_labels(Path(one.mask)), working_grid(geometry)
        lesion = Nifti1Image((np.asanyarray(mask.dataobj) > 0).astype(np.float32), mask.affine)
        for scan in made:
            inside = to_atlas(lesion, scan.registration, affine, shape)
            labels = Nifti1Image((np.asanyarray(inside.dataobj) > 0.5).astype(np.int32), affine)
            for plane, place, pixels in slices_of(scan.image, geometry, every):
                if plane == "axial":
                    found["grey"].append(in_8_bits(pixels))
                    found["masks"].append(cut(scan.image, labels, plane, place, geometry).labels > 0)
                    found["places"].append(place)
                    found["modalities"].append(scan.scan.modality)
        return {key: np.array(value) for key, value in found.items()}

    kept = arrays(Path(recipe.folder) / "real" / f"{name}-{digest([as_dict(one), every])}.npz", make)
    rows = []
    for place, modality, mask in zip(kept["places"], kept["modalities"], kept["masks"], strict=True):
        facts = Facts("axial", float(place), str(modality))
        rows.append(Case("real case", "", name, facts, one.kind if mask.any() else ""))
    return Cases(tuple(rows), kept["grey"].astype(np.float32) / 255, kept["masks"])
