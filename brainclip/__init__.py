"""brainclip: from a sentence to a slice of a healthy brain, and from a slice to what it shows.

    picture = brainclip.generate("axial T1 slice at the level of the thalamus, healthy 30-year-old woman",
    seed=0) picture.save("slice.png")

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainclip.errors import BrainclipError
    from brainclip.model import BrainCLIP, embed_image, embed_text, generate, load
    from brainclip.picture import Picture

__version__ = "0.1.0"

_PLACES = {
    "BrainCLIP": "brainclip.model",
    "BrainclipError": "brainclip.errors",
    "Picture": "brainclip.picture",
    "embed_image": "brainclip.model",
    "embed_text": "brainclip.model",
    "generate": "brainclip.model",
    "load": "brainclip.model",
}

__all__ = [
    "BrainCLIP",
    "BrainclipError",
    "Picture",
    "__version__",
    "embed_image",
    "embed_text",
    "generate",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'brainclip' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
