"""Who counts as healthy: the rule of each data set, as its documentation has it, and who stays besides.

A caption says "healthy" only of those whom the rule calls so. Whoever else is to stay is named with `keep`:
values of the data set's health column, "blank" for an empty cell, "all" for everyone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from atlas.errors import SourceError
from atlas.sources.scan import Notes, Scan, note
from atlas.sources.tables import ILLNESS_COLUMNS, cell, number

SAID = (
    "a column pathology, diagnosis, disease, patient, health or group (cohort, condition, status) says "
    "healthy, control or none, and no other such column says anything else; without such a column, everyone"
)
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

GROUP_COLUMNS = (
    *("group", "cohort", "condition", "status", "dx_group", "diagnostic_group", "clinical_group"),
    *("clinical_status", "patient_group", "participant_group", "participant_type"),
)
HEALTH_COLUMNS = (*ILLNESS_COLUMNS, "health", *GROUP_COLUMNS)
# words of a group column that is about illness, whether or not it has controls
PATIENT_WORDS = {
    *("patient", "patients", "case", "cases", "ill", "affected", "impaired", "symptomatic"),
    *("ad", "mci", "emci", "lmci", "smc", "ftd", "dlb", "lbd", "als", "ms", "pd", "hd", "tbi", "dementia"),
    *("demented", "alzheimer", "alzheimers", "parkinson", "parkinsons", "huntington", "stroke", "epilepsy"),
    *("schizophrenia", "scz", "sz", "psychosis", "bipolar", "bd", "depression", "depressed", "mdd", "ptsd"),
    *("autism", "asd", "adhd", "ocd", "tumor", "tumour", "glioma", "migraine"),
}
HEALTHY_WORDS = {
    *("healthy", "control", "controls", "normal", "nondemented", "undemented", "unaffected", "unimpaired"),
    *("neurotypical", "hc", "hv", "hs", "cn", "cu", "nc", "nl", "nt", "con", "ctl", "ctr", "ctrl", "td"),
}
TWO_WORDS = {"typically developing": "td", "non demented": "nondemented"}
# what may stand beside them: "Healthy control subject", "cognitively normal older adults"
PEOPLE_WORDS = {
    *("subject", "subjects", "participant", "participants", "volunteer", "volunteers", "person", "people"),
    *("adult", "adults", "individual", "individuals", "group", "brain", "age", "matched", "comparison"),
    *("aging", "ageing"),
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
    if first in ("no", "none", "without", "0", "false", "n"):
        return set(others) <= ILLNESS_WORDS if others else column in ILLNESS_COLUMNS
    said_so = {first, *others}
    return bool(said_so & HEALTHY_WORDS) and said_so <= HEALTHY_WORDS | PEOPLE_WORDS


def health_columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns that tell the healthy from the others; of groups those that name controls or patients."""
    found = []
    for column in HEALTH_COLUMNS:
        said = {row.get(column, "") for row in rows} - {""}
        if said and (column not in GROUP_COLUMNS or any(is_healthy(word) or _is_ill(word) for word in said)):
            found.append(column)
    return found


def _is_ill(said: str) -> bool:
    """Whether a group's name has a word for patients."""
    return bool(set(re.split(r"[^a-z]+", said.lower().replace("'", ""))) & PATIENT_WORDS)


def standing_of(row: Mapping[str, str], columns: Sequence[str]) -> tuple[str | None, bool]:
    """What a row says of a person's health, and whether that is healthy: one column at least says so, and
    none says another thing. None where there are no such columns, "" where they are blank."""
    if not columns:
        return None, False
    said = {column: row[column] for column in columns if row.get(column)}
    ill = [value for column, value in said.items() if not is_healthy(value, column)]
    if ill:
        return " and ".join(dict.fromkeys(ill)), False
    return next(iter(said.values()), ""), bool(said)


NO_COLUMN = (
    "no column tells who is healthy (such as pathology, diagnosis, or group with controls); everyone stays"
)


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
