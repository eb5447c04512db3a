"""The embedding space as an instrument: slices and volumes in, search, classes, captions and people out.

The names below are loaded from their modules when first used, so that nothing heavy is imported before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainclip.embedding.captioning import Described, describe
    from brainclip.embedding.classes import probabilities
    from brainclip.embedding.cohort import embed_folder
    from brainclip.embedding.embedded import Embedded, embed, embed_image, embed_text
    from brainclip.embedding.fingerprint import Fingerprint
    from brainclip.embedding.index import Index
    from brainclip.embedding.people import PeoplePooling, fit_age
    from brainclip.embedding.rows import read_cohort
    from brainclip.embedding.samples import Sample
    from brainclip.embedding.transformer import SliceEmbedder

_PLACES = {
    "Described": "captioning",
    "Embedded": "embedded",
    "Fingerprint": "fingerprint",
    "Index": "index",
    "PeoplePooling": "people",
    "Sample": "samples",
    "SliceEmbedder": "transformer",
    "describe": "captioning",
    "embed": "embedded",
    "embed_folder": "cohort",
    "embed_image": "embedded",
    "embed_text": "embedded",
    "fit_age": "people",
    "probabilities": "classes",
    "read_cohort": "rows",
}

__all__ = [
    "Described",
    "Embedded",
    "Fingerprint",
    "Index",
    "PeoplePooling",
    "Sample",
    "SliceEmbedder",
    "describe",
    "embed",
    "embed_folder",
    "embed_image",
    "embed_text",
    "fit_age",
    "probabilities",
    "read_cohort",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'brainclip.embedding' has no attribute {name!r}")
    return getattr(import_module(f"brainclip.embedding.{_PLACES[name]}"), name)
