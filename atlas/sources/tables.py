"""Tables as they come: headings in any order and spelling, blanks, byte-order marks, people listed twice."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.errors import SourceError

OLDEST = 120.0  # years; beyond it, and at 0 or below, an age is a typing error
ILLNESS_COLUMNS = ("pathology", "diagnosis", "dx", "disease", "patient")  # where "none" says something
# a column under our own name <- what tables call it; case, blanks and underscores do not count
PERSON_HEADINGS = {
    "age": ("age", "age_at_scan", "age_at_visit", "age_years", "age_in_years", "age_yrs", "age (years)"),
    "sex": ("sex", "gender"),
    "handedness": ("handedness", "hand", "dominant_hand"),
    "session_id": ("session_id", "session", "visit"),
}
BLANKS = ("", "n/a", "na", "nan", "none", "null", "#n/a", ".", "?")
SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
HANDS = {"l": "left", "left": "left", "r": "right", "right": "right"} | dict.fromkeys(
    ("a", "ambidextrous", "both"), "ambidextrous"
)


def find_table(folder: Path, patterns: Sequence[str], *, deep: bool = False) -> Path | None:
    """The table by the first pattern that fits, in the folder or in the one above; None where there is none.

    deep: look into the folders below as well. Raises SourceError when a pattern fits two tables.
    """
    for pattern in patterns:
        here = folder.rglob(pattern) if deep else folder.glob(pattern)
        for found in (sorted(here), sorted(folder.parent.glob(pattern))):
            if len(found) > 1:
                raise SourceError(
                    f"{folder}: {found[0].name} and {found[1].name} may both be its table; leave one there"
                )
            if found:
                return found[0]
    return None


def need_table(folder: Path, name: str, patterns: Sequence[str]) -> Path:
    """The table that find_table finds. Raises SourceError, which calls it `name`, when there is none."""
    path = find_table(folder, patterns)
    if path is None:
        raise SourceError(f"{folder}: {name} is not there or in the folder above; put it there")
    return path


def read_table(
    path: Path, headings: Mapping[str, Sequence[str]], *, need: Sequence[str]
) -> list[dict[str, str]]:
    """The rows under our own names: headings maps each name to what the table may call that column.

    Case, blanks and underscores in headings do not count. Cells are stripped, and "" where nothing is known
    or the table has no such column. Raises SourceError for a missing column of `need`, headings or rows.
    """
    rows = read_rows(path)
    given = {_plain(heading): heading for heading in rows[0] if heading}
    columns: dict[str, str | None] = {}
    for name, said in headings.items():
        columns[name] = next((given[_plain(one)] for one in said if _plain(one) in given), None)
        if columns[name] is None and name in need:
            raise _missing(path, said[0], rows[0])
    return [
        {name: cell(row[column], name) if column else "" for name, column in columns.items()} for row in rows
    ]


def headed(path: Path, row: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The names of PERSON_HEADINGS -> the heading that this table has for it; and sentences on headings that
    look like an age or a sex and are not read."""
    given = {_plain(heading): heading for heading in row if heading}
    found: dict[str, str] = {}
    for name, said in PERSON_HEADINGS.items():
        heading = next((given[_plain(one)] for one in said if _plain(one) in given), None)
        if heading is not None:
            found[name] = heading
    doubts = []
    for name, look in (("age", "age"), ("sex", "sex"), ("sex", "gender")):
        like = [heading for plain, heading in given.items() if plain.startswith(look) or plain.endswith(look)]
        if like and name not in found:
            doubts.append(f"column {like[0]!r} is not read; call it {name} if it is that")
    return found, doubts


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .csv, .tsv or .xls table as they stand. Raises SourceError when there are none."""
    if path.suffix == ".xlsx":
        raise SourceError(f"{path}: a workbook that is not read here; save its first sheet as .csv beside it")
    names, rows = _xls_rows(path) if path.suffix == ".xls" else _text_rows(path)
    plain = [_plain(name) for name in names if name]
    twice = next((name for name in plain if plain.count(name) > 1), None)
    if twice:
        raise SourceError(f"{path}: the column {twice!r} is there twice; take one out")
    if not rows:
        raise SourceError(f"{path}: the table has no rows; use the table that the data set distributes")
    return rows


def need_column(path: Path, rows: Sequence[Mapping[str, Any]], column: str) -> None:
    """Raises SourceError when the rows have no column of exactly this name."""
    if column not in rows[0]:
        raise _missing(path, column, rows[0])


def by_id(rows: Iterable[Mapping[str, str]], name: str = "id") -> dict[str, dict[str, str]]:
    """One row an id, out of all its rows; rows without an id do not count.

    A blank is filled from another row. Where rows differ the cell names both ("74 and 75"), which no reader
    of a cell takes for a value, so that the difference is reported and neither is believed.
    """
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        if not row[name]:
            continue
        one = table.setdefault(row[name], dict(row))
        for column, value in row.items():
            known = one[column].split(" and ")
            if not one[column]:
                one[column] = value
            elif value and not any(_same(value, other) for other in known):
                one[column] = f"{one[column]} and {value}"
    return table


def person_facts(given: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """What the cells age, sex, handedness and site say, in our words, and what in them was not understood."""
    facts: dict[str, Any] = {}
    doubts = []
    if given.get("age"):
        age = number(given["age"])
        if age is not None and 0 < age <= OLDEST:
            facts["age"] = age
        else:
            doubts.append(f"age {given['age']!r} dropped: not a number of years above 0 and up to {OLDEST:g}")
    for column, words in (("sex", SEXES), ("handedness", HANDS)):
        said = given.get(column)
        if said:
            if said.lower() in words:
                facts[column] = words[said.lower()]
            else:
                doubts.append(f"{column} {said!r} dropped: known are {', '.join(words)}")
    if given.get("site"):
        facts["site"] = given["site"]
    return facts, doubts


def cell(value: Any, column: str = "") -> str:
    """A cell as text, "" for everything that stands for "not known"; column: under our own name."""
    text = "" if value is None else str(value).strip()
    if text.lower() == "none" and column in ILLNESS_COLUMNS:
        return text
    return "" if text.lower() in BLANKS else text


def number(value: Any) -> float | None:
    """The number in a cell, with a decimal point or comma, or None."""
    if isinstance(value, str) and "." not in value:
        value = value.replace(",", ".")
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if found == found else None  # not NaN


def with_point(value: str, low: float, high: float) -> float | None:
    """The number in a cell, between low and high (less than ten times low), or None.

    Copies of OASIS tables have lost the decimal point (0.743 became 743, 0.81 became 810 or 81): a number
    above high is divided by ten until it fits, and there is one such number at most.
    """
    found = number(value)
    if found is None or not 0 < found < 1e6:
        return None
    while found > high:
        found /= 10
    return round(found, 6) if found >= low else None


def _plain(heading: str) -> str:
    return re.sub(r"[\s_]+", "", heading).lower()


def _same(one: str, other: str) -> bool:
    left, right = number(one), number(other)
    if left is None or right is None:
        return one.lower() == other.lower()
    return abs(left - right) <= 0.01  # rounding in one of two copies


def _missing(path: Path, column: str, first: Mapping[str, Any]) -> SourceError:
    names = [str(name) for name in first]
    if len(names) == 1 and len(names[0].split()) > 1:
        return SourceError(
            f"{path}: its columns are not separated by tabs (.tsv), commas or semicolons (.csv)"
        )
    if any(number(name) is not None for name in names):
        return SourceError(
            f"{path}: its first line holds values ({', '.join(names[:4])}), not headings; put the line with "
            f"{column!r} and the other headings back"
        )
    return SourceError(f"{path}: column {column!r} is missing; the table has {', '.join(names)}")


def _text_rows(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The headings and the rows of a text table."""
    try:
        # -sig: some tables begin with a byte-order mark
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = "\t" if path.suffix == ".tsv" else max(",;\t", key=first.count)
            table = csv.DictReader(file, delimiter=delimiter)
            rows = [{name.strip(): value for name, value in row.items() if name} for row in table]
            return list(table.fieldnames or ()), rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{path}: not a text table ({error}); use the table that the data set distributes"
        ) from error


def _xls_rows(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The headings and the rows of the first sheet of an Excel 97 table."""
    import xlrd

    try:
        sheet = xlrd.open_workbook(path).sheet_by_index(0)
    except Exception as error:  # xlrd raises a dozen kinds for damaged files
        raise SourceError(
            f"{path}: not an Excel 97 table ({error}); download it again or save it as .csv"
        ) from error
    if sheet.nrows == 0:
        return [], []
    names = [str(name).strip() for name in sheet.row_values(0)]
    return names, [dict(zip(names, sheet.row_values(i), strict=True)) for i in range(1, sheet.nrows)]
