"""Memorisation: whether generated slices are copies of training slices, by what real strangers look like.

Held-out people cannot be copies. How near their slices come to training slices says how near is near: a
threshold with a known share of false alarms, against which the pictures are held.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from brainclip.errors import BrainclipError
from brainclip.evaluate.classifier import area
from brainclip.evaluate.figures import bootstrap, proportion, shown
from brainclip.evaluate.nearness import Features, Nearest, Slices, joined, nearest

EACH = 3  # real slices of different people taken for each picture, and more of them for few pictures
ENOUGH = 600  # of such slices
TAIL = 0.05  # of the held-out slices, from whose spread the limit of a single copy is extrapolated
SET_LEVEL = 0.01  # chance that a set of pictures without copies fails, for each of the two tests
MEMBERSHIP = 0.6  # lower end of the AUC above which a set fails; 0.51 for the bundled model's adapter
SPLITS = 200
WORST = 20
# A held-out person of whose slices this share is nearest to one training person is probably that person:
# IXI383 has 0.65 with IXI384, of the same age to the day, sex and site; 27 others have 0.29 at most.
SAME_SHARE = 0.5


def memorisation(
    pictures: Slices,
    training: Slices,
    held_out: Slices,
    *,
    within_mm: float = 6.0,
    false_alarm: float = 0.01,
    features: Features | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures and verdict of a set of pictures, in plain JSON types.

    pictures are compared with training slices of the same plane and contrast at most within_mm away, and so
    are held-out slices of the same kinds and positions. false_alarm: share of held-out slices beyond the
    threshold. features: a second space to report (the verdict is by details, see nearness).
    details, features: threshold, copy_limit, beyond (of the pictures), p, copies, quantiles, false_alarms
    (measured). membership: AUC with which training people's slices lie nearer to the pictures than held-out
    people's. same_person: held-out people who seem to be training people; they are left out of all this.
    duplicates: pictures nearer to another picture than people are to each other. worst: rows of up
    to 20 pictures and their training slices. verdict: passes, because.
    BrainclipError where nothing can be compared.
    """
    generator = np.random.default_rng(seed)
    chosen = held_out.take(_matched(held_out, pictures, within_mm, generator))
    members = training.take(_matched(training, pictures, within_mm, generator))
    near, real = _parted(nearest(joined([pictures, chosen]), training, within_mm=within_mm), len(pictures))
    known = same_people(real, chosen, training)
    strangers = np.flatnonzero(~np.isin(chosen.subject, [pair["held_out"] for pair in known]))
    chosen, real = chosen.take(strangers), real.take(strangers)
    measured = np.isfinite(near.relative)
    if not measured.any() or np.isfinite(real.relative).sum() < 1 / false_alarm:
        raise BrainclipError(
            f"{measured.sum()} pictures and {np.isfinite(real.relative).sum()} held-out slices have enough "
            f"training people to compare with; at least 1 and {1 / false_alarm:.0f} are needed: give more "
            "pictures, more pairs, or pairs of their plane and contrast"
        )
    report: dict[str, Any] = {
        "pictures": len(pictures),
        "without_comparison": int((~measured).sum()),
        "training": {"slices": len(training), "subjects": len(np.unique(training.subject))},
        "held_out": {"slices": len(chosen), "subjects": len(np.unique(chosen.subject))},
        "same_person": known,
        "within_mm": within_mm,
        "details": _judged(near, real, chosen.subject, false_alarm),
    }
    if features is not None:
        found = nearest(joined([pictures, chosen]), training, within_mm=within_mm, features=features)
        report["features"] = _judged(*_parted(found, len(pictures)), chosen.subject, false_alarm)
    report["membership"] = _membership(pictures, members, chosen, within_mm)
    report["duplicates"] = _duplicates(pictures, real, within_mm, false_alarm)
    report["worst"] = [
        {
            "picture": int(row),
            "training": int(near.row[row]),
            "relative": round(float(near.relative[row]), 4),
            "distance": round(float(near.distance[row]), 4),
        }
        for row in np.argsort(near.relative)[: min(WORST, int(measured.sum()))]
    ]
    report["verdict"] = _verdict(report)
    return report


