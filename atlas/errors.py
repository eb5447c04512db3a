"""The exceptions of `atlas`; a caller who catches BrainclipError catches them all.

BrainclipError
+-- VolumeError         a volume that cannot be read or makes no sense
+-- SourceError         a data folder or its table
+-- RegistrationError   a volume that could not be brought onto the atlas
|   +-- FitError        a volume that lies on the atlas and does not fit it
+-- PairsError          a folder of pairs
+-- PromptError         a prompt
+-- WeightsError        weights that are missing, damaged or made for another stage
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class BrainclipError(Exception):
    """What the user gave cannot be used; the message says what was given, what is possible, what to do."""


class VolumeError(BrainclipError):
    """A volume that is missing, unreadable or not a 3-D image with finite, varying values."""


class SourceError(BrainclipError):
    """A data folder or table that is not laid out as its source distributes it."""


class RegistrationError(BrainclipError):
    """A volume that could not be brought onto the atlas."""


class FitError(RegistrationError):
    """A volume that does not fit the template: similarity and overlap as measured after the affine part.

    matrix: (4, 4), that affine part, as in Registration.
    """

    def __init__(self, message: str, similarity: float, overlap: float, matrix: np.ndarray) -> None:
        super().__init__(message, similarity, overlap, matrix)
        self.similarity, self.overlap, self.matrix = similarity, overlap, matrix

    def __str__(self) -> str:
        return str(self.args[0])


class PairsError(BrainclipError):
    """A folder of pairs that is incomplete, contradicts itself or has another format."""


class PromptError(BrainclipError):
    """A prompt that cannot be read."""


class WeightsError(BrainclipError):
    """Weights that are missing, damaged or made for another stage."""
