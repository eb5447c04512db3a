"""Words for figures in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from brainclip.evaluate.figures import Figure

FLOOR = "training slices of other people (floor)"


def said(figure: Figure | None, *, percent: bool = False) -> str:
    """A figure as "0.54 (0.33 to 0.73)", or "98 % (96 to 99)"; "not measured" where there is none."""
    if not figure or figure.get("value") is None:
        return "not measured"
    scale, unit = (100, " %") if percent else (1, "")
    value, low, high = (
        None if figure[key] is None else f"{figure[key] * scale:.3g}" for key in ("value", "low", "high")
    )
    return f"{value}{unit}" + ("" if low is None else f" ({low} to {high})")


def told_apart(first: Figure | None, second: Figure | None) -> int:
    """1 where the interval of the first figure lies above that of the second, -1 below; 0 where they overlap
    or one is not known."""
    for figure in (first, second):
        if not figure or figure.get("value") is None or figure["low"] is None:
            return 0
    assert first and second
    return int(first["low"] > second["high"]) - int(first["high"] < second["low"])


def listed(texts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
