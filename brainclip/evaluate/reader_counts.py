"""Reader study: tables of a published study from its counts, to print beside one's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from scipy import stats

from atlas.files import write_whole
from brainclip.errors import RecipeError
from brainclip.evaluate.reader import Scale
from brainclip.evaluate.reader_tables import bars, good_share, pictures_needed
from brainclip.weights import write_json

SCALE = Scale("good", "Share of good ratings", ("not good", "good"), 2)


@dataclass(frozen=True)
class CountRecipe:
    """One group of pictures. good of n ratings, or the share alone where no count was published.

    phase: groups of one phase are compared with each other.
    """

    phase: str = ""
    good: int = 0
    n: int = 0
    share: float = -1.0


@dataclass(frozen=True)
class CountsRecipe:
    """Where the counts come from, and the groups by name."""

    source: str = ""
    group: dict[str, CountRecipe] = field(default_factory=dict)


def write_counts(recipe: CountsRecipe, out: Path) -> dict[str, Any]:
    """groups: name -> phase, good (value, low, high, n); comparisons: Fisher's exact p and pictures needed.

    report.json, report.md and bars.png in `out`. RecipeError for counts that cannot be.
    """
    for name, row in recipe.group.items():
        if not (0 <= row.good <= row.n and (row.n > 0) != (0 <= row.share <= 1)):
            raise RecipeError(f"[group.{name}]: give good and n, 0 to n, or a share from 0 to 1 alone")
    groups: dict[str, dict[str, Any]] = {
        name: {"phase": row.phase, "good": good_share([row.n - row.good, row.good], SCALE.good)}
        if row.n
        else {"phase": row.phase, "good": {"value": row.share, "low": None, "high": None, "n": None}}
        for name, row in recipe.group.items()
    }
    compared = []
    for a, b in combinations(recipe.group, 2):
        first, second = recipe.group[a], recipe.group[b]
        if first.phase != second.phase:
            continue
        shares = groups[a]["good"]["value"], groups[b]["good"]["value"]
        p = None
        if first.n and second.n:
            table = [[first.good, first.n - first.good], [second.good, second.n - second.good]]
            p = float(stats.fisher_exact(table).pvalue)
        compared.append({"groups": [a, b], "needed": pictures_needed(*shares), "p": p})
    report = {"source": recipe.source, "groups": groups, "comparisons": compared}
    out.mkdir(parents=True, exist_ok=True)
    counted = {name: [row.n - row.good, row.good] for name, row in recipe.group.items() if row.n}
    if counted:
        bars(counted, SCALE, out / "bars.png", note=recipe.source)
    write_whole(out / "report.md", as_markdown(report))
    write_json(out / "report.json", report)
    return report


def as_markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    lines = ["# Good shares from published counts", "", report["source"], ""]
    lines += ["| group | phase | good ratings | share | 95 %, Wilson |", "|---|---|---|---|---|"]
    for name, row in report["groups"].items():
        good = row["good"]
        counted = f"{round(good['value'] * good['n'])} of {good['n']}" if good["n"] else "not published"
        between = f"{good['low']:.3f} to {good['high']:.3f}" if good["n"] else ""
        lines.append(f"| {name} | {row['phase']} | {counted} | {good['value']:.4f} | {between} |")
    if report["comparisons"]:
        lines += [
            "",
            "Needed: pictures in each group to tell the two shares apart (power 80 %, two-sided 5 %).",
        ]
        lines += ["", "| groups | p, Fisher's exact test | needed |", "|---|---|---|"]
    for row in report["comparisons"]:
        p = "" if row["p"] is None else f"{row['p']:.2g}"
        lines.append(f"| {' and '.join(row['groups'])} | {p} | {row['needed'] or 'no number'} |")
    return "\n".join(lines) + "\n"
