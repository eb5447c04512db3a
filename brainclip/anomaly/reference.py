"""A reference: fitted detectors and the scores of held-out healthy people, as files of plain numbers.

<folder>/reference.json                          model, sources and contrasts; written last
<folder>/<source>-<contrast>-<plane>-<n>.safetensors     a fitted detector, or the healthy scores
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from atlas.slices import PLANES
from brainclip.anomaly.calibration import Calibrator, of_people
from brainclip.anomaly.covariates import covariates, joined
from brainclip.anomaly.local import BRAIN, CohortZ
from brainclip.anomaly.methods import features, training_rows
from brainclip.anomaly.normative import ConditionalGaussian, Detector
from brainclip.anomaly.recipe import AnomalyRecipe
from brainclip.anomaly.scan import LEAST_BRAIN_MM2
from brainclip.data import PairDataset
from brainclip.errors import BrainclipError, WeightsError
from brainclip.model import BrainCLIP, load
from brainclip.weights import read_header, read_json, read_weights, write_json

FORMAT = 2
KINDS: dict[str, tuple[str, type[Detector]]] = {  # name -> what it looks at, and its class
    "cohort z": ("pixels", CohortZ),
    "conditional Gaussian": ("embedding", ConditionalGaussian),
}
HALF = ("mean_", "deviation_", "brain_")  # arrays that half precision is enough for
NUMBERS = {"side_": int, "n_features_in_": int, "offset_": float, "log_scale_": float}
EVERY_MM = 4.5  # of a reference's CohortZ, which is most of it


@dataclass(frozen=True)
class Group:
    """Detectors of one source, contrast and plane.

    scores: (N,) of held-out healthy slices by detector, higher: less normal; people: (N,) number of the
    person each is of, the same in all planes.
    """

    source: str
    detectors: dict[str, Detector]
    scores: dict[str, np.ndarray]
    people: np.ndarray

    def calibrator(self, name: str) -> Calibrator:
        """Of slices."""
        return Calibrator().fit(self.scores[name])

    def of_people(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(P,) scores of held-out healthy people, and their numbers."""
        return of_people(self.scores[name], self.people)


def write_reference(recipe: AnomalyRecipe, folder: Path) -> int:
    """Fit and write the detectors of every source, contrast and plane of a recipe; how many files.

    They learn from training people; the healthy scores are of validation people.
    """
    recipe.check()
    model, written = load(recipe.model), 0
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reference.json").unlink(missing_ok=True)
    groups = [(s, m, p) for s in recipe.pairs for m in recipe.modalities[s] for p in PLANES]
    data: dict[str, tuple[PairDataset, PairDataset]] = {}
    for source, modality, plane in tqdm(groups, desc="reference", unit="plane"):
        if source not in data:
            path = [Path(recipe.pairs[source])]
            data[source] = PairDataset(path, "train"), PairDataset(path, "validation")
        own, held_out = data[source]
        group = fit_group(model, own, held_out, source, modality, plane, most=recipe.most)
        stem = folder / f"{source}-{modality}-{plane}"
        for name, detector in group.detectors.items():
            _save(detector, name, stem)
            written += 1
        arrays = {f"scores {name}": found for name, found in group.scores.items()}
        save_file(arrays | {"people": group.people}, f"{stem}-healthy.safetensors")
        written += 1
    write_json(
        folder / "reference.json",
        {
            "format": FORMAT,
            "model": model.name,
            "modalities": {source: list(recipe.modalities[source]) for source in recipe.pairs},
            "pairs": {source: found[0].hash for source, found in data.items()},
        },
    )
    return written


def fit_group(
    model: BrainCLIP,
    own: PairDataset,
    held_out: PairDataset,
    source: str,
    modality: str,
    plane: str,
    *,
    most: int,
) -> Group:
    """The detectors fitted to one plane and contrast of `own`, and the scores of those of `held_out`."""
    rows = training_rows(own, modality, plane, most)
    tried = training_rows(held_out, modality, plane, most)
    shown = held_out.images(tried)[:, 0].numpy()
    spacing = float(held_out.geometry["spacing_mm"])
    enough = (shown > BRAIN).sum((1, 2)) * spacing**2 >= LEAST_BRAIN_MM2
    tried, shown = tried[enough], shown[enough]
    learned = own.images(rows)[:, 0].numpy()
    known = [covariates([part.pairs[i].facts for i in of]) for part, of in ((own, rows), (held_out, tried))]
    names = sorted({pair.subject for pair in held_out.pairs})
    people = np.array([names.index(held_out.pairs[i].subject) for i in tried])
    detectors: dict[str, Detector] = {}
    scores = {}
    for name, (kind, make) in KINDS.items():
        detector = make(every_mm=EVERY_MM) if make is CohortZ else make()
        detectors[name] = detector.fit(joined(known[0], features(model, kind, learned)))
        scores[name] = -detector.score_samples(joined(known[1], features(model, kind, shown)))
    return Group(source, detectors, scores, people)


def _save(detector: Detector, name: str, stem: Path) -> None:
    """The learned attributes of a detector, which are arrays and numbers."""
    arrays = {key: np.asarray(value) for key, value in vars(detector).items() if key.endswith("_")}
    arrays = {
        key: np.ascontiguousarray(value.astype(np.float16) if key in HALF else value.astype(np.float64))
        for key, value in arrays.items()
    }
    header = {"detector": name, "settings": json.dumps(detector.get_params())}
    save_file(arrays, f"{stem}-{name.replace(' ', '_')}.safetensors", metadata=header)


def read_reference(folder: Path, model: BrainCLIP, modality: str, plane: str) -> Group:
    """The detectors of a contrast and plane, of the first source that has the contrast.

    WeightsError for a folder that is not complete or made with another model, BrainclipError for a contrast
    that it has not.
    """
    if not (folder / "reference.json").is_file():
        raise WeightsError(
            f"{folder}: no reference.json, so there are no healthy people to compare with; make them with "
            "`brainclip anomaly-reference RECIPE`"
        )
    table = read_json(folder / "reference.json")
    if table.get("format") != FORMAT:
        raise WeightsError(
            f"{folder}: made by another version (format {table.get('format')}, this is {FORMAT}); make it "
            "again with `brainclip anomaly-reference RECIPE`"
        )
    if table.get("model") != model.name:
        raise WeightsError(
            f"{folder}: made by the model {table.get('model')!r}, this is {model.name!r}; make it again with "
            "`brainclip anomaly-reference RECIPE`"
        )
    has = [source for source, found in table["modalities"].items() if modality in found]
    if not has:
        known = ", ".join(sorted({m for found in table["modalities"].values() for m in found}))
        raise BrainclipError(f"{folder}: no healthy {modality} slices to compare with; it has {known}")
    stem = folder / f"{has[0]}-{modality}-{plane}"
    detectors = {name: _read(kind, name, stem) for name, (_, kind) in KINDS.items()}
    kept = {key: value.numpy() for key, value in read_weights(Path(f"{stem}-healthy.safetensors")).items()}
    scores = {key.removeprefix("scores "): value for key, value in kept.items() if key != "people"}
    return Group(has[0], detectors, scores, kept["people"])


def _read(kind: type[Detector], name: str, stem: Path) -> Detector:
    path = Path(f"{stem}-{name.replace(' ', '_')}.safetensors")
    header, _ = read_header(path)
    detector = kind(**json.loads(header["settings"]))
    for key, value in read_weights(path).items():
        array = value.numpy()
        found: Any = array.astype(np.float32) if key in HALF else array
        setattr(detector, key, NUMBERS[key](array.item()) if key in NUMBERS else found)
    return detector
