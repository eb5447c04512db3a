"""What only the whole cohort decides: who is in which split, and whose ventricles are large for the age."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SPLITS = ("train", "validation", "test")


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


def ventricle_sizes(
    subjects: Sequence[Sequence[Mapping[str, Any]]], *, fewest: int = 20
) -> dict[tuple[str, str], str]:
    """(subject, session) -> "small", "normal" or "enlarged": lateral ventricles against brain, for the age.

    subjects: the lines of each subject's file. Compared within the decade of age where at least `fewest`
    subjects are known: below the 20th percentile small, 35th to 65th normal, above the 80th enlarged;
    what lies between has no word.
    """
    decades: dict[int, list[tuple[float, str, str]]] = {}
    for header, *records in subjects:
        seen: set[str] = set()
        for record in records:
            age, session = record["facts"]["known"].get("age"), record["session"]
            if age is None or session in seen:
                continue
            seen.add(session)
            volumes = header["sessions"][session]["volumes"]
            ventricles = volumes.get("left lateral ventricle", 0.0) + volumes.get(
                "right lateral ventricle", 0.0
            )
            decades.setdefault(int(age // 10), []).append(
                (ventricles / volumes["brain"], header["subject"], session)
            )
    sizes: dict[tuple[str, str], str] = {}
    for rows in decades.values():
        if len({subject for _, subject, _ in rows}) < fewest:
            continue
        for rank, (_, subject, session) in enumerate(sorted(rows)):
            share = (rank + 0.5) / len(rows)
            if share < 0.2 or share > 0.8 or 0.35 <= share <= 0.65:
                sizes[subject, session] = "small" if share < 0.2 else "enlarged" if share > 0.8 else "normal"
    return sizes
