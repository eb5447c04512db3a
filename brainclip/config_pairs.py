"""Recipes of the data: a simulated cohort, folders of pairs, what becomes of their slices in training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SimulateRecipe:
    """A simulated cohort to be made when a pairs table asks for source = "simulated" without an input."""

    subjects: int = 8
    spacing_mm: float = 1.5
    seed: int = 0
    anatomies: str = ""  # folder of whole-head label maps; empty: the ICBM152 template alone
    workers: int = 2


@dataclass(frozen=True)
class PairsRecipe:
    """One pairs folder: where the scans are and how they are cut."""

    source: str = "simulated"
    input: str = ""  # empty: the cohort of [simulate]
    masks: str = ""
    every_mm: float = 6.0
    modalities: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()  # who stays besides the healthy: values of the health column, "blank", "all"
    nonlinear: bool = True
    strip: str = "network"  # brain extraction of whole heads without a mask, as atlas.strip names it
    denoise: bool = False
    least_similarity: float = 0.025  # to the template, see atlas.register; below, a visit is set aside
    least_overlap: float = 0.9  # with the template's brain, likewise
    limit: int = 0  # subjects; 0: all
    workers: int = 2
    dask: str = ""  # a scheduler's address, or "local"; empty: a pool of `workers` processes
    shards: bool = False  # WebDataset shards as well
    seed: int = 0


@dataclass(frozen=True)
class AugmentRecipe:
    """Geometric augmentation of slices, each number a bound; 0: not at all.

    rotate_degrees, scale (0.05: 5 % larger or smaller), shift_mm: one affine for the slice. elastic_mm: the
    largest displacement of a smooth random field. mirror: share of slices whose sides change places, in the
    picture, the facts and so the caption.
    """

    mirror: float = 0.0
    rotate_degrees: float = 0.0
    scale: float = 0.0
    shift_mm: float = 0.0
    elastic_mm: float = 0.0
