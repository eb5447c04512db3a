"""The recipe of the study of moves."""

from __future__ import annotations

from dataclasses import dataclass, field

from brainclip.config import TrainingRecipe
from brainclip.errors import RecipeError


@dataclass(frozen=True)
class AgeingRecipe:
    """Trajectories of synthetic people, half of them women, through one axial place.

    modalities: contrast -> name of the pairs whose people it is compared with, of all splits.
    """

    people: int = 12
    age: tuple[float, ...] = (30.0, 80.0)
    steps: int = 6
    position_mm: float = 20.0
    modalities: dict[str, str] = field(default_factory=lambda: {"T1": "ixi"})
    by: tuple[str, ...] = ("prior", "text")


@dataclass(frozen=True)
class SizesRecipe:
    """Directions of sizes, fitted on training people, and edits of the lateral ventricles along them.

    fit: contrast -> name of the pairs; most: slices of a plane and contrast.
    """

    fit: dict[str, str] = field(default_factory=lambda: {"T1": "ixi"})
    structures: tuple[str, ...] = ("lateral ventricles", "hippocampi", "cortex")
    most: int = 4000
    people: int = 12


@dataclass(frozen=True)
class StacksRecipe:
    """Axial stacks of synthetic people, and the slices of real test people at the same places."""

    people: int = 4
    modality: str = "T1"
    pairs: str = "ixi"
    from_mm: float = -40.0
    to_mm: float = 62.0
    every_mm: float = 3.0
    noise_mm: tuple[float, ...] = (0.0, 2.0, 2.7, 4.0)  # of which the nearest to validation people is taken
    tried: int = 2  # synthetic people of each


@dataclass(frozen=True)
class MarkersRecipe(TrainingRecipe):
    """A detector of lesions trained on marked synthetic slices alone, and what it is measured on.

    kinds: kind of lesion -> smallest and largest size in mm; contrasts: least and most, as atlas.lesions has
    it. pictures: healthy slices of each contrast, within between_mm of z; marks: lesions drawn into each, one
    at a time, and fitted in by the decoder, strength as brainclip.mark takes it; drawn: further ones that
    are not. held_out: contrast -> name of the pairs of whose validation people (the first `people`) slices
    with drawn lesions are measured.
    """

    modalities: tuple[str, ...] = ("FLAIR", "T1")
    kinds: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {"sclerosis": (4.0, 16.0), "tumour": (20.0, 60.0), "infarct": (15.0, 40.0)}
    )
    contrasts: tuple[float, ...] = (0.25, 1.0)
    pictures: int = 60
    between_mm: tuple[float, ...] = (-50.0, 66.0)
    marks: int = 4
    drawn: int = 8
    strength: float = 0.1
    held_out: dict[str, str] = field(default_factory=dict)
    people: int = 13
    channels: tuple[int, ...] = (16, 32, 64, 128)
    every_mm: float = 3.0  # between slices of a real scan


@dataclass(frozen=True)
class Patient:
    """Scans of one real person by contrast, brain extracted or whole heads, and a mask of what they show.

    mask: on the grid of each of the scans, above 0 is lesion. kind: what the person has.
    """

    scans: dict[str, str] = field(default_factory=dict)
    mask: str = ""
    kind: str = "lesion"


@dataclass(frozen=True)
class MovingRecipe:
    """What is measured of the moves. pairs: name -> folder of pairs; real: scans with masks of lesions.

    segmenter: folder of the evaluation's segmenter; empty: fluid in the middle of the brain by its grey
    level. judge: folder of the evaluation's judge, which says where the slices of a stack lie; empty: left
    out.
    """

    folder: str = "runs/moving"
    model: str = "mini"
    pairs: dict[str, str] = field(default_factory=dict)
    segmenter: str = ""
    judge: str = ""
    seed: int = 0
    ageing: AgeingRecipe = field(default_factory=AgeingRecipe)
    sizes: SizesRecipe = field(default_factory=SizesRecipe)
    stacks: StacksRecipe = field(default_factory=StacksRecipe)
    markers: MarkersRecipe = field(default_factory=MarkersRecipe)
    real: dict[str, Patient] = field(default_factory=dict)

    def check(self) -> None:
        """RecipeError for what cannot be run."""
        used = {*self.ageing.modalities.values(), *self.sizes.fit.values(), self.stacks.pairs}
        for name in sorted(used | set(self.markers.held_out.values())):
            if name not in self.pairs:
                raise RecipeError(
                    f"[pairs] does not name {name!r}; it has: {', '.join(self.pairs) or 'none'}"
                )
        if len(self.ageing.age) != 2 or self.ageing.people < 2 or self.stacks.people < 2:
            raise RecipeError("ageing.age takes two ages; ageing.people and stacks.people are 2 at least")
        for name, case in self.real.items():
            if not case.mask or not case.scans or set(case.scans) - set(self.markers.modalities):
                raise RecipeError(
                    f"real.{name}: a mask, and scans of contrasts among markers.modalities "
                    f"({', '.join(self.markers.modalities)}), are needed"
                )
