"""Report: the figures as a table that a person can read."""

from __future__ import annotations

from typing import Any

ADHERENCE = (
    ("plane", "plane right"),
    ("contrast", "contrast right"),
    ("position", "judged within 8 mm"),
    ("age_order", "age order (Spearman)"),
    ("age_error", "age error, years"),
    ("sex", "sex right"),
)


def shown(figure: dict[str, Any] | None) -> str:
    """A figure as "0.97 (0.95 to 0.99, n 200)"."""
    if not figure or figure.get("value") is None:
        return "-"
    n = f"n {figure['n']}" + (f" of {figure['subjects']} subjects" if "subjects" in figure else "")
    between = "" if figure["low"] is None else f"{figure['low']:.3g} to {figure['high']:.3g}, "
    chance = f"; chance {figure['chance']:.3g}" if "chance" in figure else ""
    return f"{figure['value']:.3g} ({between}{n}{chance})"


def markdown(report: dict[str, Any]) -> str:
    """The report's tables in Markdown: value (95 % interval, n)."""
    lines = [f"# {report['model']} on the {report['split']} split", "", "Value (95 % interval, n).", ""]
    judged, judge = report["adherence"], report["judge"]["held_out"]
    lines += table(
        [
            "by the judge",
            "generated",
            "nearest held-out slices",
            *(f"all held-out: {name}" for name in judge),
        ],
        [
            [
                text,
                *(
                    shown(part.get(key))
                    for part in (judged["generated"], judged["held_out"], *judge.values())
                ),
            ]
            for key, text in ADHERENCE
        ],
    )
    for name, part in report["adapters"].items():
        rows = [
            [text, shown(part["base"].get(key)), shown(part["adapter"].get(key))] for key, text in ADHERENCE
        ]
        lines += table([f"adapter {name}", "base", "adapter"], rows)
    for name, part in report["retrieval"].items():
        rows = [[key, shown(value)] for key, value in part.items() if isinstance(value, dict)]
        lines += table([f"retrieval, {name}, {part['pool']} candidates", ""], rows)
    kinds = list(dict.fromkeys(key for part in report["zero_shot"].values() for key in part))
    rows = [[kind, *(shown(part.get(kind)) for part in report["zero_shot"].values())] for kind in kinds]
    lines += table(["CLIP alone, zero-shot", *report["zero_shot"]], rows)
    lines += _embeddings(report["embeddings"])
    kinds = list(next(iter(report["reconstruction"].values())))
    rows = [[kind, *(shown(part[kind]) for part in report["reconstruction"].values())] for kind in kinds]
    lines += table(["autoencoder", *report["reconstruction"]], rows)
    if "timing" in report:
        cold, warm = report["timing"]["cold"], report["timing"]["warm_seconds_a_slice"]
        machine = report["timing"]["machine"]
        rows = [
            [
                "cold command to picture, s",
                f"{cold['seconds']['value']:.2f}; first {cold['first_seconds']:.2f}",
            ],
            ["peak memory, MB", str(cold["peak_mb"])],
            ["warm, s a slice, one", f"{warm['one']['value']:.3f}"],
            [f"warm, s a slice, {warm['together']['pictures']} together", f"{warm['together']['value']:.3f}"],
        ]
        lines += table(
            [f"time on {machine['threads']} threads, load {machine.get('load', 'not known')}", ""], rows
        )
    return "\n".join(lines)


def _embeddings(part: dict[str, Any]) -> list[str]:
    """The tables of the prior and its baselines."""
    heads = {
        "cosine": "cosine to the true one",
        "whitened": "whitened",
        "r1": f"R@1 of {part['candidates']}",
        "r10": "R@10",
    }
    rows = [[name, *(shown(part[kind].get(name)) for kind in heads)] for name in part["cosine"]]
    lines = table(["image embedding from a caption", *heads.values()], rows)
    spread = part["spread"]
    rows = [[name, *(shown(spread[space][name]) for space in spread)] for name in spread["cosine"]]
    return lines + table(["spread: mean cosine among", "as they are", "whitened"], rows)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] + [""]
