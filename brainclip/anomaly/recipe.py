"""The recipe of the study of detectors."""

from __future__ import annotations

from dataclasses import dataclass, field

from brainclip.anomaly.cases import Sweep
from brainclip.anomaly.methods import HealthyRecipe
from brainclip.errors import RecipeError


@dataclass(frozen=True)
class RealCase:
    """One scan of a person: with a mask of lesions (above 0), or healthy without one.

    reference: the pairs whose training people it is compared with. kind: what it has, "" for a healthy one.
    """

    scan: str
    modality: str
    subject: str
    reference: str
    kind: str = ""
    mask: str = ""
    age: float = 0.0  # 0: not known


@dataclass(frozen=True)
class AnomalyRecipe:
    """Detectors fitted to training people, chosen on validation people, measured on test people.

    pairs: name of a source -> folder of pairs. modalities: of each source. slices: healthy ones of a person.
    people: of a source in validation and in test, 0 for all. most: training slices of a plane and contrast.
    sweep: kind of lesion -> sizes and contrasts. healthy: the decoder's settings; candidate: others, of which
    the best on validation people is taken in its place. real: scans of patients and of healthy people.
    """

    folder: str = "runs/anomaly"
    model: str = "mini"
    pairs: dict[str, str] = field(default_factory=dict)
    modalities: dict[str, tuple[str, ...]] = field(default_factory=dict)
    slices: int = 12
    people: int = 0
    most: int = 2500
    seed: int = 0
    every_mm: float = 3.0  # between slices of a real scan
    planes: tuple[str, ...] = ("axial",)  # of real scans
    methods: tuple[str, ...] = ()  # none: all
    sweep: dict[str, Sweep] = field(default_factory=dict)
    healthy: HealthyRecipe = field(default_factory=HealthyRecipe)
    candidate: dict[str, HealthyRecipe] = field(default_factory=dict)
    choose_on: str = ""  # source whose axial validation slices the candidates are compared on
    real: dict[str, RealCase] = field(default_factory=dict)

    def check(self) -> None:
        """RecipeError for what cannot be run."""
        if not self.pairs or not self.sweep:
            raise RecipeError("the recipe names no [pairs] or no [sweep.KIND]; see recipes/anomaly.toml")
        for name in self.pairs:
            if not self.modalities.get(name):
                raise RecipeError(f"[modalities] does not say which contrasts of {name!r} there are")
        for name, case in self.real.items():
            if case.reference not in self.pairs:
                raise RecipeError(
                    f"real.{name}: reference {case.reference!r} is not one of {', '.join(self.pairs)}"
                )
            if case.modality not in self.modalities[case.reference]:
                raise RecipeError(f"real.{name}: {case.reference} has no {case.modality} to compare it with")
        if self.candidate and self.choose_on not in self.pairs:
            raise RecipeError(f"choose_on = {self.choose_on!r}: give one of {', '.join(self.pairs)}")
