"""What a prompt says is not there: understood where the opposite is plain, and refused where it is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from atlas.errors import PromptError
from atlas.phrases import longest_phrase

SENTENCE_ENDS = (".", ";", ":", ")")
NUMBER = "\x00"  # where a number was read
UNSEEN = {"stop", "relation"}


@dataclass
class Denial:
    """end: where reading goes on. meanings: of the opposites. unknown: (index, word) of other words."""

    end: int
    meanings: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[tuple[int, str]] = field(default_factory=list)


def read_denial(words: list[str], start: int, at: int, plane: str | None, *, opposite: bool) -> Denial:
    """What words[start:at], such as "no", "not", "without", deny: one phrase, or a list that ends with "or".

    opposite: whether that of what is denied is meant; not so after "except", "instead of".
    No disease is health; neither enlarged nor small is normal. PromptError if another known phrase is denied.
    """
    end = next((place for place in range(at, len(words)) if words[place] in SENTENCE_ENDS), len(words))
    if words[start] == "non":  # "non-smoking woman"
        end = min(end, at + 1)
    last = max((place for place in range(at, end) if words[place] in ("or", "nor")), default=-1)
    if at == end or words[at] in (NUMBER, ","):  # "hippocampus absent"
        raise PromptError(_absence(words, _before(words, start), at))
    read = Denial(at)
    while not read.meanings or read.end <= last:
        found = _next(words, read, end, last, plane)
        if found is None:
            if not read.meanings and not read.unknown:  # "not visible"
                raise PromptError(_absence(words, _before(words, start), read.end))
            break
        length, meanings = found
        if not opposite:
            raise PromptError(_absence(words, start, read.end + length))
        if "disease" in meanings:
            read.meanings.append({"health": "healthy"})
        elif "refused" in meanings:
            read.unknown.append((read.end, " ".join(words[read.end : read.end + length])))
        elif "size" in meanings and meanings["size"][1] != "normal":
            read.meanings.append({"size": (meanings["size"][0], "normal")})
        else:
            raise PromptError(_absence(words, start, read.end + length))
        read.end += length
    if not read.meanings:  # "no metastases"
        read.unknown = [(start, " ".join(words[start : read.end]))]
    _refuse_two_ways(words, start, read.end, plane)
    return read


def _next(
    words: list[str], read: Denial, end: int, last: int, plane: str | None
) -> tuple[int, dict[str, Any]] | None:
    """The next phrase that says something, to which read.end is moved; None where the denial ends before."""
    while read.end < end:
        if words[read.end] in (",", NUMBER) and read.end > last:
            return None
        length, meanings = longest_phrase(words, read.end, plane)
        if set(meanings) - UNSEEN:
            return length, meanings
        if not length and words[read.end].isalnum() and words[read.end] not in ("or", "nor"):
            read.unknown.append((read.end, words[read.end]))
        read.end += max(length, 1)
    return None


def _refuse_two_ways(words: list[str], start: int, end: int, plane: str | None) -> None:
    """PromptError for "no ventriculomegaly, hippocampal atrophy", whose second part may be denied or not."""
    at = end
    while at < len(words) and words[at] in (",", "and", "the"):
        at += 1
    length, meanings = longest_phrase(words, at, plane) if at < len(words) else (0, {})
    if at > end and "size" in meanings and meanings["size"][1] != "normal":
        said = " ".join(words[start : at + length]).replace(" ,", ",")
        raise PromptError(
            f"{said!r} can be read in two ways; say of each structure how it is, for example 'lateral "
            "ventricles of normal size, small hippocampi'"
        )


def _absence(words: list[str], start: int, end: int) -> str:
    said = " ".join(word for word in words[start:end] if word != NUMBER)
    return (
        f"{said!r} asks for what is not there, which cannot be drawn; say what is there instead, for example "
        "'axial' or 'lateral ventricles of normal size'"
    )


def _before(words: list[str], start: int) -> int:
    """Where the part of a sentence begins that "not visible" at `start` belongs to."""
    return next((place for place in range(start, 0, -1) if words[place - 1] in (",", *SENTENCE_ENDS)), 0)
