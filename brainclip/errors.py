"""The exception tree. Every message says what was given, what is possible and what to do.

BrainclipError            a user's mistake or damaged input; on the command line one sentence, exit code 2
|-- VolumeError           a NIfTI, Analyze or MGZ file that cannot be used
|-- SourceError           a data set whose folder or table is not as it should be
|-- RegistrationError     a volume that could not be brought onto the atlas
|-- PairsError            a pairs folder that is incomplete or contradicts itself
|-- PromptError           a prompt that is empty, too long or not understood
|-- RecipeError           a recipe with an unknown key or a value of the wrong type
`-- WeightsError          weights that are missing, damaged or made for another stage
"""

from __future__ import annotations

from atlas.errors import (
    BrainclipError,
    PairsError,
    PromptError,
    RegistrationError,
    SourceError,
    VolumeError,
    WeightsError,
)


class RecipeError(BrainclipError):
    """A recipe with an unknown key or a value of the wrong type."""


__all__ = [
    "BrainclipError",
    "PairsError",
    "PromptError",
    "RecipeError",
    "RegistrationError",
    "SourceError",
    "VolumeError",
    "WeightsError",
]
