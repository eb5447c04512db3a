"""The sides of a prompt, each moved in front of what it belongs to, where the known phrases have it."""

from __future__ import annotations

from functools import lru_cache

from atlas.facts import wordings
from atlas.phrases import Phrase, known_phrases, phrases, split_words

Token = tuple[str, int]  # a word or sign of the prompt, and where it stands

SIDES = ("left", "right")
FARTHEST = 6  # words from the start of "inferior horn of the left lateral ventricle" to its side, and behind


def sides_in_front(tokens: list[Token]) -> list[Token]:
    """The tokens with "L hippocampus", "hippocampus on the left" and "horn of the left ventricle" said alike.

    Every word stays; a side is moved only where the phrase is known with a side in front.
    """
    tokens = _plainly_named(tokens)
    words = [word for word, _ in tokens]
    at = 0
    while at < len(tokens):
        if words[at] in SIDES:
            tokens = _from_within(tokens, at)
            words = [word for word, _ in tokens]
        length = next((length for length, _ in known_phrases(words, at)), 1)
        if words[at] not in SIDES and ("left", *words[at : at + length]) in phrases():
            size, side = _behind(words, at + length)
            if size:
                place = tokens[at][1]
                moved = [(word, place) for word in side.split()] + tokens[at : at + length]
                tokens[at : at + length + size] = moved
                words = [word for word, _ in tokens]
                length = len(moved)
        at += length
    return tokens


def _plainly_named(tokens: list[Token]) -> list[Token]:
    """The tokens with "left" and "right" for "L", "right-sided"."""
    named = _other_names()
    plain: list[Token] = []
    at = 0
    while at < len(tokens):
        for length in (3, 2, 1):
            side = named.get(tuple(word for word, _ in tokens[at : at + length]))
            if side:
                plain.append((side, tokens[at][1]))
                at += length
                break
        else:
            plain.append(tokens[at])
            at += 1
    return plain


@lru_cache(maxsize=1)
def _other_names() -> dict[Phrase, str]:
    table = wordings()["understood"]["side"]
    return {split_words(text): side for side in SIDES for text in table[side]}


def _from_within(tokens: list[Token], at: int) -> list[Token]:
    """The tokens with the side at `at` in front of a phrase that it divides: "head of the left caudate"."""
    words = [word for word, _ in tokens]
    for start in range(max(0, at - FARTHEST), at - 1):
        before = (*words[start:at], *(("the",) if words[at - 1] == "of" else ()))
        if before[-2:] != ("of", "the"):
            continue
        for end in range(min(len(words), at + FARTHEST), at + 1, -1):
            if ("left", *before, *words[at + 1 : end]) in phrases():
                front = [(word, tokens[start][1]) for word in (words[at], *before)]
                return tokens[:start] + front + tokens[at + 1 :]
    return tokens


@lru_cache(maxsize=1)
def _behind_patterns() -> tuple[tuple[Phrase, str], ...]:
    """What says a side behind a phrase, and the side in front of it; the longest first."""
    table = wordings()["understood"]["side"]
    said = {split_words(text): "both" for text in table["behind_both"]}
    for side in (*SIDES, "left and right"):
        said |= {split_words(text.format(side=side)): side for text in table["behind"]}
    return tuple(sorted(said.items(), key=lambda item: -len(item[0])))


def _behind(words: list[str], at: int) -> tuple[int, str]:
    """How many words from `at` on say the side of what is before them, and that side; 0 if none do."""
    start = at + (at < len(words) and words[at] in (",", ":", "("))
    closing = start > at and words[at] == "("
    for pattern, side in (*_behind_patterns(), *((tuple(side.split()), side) for side in SIDES)):
        end = start + len(pattern)
        if tuple(words[start:end]) != pattern:
            continue
        bare = pattern == (side,)
        first = next((place for place in range(start, end) if words[place] in SIDES), end)
        further = next((length for length, _ in known_phrases(words, first)), 1) if first < end else 0
        alone = end == len(words) or not words[end].isalnum() or words[end] in ("and", "visible", "seen")
        if first + further > end or (bare and not alone):  # the side of what follows
            continue
        return end - at + (closing and end < len(words) and words[end] == ")"), side
    return 0, ""
