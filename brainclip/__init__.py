"""brainclip: from a sentence to a slice of a healthy brain, and from a slice to what it shows.

    picture = brainclip.generate("axial T1 slice at the level of the thalamus, healthy 30-year-old woman",
    seed=0) picture.save("slice.png")

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainclip.embedding.embedded import Embedded, embed, embed_image, embed_text
    from brainclip.errors import BrainclipError
    from brainclip.model import BrainCLIP, generate, load
    from brainclip.moving.changes import edit, interpolate, trajectory, vary
    from brainclip.moving.markers import mark
    from brainclip.moving.redraw import inpaint, redraw
    from brainclip.moving.stacks import stack
    from brainclip.picture import Picture

__version__ = "0.1.0"

_PLACES = {
    "BrainCLIP": "brainclip.model",
    "BrainclipError": "brainclip.errors",
    "Embedded": "brainclip.embedding.embedded",
    "Picture": "brainclip.picture",
    "edit": "brainclip.moving.changes",
    "embed": "brainclip.embedding.embedded",
    "embed_image": "brainclip.embedding.embedded",
    "embed_text": "brainclip.embedding.embedded",
    "generate": "brainclip.model",
    "inpaint": "brainclip.moving.redraw",
    "interpolate": "brainclip.moving.changes",
    "load": "brainclip.model",
    "mark": "brainclip.moving.markers",
    "redraw": "brainclip.moving.redraw",
    "stack": "brainclip.moving.stacks",
    "trajectory": "brainclip.moving.changes",
    "vary": "brainclip.moving.changes",
}

__all__ = [
    "BrainCLIP",
    "BrainclipError",
    "Embedded",
    "Picture",
    "__version__",
    "edit",
    "embed",
    "embed_image",
    "embed_text",
    "generate",
    "inpaint",
    "interpolate",
    "load",
    "mark",
    "redraw",
    "stack",
    "trajectory",
    "vary",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'brainclip' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