def _parted(near: Nearest, n: int) -> tuple[Nearest, Nearest]:
    """The first n and the others: both together are one pass through the reference."""
    return near.take(np.arange(n)), near.take(np.arange(n, len(near.row)))


def _matched(real: Slices, pictures: Slices, within_mm: float, draw: np.random.Generator) -> np.ndarray:
    """Rows of real slices of kinds and positions of the pictures: for each some, of different people."""
    each = max(EACH, ENOUGH // len(pictures))
    rows: set[int] = set()
    for kind, position in zip(pictures.kind, pictures.position_mm, strict=True):
        near = np.flatnonzero((real.kind == kind) & (np.abs(real.position_mm - position) <= within_mm))
        people = np.unique(real.subject[near])
        for person in draw.permutation(people)[:each]:
            rows.add(int(draw.choice(near[real.subject[near] == person])))
    return np.array(sorted(rows), dtype=int)


def same_people(near: Nearest, held_out: Slices, training: Slices) -> list[dict[str, Any]]:
    """Held-out people of whose slices at least SAME_SHARE are nearest to one training person, and that one.

    Only where this is no chance: binomial test against how often that one is nearest to the others' slices.
    """
    kept = near.row >= 0
    person, other = held_out.subject[kept], training.subject[near.row[kept]]
    people, found = np.unique(person), []
    for one in people:
        names, counts = np.unique(other[person == one], return_counts=True)
        name, hits, n = str(names[counts.argmax()]), int(counts.max()), int(counts.sum())
        elsewhere = float((other[person != one] == name).mean()) if len(people) > 1 else 0.0
        chance = max(elsewhere, 1 / len(np.unique(training.subject)))
        p = stats.binomtest(hits, n, chance, alternative="greater").pvalue * len(people)
        if hits >= SAME_SHARE * n and p < SET_LEVEL:
            found.append({"held_out": str(one), "training": name, "share": round(hits / n, 3), "n": n})
    return found


def limits(relative: np.ndarray, false_alarm: float, n: int) -> tuple[float, float]:
    """The threshold, `false_alarm`'s quantile of the relative distances of held-out slices, and the limit of
    a single copy, which one set in 1 / SET_LEVEL of n pictures of strangers would fall below.

    The limit lies beyond what was seen: the nearest TAIL of -log(relative) is taken for exponential.
    """
    near = -np.log(np.maximum(relative, 1e-6))
    start = np.quantile(near, 1 - TAIL)
    scale = (near[near >= start] - start).mean()
    limit = start + scale * np.log(TAIL * n / SET_LEVEL)
    threshold = float(np.quantile(relative, false_alarm))
    return threshold, min(threshold, float(np.exp(-limit)))


def _tests(found: np.ndarray, real: np.ndarray, subjects: np.ndarray, false_alarm: float) -> dict[str, Any]:
    """Both tests of a set's relative distances `found` against those of held-out slices.

    p: binomial test of the number beyond the threshold against the upper end (95 %, people drawn again) of
    the share of held-out slices beyond it, since slices of one person are near or far together.
    """
    threshold, limit = limits(real, false_alarm, len(found))
    names, person = np.unique(subjects, return_inverse=True)
    hits = np.bincount(person, real <= threshold, len(names))
    count = np.bincount(person, minlength=len(names))
    draws = np.random.default_rng(0).integers(0, len(names), (1000, len(names)))
    share = float(np.quantile(hits[draws].sum(1) / count[draws].sum(1), 0.975))
    beyond = int((found <= threshold).sum())
    p = float(stats.binomtest(beyond, len(found), share, alternative="greater").pvalue)
    return {
        "threshold": round(threshold, 4),
        "copy_limit": round(limit, 4),
        "allowed_share": round(share, 4),
        "beyond_count": beyond,
        "p": p,
        "copies": int((found <= limit).sum()),
    }


def _fails(tests: dict[str, Any]) -> bool:
    return bool(tests["p"] < SET_LEVEL or tests["copies"])


def false_alarms(relative: np.ndarray, subjects: np.ndarray, false_alarm: float) -> dict[str, Any]:
    """How often strangers are taken for copies: SPLITS times half of the held-out people stand for a
    generated set, and the other half gives the limits.

    per_picture: share of their slices beyond the threshold (mean, and the middle 95 % of the splits);
    per_set: share of the splits that fail by the nearness of single pictures.
    """
    people, generator = np.unique(subjects), np.random.default_rng(1)
    if len(people) < 4:
        return {"splits": 0, "per_picture": None, "per_set": None}
    shares, failed = [], 0
    for _ in range(SPLITS):
        as_made = np.isin(subjects, generator.permutation(people)[: len(people) // 2])
        tests = _tests(relative[as_made], relative[~as_made], subjects[~as_made], false_alarm)
        shares.append(tests["beyond_count"] / as_made.sum())
        failed += _fails(tests)
    low, high = np.quantile(shares, (0.025, 0.975))
    return {
        "splits": SPLITS,
        "per_picture": [round(float(value), 4) for value in (np.mean(shares), low, high)],
        "per_set": failed / SPLITS,
    }


def _judged(near: Nearest, real: Nearest, subjects: np.ndarray, false_alarm: float) -> dict[str, Any]:
    """The tests, the share beyond the threshold, quantiles, and the false alarms as measured."""
    kept, measured = np.isfinite(real.relative), near.relative[np.isfinite(near.relative)]
    relative, subjects = real.relative[kept], subjects[kept]
    tests = _tests(measured, relative, subjects, false_alarm)
    return tests | {
        "beyond": proportion(measured <= tests["threshold"]),
        "quantiles": {
            name: [round(float(q), 4) for q in np.quantile(values, (0, 0.01, 0.05, 0.5, 0.95))]
            for name, values in (("pictures", measured), ("held_out", relative))
        },
        "false_alarms": false_alarms(relative, subjects, false_alarm),
    }


def _membership(pictures: Slices, members: Slices, strangers: Slices, within_mm: float) -> dict[str, Any]:
    """Area under the curve of guessing who was trained on by the distance to the nearest picture."""
    apart = nearest(joined([members, strangers]), pictures, within_mm=within_mm).distance
    inside = np.repeat([True, False], [len(members), len(strangers)])
    subjects = np.concatenate([members.subject, strangers.subject])
    kept = np.isfinite(apart)
    apart, inside, subjects = apart[kept], inside[kept], subjects[kept]

    def auc(rows: np.ndarray) -> float:
        members = inside[rows]
        if members.all() or not members.any():
            return float("nan")
        return area(-apart[rows][~members], -apart[rows][members])

    return bootstrap(auc, len(apart), subjects)


def _duplicates(pictures: Slices, real: Nearest, within_mm: float, false_alarm: float) -> dict[str, Any]:
    """The share of pictures nearer to another one than all but `false_alarm` of people to the training's."""
    limit = float(np.nanquantile(real.distance, false_alarm))
    apart = nearest(pictures, pictures, within_mm=within_mm, own=True).distance
    return {"distance": round(limit, 4)} | proportion(apart[np.isfinite(apart)] <= limit)


def _verdict(report: dict[str, Any]) -> dict[str, Any]:
    """passes, and the sentences with the numbers that decide."""
    tests, n, member = report["details"], report["details"]["beyond"]["n"], report["membership"]
    because = [
        f"{tests['copies']} of {n} pictures lie below the copy limit, a relative distance of "
        f"{tests['copy_limit']:.3f}; none may (the nearest: {report['worst'][0]['relative']:.3f})",
        f"{tests['beyond_count']} of {n} pictures ({tests['beyond']['value']:.2%}) lie below the threshold, "
        f"{tests['threshold']:.3f}; of strangers' slices up to {tests['allowed_share']:.2%} do "
        f"(p {tests['p']:.2g}; below {SET_LEVEL:g} fails)",
        "by the distance to the pictures training people are told from strangers with an AUC of "
        f"{shown(member)}; a lower end above {MEMBERSHIP} fails",
    ]
    return {"passes": not (_fails(tests) or (member["low"] or 0) > MEMBERSHIP), "because": because}
