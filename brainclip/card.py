"""What a model's card says of its training, beside what a prompt asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.prompt import Prompt


def untrained(prompt: Prompt, card: Mapping[str, Any]) -> list[str]:
    """What a prompt asks for that the model was not trained on, a sentence each."""
    found = []
    for word in prompt.unknown:
        hint = prompt.suggestions.get(word)
        meant = f"; did you mean {hint!r}?" if hint else ""
        found.append(f"{word!r} is not in this model's training captions{meant}")
    asked = prompt.facts
    if asked.modality and asked.modality not in card["modalities"]:
        found.append(f"this model was not trained on {asked.modality} slices")
    if asked.plane and asked.position_mm is not None:
        low, high = card["positions"][asked.plane]
        if not low <= asked.position_mm <= high:
            found.append(f"{asked.plane} slices were trained from {low:+.0f} to {high:+.0f} mm only")
    age = asked.known.get("age")
    youngest, oldest = (round(years) for years in card["ages"])
    if age is not None and not youngest <= age <= oldest:
        found.append(f"ages from {youngest} to {oldest} were trained only")
    return found
