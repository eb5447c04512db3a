"""Study: which detector finds simulated and real lesions, where, and at what cost in false alarms.

Scores and maps are kept by source, contrast, plane and method in <folder>/scores, so that a run that was
stopped goes on, and one with another method computes that alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from atlas.slices import PLANES, Geometry
from brainclip.anomaly.calibration import Calibrator
from brainclip.anomaly.cases import Case, Cases, make_cases, read_cases, save_cases, together
from brainclip.anomaly.figures import pixel_figures
from brainclip.anomaly.local import BRAIN
from brainclip.anomaly.methods import DECODER, METHODS, HealthyRecipe, score_group
from brainclip.anomaly.recipe import AnomalyRecipe, RealCase
from brainclip.anomaly.scan import prepare
from brainclip.config import as_dict, digest
from brainclip.data import PairDataset
from brainclip.errors import RecipeError
from brainclip.model import BrainCLIP, load
from brainclip.weights import read_json, write_json

HIGH = 99.0  # percentile of healthy validation people's pixels that maps are divided by
REAL = "real case"
SPREAD = "atrophy"  # it has no place of its own, so figures of pixels are without it
CHOOSING = 3  # every third case is enough to compare the candidates on


@dataclass(frozen=True)
class Scored:
    """What a method says of all cases when compared with one source.

    rows: (N,) numbers of the cases; scores: (N,) in deviations from the healthy median; maps: (N, H, W) or
    None, in units of the healthy pixels' 99th percentile; both of validation people of that source, by plane
    and contrast; p: (N,) of the scores.
    """

    rows: np.ndarray
    scores: np.ndarray
    maps: np.ndarray | None
    p: np.ndarray


class Study:
    """The cases of a recipe, and the scores and maps of them by each method."""

    def __init__(self, recipe: AnomalyRecipe) -> None:
        recipe.check()
        self.recipe, self.folder = recipe, Path(recipe.folder)
        self.model: BrainCLIP = load(recipe.model)
        methods = list(recipe.methods or METHODS)
        unknown = sorted(set(methods) - set(METHODS))
        if unknown:
            raise RecipeError(f"methods: {unknown[0]!r} is not known; possible are {', '.join(METHODS)}")
        kinds = list(dict.fromkeys(METHODS[name].features for name in methods))
        # those that look at the same features come together
        self.methods = sorted(methods, key=lambda name: kinds.index(METHODS[name].features))
        self._data: dict[tuple[str, str], PairDataset] = {}

    def data(self, source: str, split: str) -> PairDataset:
        """The pairs of a source."""
        if (source, split) not in self._data:
            self._data[source, split] = PairDataset([Path(self.recipe.pairs[source])], split)
        return self._data[source, split]

    @cached_property
    def cases(self) -> Cases:
        """Held-out people of every source, and the real scans; each part is made once."""
        recipe = self.recipe
        parts = [self._held_out(s, split) for s in recipe.pairs for split in ("validation", "test")]
        return together(parts + [self._real(name, one) for name, one in recipe.real.items()])

    def _held_out(self, source: str, split: str) -> Cases:
        recipe, data = self.recipe, self.data(source, split)
        own, sweep = list(recipe.modalities[source]), as_dict(recipe)["sweep"]
        key = digest([sweep, own, recipe.slices, recipe.people, recipe.seed, data.hash])
        path = self.folder / "cases" / f"{source}-{split}-{key}.npz"
        if not path.exists():
            made = make_cases(
                data,
                source,
                recipe.sweep,
                modalities=recipe.modalities[source],
                slices=recipe.slices,
                people=recipe.people,
                seed=recipe.seed,
            )
            save_cases(made, path)
        return read_cases(path)

    def _real(self, name: str, one: RealCase) -> Cases:
        """Slices of a real scan."""
        path = self.folder / "cases" / f"real-{name}-{digest([as_dict(one), list(self.recipe.planes)])}.npz"
        if not path.exists():
            geometry = Geometry(self.model.size, float(self.model.card["spacing_mm"]))
            scan = prepare(Path(one.scan), one.modality, geometry, age=one.age or None)
            parts = [scan.slices(plane, self.recipe.every_mm) for plane in self.recipe.planes]
            images = np.concatenate([part[0] for part in parts])
            facts = [told for part in parts for told in part[1]]
            masks = (
                scan.mask_slices(Path(one.mask), facts) if one.mask else np.zeros(images.shape, dtype=bool)
            )
            rows = tuple(
                Case(REAL, one.reference, one.subject, told, one.kind if mask.any() else "")
                for told, mask in zip(facts, masks, strict=True)
            )
            save_cases(Cases(rows, images, masks), path)
        return read_cases(path)

    def of_unit(self, source: str, modality: str, plane: str) -> np.ndarray:
        """Row numbers of the cases that are compared with a source's people: its own, the real scans that are
        to be, and healthy test slices of other sources."""
        return np.array(
            [
                i
                for i, row in enumerate(self.cases.rows)
                if row.group == (modality, plane)
                and (
                    row.source == source
                    or (row.source == REAL and row.split == source)
                    or (row.source not in (source, REAL) and row.split == "test" and not row.kind)
                )
            ],
            dtype=int,
        )

    def run(self) -> None:
        """Compute what is missing. RecipeError for a folder made with other cases."""
        fixed = as_dict(replace(self.recipe, methods=(), candidate={}, healthy=HealthyRecipe(), real={}))
        kept = self.folder / "recipe.json"
        fixed |= {"folder": "", "data": {s: self.data(s, "train").hash for s in self.recipe.pairs}}
        if kept.exists() and read_json(kept) != fixed:
            raise RecipeError(f"{self.folder}: made with another recipe or other pairs; set another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(kept, fixed)
        units = [(s, m, p) for s in self.recipe.pairs for m in self.recipe.modalities[s] for p in PLANES]
        # the decoder at last: it takes most of the time
        parts = [[n for n in self.methods if n != DECODER], [n for n in self.methods if n == DECODER]]
        todo = [(names, *unit) for names in parts if names for unit in units]
        for names, source, modality, plane in tqdm(todo, desc="anomaly", unit="plane"):
            rows = self.of_unit(source, modality, plane)
            missing = [n for n in names if self._known(source, modality, plane, n, rows) is None]
            if missing and len(rows):
                self._score(source, modality, plane, missing, rows)

    def _score(self, source: str, modality: str, plane: str, names: list[str], rows: np.ndarray) -> None:
        how = (self.healthy, source) if DECODER in names else (HealthyRecipe(), source)
        found = score_group(
            self.model,
            names,
            self.cases.of(rows),
            self.data(source, "train"),
            most=self.recipe.most,
            healthy=how,
        )
        for name, (scores, maps) in found.items():
            path = self._path(source, modality, plane, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            kept: dict[str, Any] = {} if maps is None else {"maps": maps.astype(np.float16)}
            partial = path.with_suffix(".part.npz")
            np.savez_compressed(partial, keys=self._keys[rows], scores=scores, **kept)
            partial.replace(path)

    def _path(self, source: str, modality: str, plane: str, name: str) -> Path:
        tail = f"-{digest(as_dict(self.healthy))}" if name == DECODER else ""
        return self.folder / "scores" / f"{source}-{modality}-{plane}-{name.replace(' ', '_')}{tail}.npz"

    @cached_property
    def _keys(self) -> np.ndarray:
        """(N,) what each case is, to find it again in a kept file."""
        cases = self.cases
        both = zip(cases.rows, cases.images, strict=True)
        return np.array([digest([str(row), float(image.sum())]) for row, image in both])

    def _known(
        self, source: str, modality: str, plane: str, name: str, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Kept scores and maps of these cases; None where one is missing."""
        path = self._path(source, modality, plane, name)
        if not path.exists():
            return None
        with np.load(path) as kept:
            order = {key: number for number, key in enumerate(kept["keys"].tolist())}
            keys = self._keys[rows].tolist()
            if any(key not in order for key in keys):
                return None
            chosen = [order[key] for key in keys]
            return kept["scores"][chosen], kept["maps"][chosen] if "maps" in kept else None

    @cached_property
    def healthy(self) -> HealthyRecipe:
        """The decoder's settings: of the candidates the one with the best AUPRC of pixels on axial validation
        slices of `choose_on`; kept in choice.json with what each reached."""
        recipe = self.recipe
        if not recipe.candidate:
            return recipe.healthy
        asked = digest(as_dict(recipe)["candidate"])
        path = self.folder / "choice.json"
        table: dict[str, Any] = read_json(path) if path.exists() else {}
        if table.get("asked") != asked:
            table = {"asked": asked, "found": {}}
        modality = recipe.modalities[recipe.choose_on][0]
        rows = self.of_unit(recipe.choose_on, modality, "axial")
        own = [i for i in rows if self.cases.rows[i].split == "validation"]
        lesioned = [i for i in own if self.cases.rows[i].kind not in ("", SPREAD)][::CHOOSING]
        if not lesioned:
            raise RecipeError(
                "no lesioned axial slices of validation people to choose the decoder's settings on"
            )
        rows = np.array(lesioned + [i for i in own if not self.cases.rows[i].kind][::CHOOSING])
        for name, one in recipe.candidate.items():
            if name not in table["found"]:
                some, data = self.cases.of(rows), self.data(recipe.choose_on, "train")
                how = (one, recipe.choose_on)
                _, maps = score_group(self.model, [DECODER], some, data, most=recipe.most, healthy=how)[
                    DECODER
                ]
                assert maps is not None
                found = pixel_figures(maps, some)
                table["found"][name] = {"auprc": found["auprc"], "dice": found["dice"], "slices": len(rows)}
                write_json(path, table)
        return recipe.candidate[
            max(recipe.candidate, key=lambda name: table["found"][name]["auprc"]["value"])
        ]

    @property
    def choice(self) -> dict[str, Any]:
        """Name of a candidate for the decoder's settings -> what it reached; none where none was compared."""
        path = self.folder / "choice.json"
        return dict(read_json(path)["found"]) if self.recipe.candidate and path.exists() else {}

    def scored(self, source: str, name: str) -> Scored:
        """A method's scores and maps of all cases that are compared with a source."""
        numbers: list[np.ndarray] = []
        scores: list[np.ndarray] = []
        maps: list[np.ndarray] = []
        for modality in self.recipe.modalities[source]:
            for plane in PLANES:
                rows = self.of_unit(source, modality, plane)
                found = self._known(source, modality, plane, name, rows) if len(rows) else None
                if found is None:
                    continue
                own = self._calibrating(source, rows)
                numbers.append(rows)
                scores.append(Calibrator().fit(found[0][own]).transform(found[0]))
                if found[1] is not None:
                    maps.append(self._in_units(found[1], rows, own))
        if not numbers:
            raise RecipeError(f"{self.folder}: no scores of {name!r} yet; run the study first")
        rows, told = np.concatenate(numbers), np.concatenate(scores)
        p = Calibrator().fit(told[self._calibrating(source, rows)]).p_values(told)
        return Scored(rows, told, np.concatenate(maps) if maps else None, p)

    def _calibrating(self, source: str, rows: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the cases are healthy validation slices of the source."""
        return np.array([self.is_healthy(self.cases.rows[i], source, "validation") for i in rows])

    @staticmethod
    def is_healthy(row: Case, source: str, split: str) -> bool:
        """Whether a case is a healthy slice of a source's people in a split."""
        return row.source == source and row.split == split and not row.kind

    def _in_units(self, maps: np.ndarray, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
        inside = self.cases.images[rows[own]] > BRAIN
        high = float(np.percentile(maps[own][inside].astype(np.float32), HIGH))
        return (maps.astype(np.float32) / max(1e-6, high)).astype(np.float16)

    def rows_where(self, rows: Sequence[int] | np.ndarray, **wanted: Any) -> np.ndarray:
        """(N,) bool of rows whose attributes are as asked, such as source="ixi", split="test"."""
        return np.array(
            [all(getattr(self.cases.rows[i], key) == value for key, value in wanted.items()) for i in rows]
        )
