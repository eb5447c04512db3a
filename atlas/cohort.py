"""What only the whole cohort decides: who is in which split, and how large structures are for age and sex."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.structures import structures, summed

SPLITS = ("train", "validation", "test")
FEWEST = 40  # training people: eight for each of the five coefficients
FITS = 5
SEX_CODE = {"female": -0.5, "male": 0.5}  # 0 where it is not known


def assign_splits(
    subjects: Iterable[str],
    shares: tuple[float, float, float],
    *,
    seed: int,
    assigned: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Subject -> "train", "validation" or "test", in the asked shares, by a hash of seed and name.

    assigned: splits given before; they are kept. With three subjects or more no asked split stays empty.
    """
    result = dict(assigned or {})
    new = [name for name in subjects if name not in result]
    total = len(result) + len(new)
    least = [1 if share > 0 and total >= len(SPLITS) else 0 for share in shares]
    held_out = [max(least[k], round(shares[k] * total)) for k in (1, 2)]
    counts = Counter(result.values())
    places = ["validation"] * (held_out[0] - counts["validation"]) + ["test"] * (held_out[1] - counts["test"])
    order = sorted(new, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    if shares[0] == 0:
        places += ["validation" if shares[1] else "test"] * (len(order) - len(places))
    for place, name in enumerate(order):
        result[name] = places[place] if place < len(places) else "train"
    return result


def volume_percentiles(
    subjects: Iterable[Sequence[Mapping[str, Any]]],
    *,
    healthy: Container[tuple[str, str]] | None = None,
    fewest: int = FEWEST,
) -> tuple[dict[tuple[str, str], dict[str, float]], int]:
    """(subject, session) -> structure -> percentile of its volume for age and sex; and by how many people.

    subjects: the header and a line of each visit with a known age, as subjects/<subject>.jsonl has them.
    healthy: the visits (subject, session) of healthy people; None: all are. Everyone is compared with the
    healthy people of the training split, each at the first such visit, so that neither held-out people nor
    those who stay besides the healthy have an influence. Per structure, the logarithm of the volume is fitted
    by least squares to age, its square, sex and the logarithm of the brain's volume (the whole brain to age
    and sex alone), five times: each without residuals beyond 3 robust standard deviations, such as failed
    registrations have. The percentile, 0 to 100, is the rank of a residual among those people's. There is
    none with fewer than `fewest` people, for an age outside theirs, or for a structure that was not found.
    """
    visits = [visit for lines in subjects for visit in _visits(lines, healthy)]
    reference = np.array([visit.compared for visit in visits], dtype=bool)
    found: dict[tuple[str, str], dict[str, float]] = {(visit.subject, visit.session): {} for visit in visits}
    people = int(reference.sum())
    if people < fewest:
        return {}, people
    ages = np.array([visit.age for visit in visits])
    inside = (ages >= ages[reference].min()) & (ages <= ages[reference].max())
    decades = (ages - 50) / 10
    sexes = np.array([SEX_CODE.get(visit.sex or "", 0.0) for visit in visits])
    brain = np.log([visit.volumes["brain"] for visit in visits])
    design = np.stack([np.ones_like(ages), decades, decades**2, sexes, brain - brain.mean()], axis=1)
    for structure in structures():
        volume = np.array([visit.volumes.get(structure, 0.0) for visit in visits])
        known = volume > 0
        if (reference & known).sum() < fewest:
            continue
        columns = design[:, :4] if structure == "brain" else design
        ranks = _ranks(np.log(np.where(known, volume, 1.0)), columns, reference & known)
        for row in np.flatnonzero(known & inside):
            found[visits[row].subject, visits[row].session][structure] = round(float(ranks[row]), 1)
    return {visit: percentiles for visit, percentiles in found.items() if percentiles}, people


@dataclass(frozen=True)
class _Visit:
    """What is compared of a visit. volumes: structure -> native mm3; compared: it counts for the others."""

    subject: str
    session: str
    age: float
    sex: str | None
    volumes: dict[str, float]
    compared: bool


def _visits(lines: Sequence[Mapping[str, Any]], healthy: Container[tuple[str, str]] | None) -> list[_Visit]:
    """The visits of one person whose age and brain volume are known, the first in order of name in front."""
    header, *records = lines
    visits: dict[str, _Visit] = {}
    for record in sorted(records, key=lambda record: str(record["session"])):
        known, session = record["facts"]["known"], record["session"]
        volumes = summed(header["sessions"][session]["volumes"])
        if known.get("age") is None or session in visits or not volumes.get("brain"):
            continue
        compared = header["split"] == "train" and not any(visit.compared for visit in visits.values())
        compared &= healthy is None or (header["subject"], session) in healthy
        visits[session] = _Visit(
            header["subject"], session, float(known["age"]), known.get("sex"), volumes, compared
        )
    return list(visits.values())


def _ranks(values: np.ndarray, design: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Percentiles (V,) of the residuals of values (V,) on design (V, K) among those of the reference (V,)."""
    fitted = reference
    for _ in range(FITS):
        coefficients = np.linalg.lstsq(design[fitted], values[fitted], rcond=None)[0]
        residuals = values - design @ coefficients
        spread = 1.4826 * np.median(np.abs(residuals[reference]))
        fitted = reference & (np.abs(residuals) <= 3 * max(spread, 1e-9))
    among = np.sort(residuals[reference])
    below, up_to = (np.searchsorted(among, residuals, side=side) for side in ("left", "right"))
    return 100 * (below + up_to) / 2 / len(among)
