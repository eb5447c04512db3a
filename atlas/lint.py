"""Does a caption hold a word that no table has? The vocabulary is closed, so no name or date can leak."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from atlas.facts import levels, region_names, wordings
from atlas.statement import OLDEST_YEARS, STRONGEST_TESLA

FURTHEST_MM = 200
_BETWEEN = re.compile(r"[\s,;:()=]+")
_TESLA = re.compile(r"(\d{1,2}(?:\.\d{1,3})?)t?")
_INTEGER = re.compile(r"0|[1-9]\d{0,2}")


@lru_cache(maxsize=1)
def all_words() -> frozenset[str]:
    """Every lower-case word that some caption or keyword can contain; numbers are not listed."""
    silent = ("understood", "chance", "bands", "regions", "size_weight", "wording")
    table = wordings()
    texts = list(_texts({name: rows for name, rows in table.items() if name not in silent}))
    texts += [part for wording in table["wording"] for part in wording["parts"]]
    texts += [
        *table["regions"]["said"],
        *table["regions"]["sentence"],
        *region_names(),
        *_keys(table["size"]),
    ]
    texts += [word for rows in levels().values() for level in rows for word in (*level.said, *level.views)]
    texts += [name for kind in ("plane", "modality", "sex", "health") for name in table[kind]]
    texts += ["left", "right", "and", "an", "is", "are", "x", "y", "z"]
    texts = [re.sub(r"\{\w+\}", " ", text) for text in texts]
    words = (word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower()))
    return frozenset(word for word in words if not word.isdigit())


def foreign_words(text: str) -> tuple[str, ...]:
    """The words of a text that are not from the tables, in order; empty for every caption.

    A number is from the tables where it can be an age, a position or a field strength: at most three digits,
    without a leading zero, and at most one between hyphens, as in "70-year-old".
    """
    tokens = (token.rstrip(".") for token in _BETWEEN.split(text.lower()))
    return tuple(token for token in tokens if token and not _known(token))


@lru_cache(maxsize=65536)
def _known(token: str) -> bool:
    words = all_words()
    if token in words or _is_number(token.removeprefix("-")):
        return True
    parts = token.split("-")
    numbers = [part for part in parts if _is_number(part)]
    return len(parts) > 1 and len(numbers) <= 1 and all(part in words or part in numbers for part in parts)


def _is_number(token: str) -> bool:
    """Can it be a number of years or millimetres, or a field strength ("3", "1.5t")?"""
    tesla = _TESLA.fullmatch(token)
    if tesla is not None and float(tesla[1]) <= STRONGEST_TESLA and not re.match(r"0\d", token):
        return True
    return _INTEGER.fullmatch(token) is not None and int(token) <= max(OLDEST_YEARS, FURTHEST_MM)


def _texts(node: Any) -> Iterator[str]:
    """All strings in nested tables and lists."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)


def _keys(node: Any) -> Iterator[str]:
    """All keys of nested tables."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from _keys(value)
