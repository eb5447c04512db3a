"""Who counts as healthy: the rule of each data set, as its documentation has it, and who stays besides.

A caption says "healthy" only of those whom the rule calls so. Whoever else is to stay is named with `keep`:
values of the data set's health column, "blank" for an empty cell, "all" for everyone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from atlas.errors import SourceError
from atlas.sources.scan import Notes, Scan, note
from atlas.sources.tables import ILLNESS_COLUMNS, cell, number

SAID = "the column pathology, diagnosis, health or group says healthy or control; without it, everyone"
RULES = {
    "ixi": "everyone: IXI scanned healthy volunteers",
    "bids": SAID,
    "simulated": "everyone",
    "oasis1": "CDR 0, or no CDR below 60 years, where none was rated",
    "oasis2": "Group Nondemented: at every visit; Converted is not",
    "oasis3": "CDR 0 at the clinical visit nearest to the scan, at most 365 days away",
    "hcp": "everyone: HCP Young Adult took no one with a neurological or psychiatric disorder",
    "folder": SAID,
}

HEALTH_COLUMNS = (*ILLNESS_COLUMNS, "health", "group")
# words of a group column that is about illness, whether or not it has controls
PATIENT_WORDS = {
    "patient",
    "patients",
    "case",
    "cases",
    "ad",
    "mci",
    "ms",
    "pd",
    "schizophrenia",
    "depression",
}
HEALTHY_WORDS = {
    *("healthy", "control", "controls", "normal", "nondemented", "undemented", "unaffected"),
    *("hc", "cn", "nc", "nl", "con", "ctrl", "td"),
}
TWO_WORDS = {"typically developing": "td", "non demented": "nondemented"}
# what may stand beside them: "Healthy control subject", "cognitively normal older adults"
PEOPLE_WORDS = {
    *("subject", "subjects", "participant", "participants", "volunteer", "volunteers", "person", "people"),
    *("adult", "adults", "individual", "individuals", "group", "brain", "age", "matched"),
    *("cognitively", "neurologically", "elderly", "older", "young", "younger"),
}
ILLNESS_WORDS = {"known", "pathology", "diagnosis", "disease", "disorder", "abnormality", "abnormalities"}


def is_healthy(said: str, column: str = "") -> bool:
    """Whether a cell of a health column says healthy: by such words alone, or as "no known disease".

    column: its name; a bare "none" or "no" says healthy where the column is about illness.
    """
    words = re.sub(r"[\s_,/()-]+", " ", said.lower()).strip()
    for two, one in TWO_WORDS.items():
        words = words.replace(two, one)
    first, *others = words.split() or [""]
    if first in ("no", "none", "without"):
        return set(others) <= ILLNESS_WORDS if others else column in ILLNESS_COLUMNS
    said_so = {first, *others}
    return bool(said_so & HEALTHY_WORDS) and said_so <= HEALTHY_WORDS | PEOPLE_WORDS


def health_column(rows: Sequence[dict[str, str]]) -> str | None:
    """The column that tells the healthy from the others; `group` only if it names controls or patients."""
    for column in HEALTH_COLUMNS:
        said = {row.get(column, "") for row in rows} - {""}
        if said and (
            column != "group" or any(is_healthy(word) or word.lower() in PATIENT_WORDS for word in said)
        ):
            return column
    return None


def counts_as_healthy(scan: Scan) -> bool:
    """Whether the rule calls the person healthy; so it does where the data set says nothing of health."""
    return scan.standing is None or scan.known.get("health") == "healthy"


def select(scans: Sequence[Scan], source: str, keep: Sequence[str]) -> tuple[list[Scan], Notes]:
    """The scans of people who are healthy by the rule or stay by `keep`, and the others with the reason.

    A scan without a standing (its data set says nothing of health) stays. Raises SourceError for a value in
    `keep` that no scan has.
    """
    wanted = {_same(value) for value in keep}
    there = {_same(scan.standing) for scan in scans if scan.standing is not None}
    unknown = sorted(wanted - there - {"all"})
    if unknown:
        raise SourceError(
            f"keep {unknown[0]!r}: no scan of {source!r} has it; its health column says "
            f"{', '.join(sorted(there)) or 'nothing'}, and 'all' keeps everyone"
        )
    stay: list[Scan] = []
    notes: Notes = []
    for scan in scans:
        if counts_as_healthy(scan) or wanted & {"all", _same(scan.standing or "")}:
            stay.append(scan)
        else:
            reason = f"not healthy ({RULES[source]}): the table says {_same(scan.standing or '')}"
            notes.append(note(scan.subject, scan.path, reason))
    return stay, notes


def _same(standing: str) -> str:
    """A value of a health column in one spelling: "0.50" -> "0.5", "" -> "blank"."""
    found = number(standing)
    return f"{found:g}" if found is not None else (cell(standing).lower() or "blank")
