"""The numbers of a prompt: ages, the field strength, and a place in millimetres."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from atlas.errors import PromptError
from atlas.facts import wordings

TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OLDEST_YEARS = 120

BEFORE = r"(?<![\w.=/-])"
NUMBER = r"(\d+(?:\.\d+)?)"
UNIT = r"(mm|cm|millimet(?:re|er)s?|centimet(?:re|er)s?)\b"
DURATION = (  # "16 years of education"
    r"(?![\s-]*(?:of\s+)?(?:formal|education|schooling|experience|illness|disease|later|ago|after|before|post|follow))"
)
NOT_SINCE = (
    "".join(  # "after 2 years", "education: 16 years"
        rf"(?<!{word} )"
        for word in ("after", "for", "past", "last", "within", "every", "duration", "education")
    )
    + r"(?<!education: )(?<!duration of )"
)
YEARS = (
    r"(?:y\.\s?o\.?(?!\w)|(?:years?[\s-]*olds?|years?|yrs?[\s-]*old|yrs?|yo|y/o|y)\b"
    rf"(?:,?\s+(?:and\s+)?\d{{1,2}}\s+months?(?:\s+old)?\b)?){DURATION}"
)
NO_AGE = r"(?![.\d]*\d)(?!\s*(?:mm|cm|millimet|centimet|t\b|tesla|%))"


@dataclass
class Quantities:
    """What the numbers of a prompt say.

    text: the prompt with what was read blanked, in the same length. stated: age (years), age_band, sex,
    field_strength (tesla). axis: of the coordinate, "" if it follows from the plane; place: where in the text
    it stands, None without a coordinate. unused: (place, words) that contradict an earlier number.
    """

    text: str
    stated: dict[str, Any] = field(default_factory=dict)
    unused: list[tuple[int, str]] = field(default_factory=list)
    axis: str = ""
    position_mm: float = 0.0
    place: int | None = None

    def read(self, pattern: str, meaning: Callable[[re.Match[str]], str]) -> None:
        self.text = re.sub(pattern, meaning, self.text)

    def leave(self, match: re.Match[str]) -> str:
        self.unused.append((match.start(), match.group().strip()))
        return "\x00" * len(match.group())

    def state(self, name: str, value: object, match: re.Match[str]) -> str:
        if self.stated.setdefault(name, value) != value:
            return self.leave(match)
        return "\x00" * len(match.group())

    def put(self, axis: str, position: str, unit: str | None, match: re.Match[str]) -> str:
        """The coordinate: a number with or without sign, in mm where no unit is given."""
        position_mm = float(position.replace(" ", "")) * (10.0 if (unit or "").startswith("c") else 1.0)
        position_mm = round(position_mm, 6) + 0.0  # 1.1 cm is 11.000000000000002 mm; and no -0.0
        if self.place is None:
            self.axis, self.position_mm, self.place = axis, position_mm, match.start()
        elif (self.axis, self.position_mm) != (axis, position_mm):
            return self.leave(match)
        return "\x00" * len(match.group())


def read_quantities(text: str) -> Quantities:
    """The numbers of a lower-case prompt; a range of ages is its midpoint, in whole years.

    PromptError for ages that are no one number of years ("over 70", "7 months") and ranges of places.
    """
    found = Quantities(_in_digits(text))
    for pattern in (
        rf"{BEFORE}{NUMBER}(?:\s*(?:mm\s*)?[x×]\s*{NUMBER})+(?:\s*{UNIT})?",
        rf"\b(?:m|sd|n)\s*=\s*{NUMBER}",
    ):
        found.read(pattern, found.leave)  # "1 x 1 x 1 mm", "M = 24.5": neither a coordinate nor a man
    _read_coordinates(found, r"(?:[\s-]coordinate)?\s*[=:]\s*")
    _read_ages(found)
    found.read(
        rf"{BEFORE}{NUMBER}[\s-]?(?:tesla|t)\b",
        lambda match: found.state("field_strength", float(match[1]), match),
    )
    _read_distances(found)
    _read_coordinates(found, r"(?:[\s-]coordinate)?\s*(?:at|is|of|from)?\s*")
    origin = _any(wordings()["understood"]["position"]["origin"])
    found.read(
        rf"(?:\b(?:{origin})\s*|(?<![\w.=+-]))([+-]){NUMBER}\s*{UNIT}",
        lambda match: found.put("", match[1] + match[2], match[3], match),
    )
    return found


def _in_digits(text: str) -> str:
    """The text with "seventy-five", "minus 5" and "1,5 t" in digits, and without "± 5"."""
    tens, units = "|".join(TENS), "|".join(UNITS)
    text = re.sub(
        rf"\b({tens})(?:[\s-]({units}))?\b",
        lambda match: str(TENS[match[1]] + (UNITS.index(match[2]) + 1 if match[2] else 0)),
        text,
    )
    text = re.sub(r"\bno\.\s*(?=\d)", "number ", text)
    text = re.sub(r"(?:\+/-|±)\s*\d+(?:\.\d+)?", "", text)
    text = re.sub(r"\b(?:minus|negative)\s+(?=\d)", "-", text)
    text = re.sub(r"\bplus\s+(?=\d)", "+", text)
    text = re.sub(r"\b(\d0)'s\b", r"\1s", text)
    text = re.sub(r"(?<![\d.,])(\d+),(\d)(?=\s*(?:mm|cm)\b)", r"\1.\2", text)
    return re.sub(r"(?<![\d.=,])(\d),(\d)(?=\s*(?:t|tesla)\b)", r"\1.\2", text)


def _read_ages(found: Quantities) -> None:
    table = wordings()

    def age(match: re.Match[str]) -> str:
        years = int(next(group for group in match.groups() if group and group.isdigit()))
        if years > OLDEST_YEARS:
            return match.group()
        sex = match.groupdict().get("sex")
        if sex:
            found.state("sex", {"f": "female", "m": "male"}[sex], match)
        return found.state("age", years, match)

    def middle(match: re.Match[str]) -> str:
        low, high = int(match["low"]), int(match["high"])
        if not low < high <= OLDEST_YEARS:
            return match.group()
        return match["lead"] + str((low + high) // 2).ljust(len(match.group()) - len(match["lead"]))

    sexed = _any(word for words in table["sex"].values() for word in words)
    anyone = _any((*table["person"]["nobody"], *table["understood"]["words"]["person"]))
    told = r"\s*,|\s+of|\s+is|\s*\("
    person = rf"\b(?:[fm]\s*,|(?:{sexed})(?:{told})?|(?:{anyone})(?:{told}))\s*"  # not "subject 12"
    found.read(  # "between the ages of 30 and 40" -> "aged 30-40"
        r"\b(aged?\s+)?between\s+(?:the\s+)?(ages?\s+(?:of\s+)?)?(\d{1,3})\s+and\s+(\d{1,3})"
        rf"(?P<years>\s*{YEARS})?",
        lambda match: f"aged {match[3]}-{match[4]}" if match[1] or match[2] or match["years"] else match[0],
    )
    separated = rf"(?P<low>\d{{1,3}})\s*(?:{YEARS}\s*)?(?:-\s*to\b|-|to\b|or\b)[\s-]*(?P<high>\d{{1,3}})"
    found.read(rf"(?P<lead>){BEFORE}{separated}(?=[\s-]*{YEARS}|\s?/?\s?[fm]\b)", middle)
    found.read(
        rf"(?P<lead>\b(?:aged?|ages)\s*(?:range|of|from)?\s*[:=]?\s*|{person})"
        rf"{separated}{NO_AGE}",
        middle,
    )
    _refuse_ages(found)
    age_of = rf"(?:\baged?\s+(?:of\s+)?)?{NOT_SINCE}{BEFORE}"
    found.read(rf"{age_of}(\d{{1,3}})(?:\.\d+)?[\s-]*{YEARS}(?:\s+of\s+age\b)?", age)
    found.read(rf"\b(?:aged?|ages)\s*(?:range|from|of|=|:)?\s*(\d{{1,3}})(?:\.\d+)?\b{NO_AGE}", age)
    found.read(rf"{BEFORE}(\d{{2,3}})\s?/?\s?(?P<sex>[fm])\b", age)
    found.read(rf"\b(?<!')(?P<sex>[fm])\s?/?\s?(\d{{2,3}})\b{NO_AGE}", age)
    found.read(  # "woman, 30", "man (61)"
        rf"(?P<lead>{person})(?P<years>1[01]\d|\d{{2}})\b{NO_AGE}",
        lambda match: match["lead"] + found.state("age", int(match["years"]), match)[len(match["lead"]) :],
    )


def _refuse_ages(found: Quantities) -> None:
    """PromptError for months and for "over 70"; "65+" and "under 40" are a band where one is just so."""
    bands = wordings()["bands"]
    youngest, oldest = min(band[0] for band in bands.values()), max(band[1] for band in bands.values())

    def half_open(match: re.Match[str]) -> str:
        years, said = int(match["years"]), match.group().strip()
        older = "older" in match.re.groupindex
        wanted = [[years, oldest], [youngest, years]][not older]
        for name, band in bands.items():
            if band == wanted:
                return found.state("age_band", name, match)
        near = years + 5 if older else years - 5
        raise PromptError(
            f"{said!r} is no one age; say one, for example '{near}-year-old', or a decade, for example "
            "'in her seventies'"
        )

    months = re.search(
        rf"{BEFORE}(?!0)\d+(?:\.\d+)?[\s-]*(?:months?|mos?|weeks?|wks?|days?)\b(?:[\s-]*old)?{DURATION}",
        found.text,
    )
    if months and not re.search(YEARS + r"$", found.text[: months.end()]):
        raise PromptError(
            f"{months.group()!r}: ages are in years and the brains those of adults; say for example "
            "'30-year-old'"
        )
    words = wordings()["understood"]["age"]
    number, end = r"(?P<years>\d{1,3})", rf"(?:[\s-]*{YEARS})?{NO_AGE}"
    of = r"\s*(?:the\s+age\s+of\s+|age\s+)?"
    for name in ("older", "younger"):
        sure, vague, after = (_any(words[name][kind]) for kind in ("before", "before_years", "after"))
        lead = rf"(?P<{name}>\b(?:aged?\s+)?"
        found.read(rf"{lead}\b(?:{sure})){of}{number}\b{end}", half_open)
        found.read(rf"{lead}\b(?:{vague})){of}{number}[\s-]*{YEARS}", half_open)
        sign = ">" if name == "older" else "<"
        found.read(
            rf"(?P<{name}>(?:\baged?\s*)?(?<![xyz])(?<![xyz]\s)(?:{sign}=?|{'≥' if sign == '>' else '≤'}))"
            rf"\s*{number}\b{end}",
            half_open,
        )
        found.read(
            rf"(?P<{name}>(?:\baged?\s+)?){BEFORE}{number}(?:[\s-]*{YEARS})?[\s-]*(?:{after})", half_open
        )


def _read_distances(found: Quantities) -> None:
    """Distances from the anterior commissure, which is the origin of MNI space, and from the midline."""
    said = wordings()["understood"]["position"]
    distance = rf"{BEFORE}\+?{NUMBER}[\s-]*{UNIT}\s+(?:to\s+the\s+)?"
    for axis, signs in said["from_origin"].items():
        for sign, words in signs.items():
            found.read(
                rf"(?:\b{axis}\s*[=:]?\s*)?{distance}(?:{_any(words)})\s+(?:the\s+)?(?:{_any(said['origin'])})"
                r"(?:\s+(?:line|plane))?\b",
                lambda match, axis=axis, sign=sign: found.put(axis, sign + match[1], match[2], match),  # type: ignore[misc]
            )
    found.read(
        rf"{distance}(left|right) (?:of|from) (?:the )?(?:{_any(said['midline'])})\b",
        lambda match: found.put("x", ("-" if match[3] == "left" else "") + match[1], match[2], match),
    )


def _read_coordinates(found: Quantities, between: str) -> None:
    """Coordinates such as "z = -12 mm"; PromptError for a range of them."""
    range_ = re.search(
        rf"\b[xyz]{between}[+-]?\s?{NUMBER}\s*(?:{UNIT})?\s*(?:-|to\b)\s*[+-]?{NUMBER}\b(?!\s*{YEARS})",
        found.text,
    )
    if range_:
        raise PromptError(
            f"{range_.group()!r} is a range, and a slice has one place; say for example "
            f"'{range_.group()[0]} = {range_[1]} mm'"
        )
    found.read(
        rf"\b([xyz]){between}([+-]?)\s?{NUMBER}(?:\s*{UNIT})?",
        lambda match: found.put(match[1], match[2] + match[3], match[4], match),
    )


def _any(words: Iterable[str]) -> str:
    """A pattern for any of some words, the longest first."""
    return _any_of(tuple(words))


@lru_cache(maxsize=64)
def _any_of(words: tuple[str, ...]) -> str:
    ordered = sorted(set(words), key=lambda word: (-len(word), word))
    return "|".join(re.escape(word.lower()).replace(r"\ ", r"\s+") for word in ordered)
