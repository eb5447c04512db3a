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
DISTRIBUTION = (
    ("fid", "FID"),
    ("fid_infinity", "FID, infinitely many"),
    ("kid", "KID"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("density", "density"),
    ("coverage", "coverage"),
    ("vendi", "Vendi score"),
    ("vendi_real", "of as many held-out slices"),
)
GREY = (
    ("wasserstein", "Wasserstein"),
    ("jensen_shannon", "Jensen-Shannon"),
    ("kolmogorov_smirnov", "Kolmogorov-Smirnov"),
)
RATIOS = {"grey_to_white": "grey to white matter", "fluid_to_white": "fluid to white matter"}
FLOOR = "training slices of other people (floor)"
MOST_TEXTURES = 8  # features in the report, the largest differences first


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
    lines += [*_distribution(report["distribution"]), *_grey(report["grey"]), *_texture(report["texture"])]
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


def _distribution(part: dict[str, Any]) -> list[str]:
    """Of each extractor all contrasts with every measure, then FID, KID and coverage of each contrast."""
    lines: list[str] = []
    for name, found in part.items():
        title = f"against held-out slices, by {name} {found['hash']}"
        groups = dict(found["groups"])
        whole = groups.pop("all", None)
        if whole is not None:
            sizes = whole["made"]["n"]
            rows = [
                [text, shown(whole["made"][key]), shown(whole["floor"][key])] for key, text in DISTRIBUTION
            ]
            lines += table([f"{title}, {sizes['real']} of them", "generated", FLOOR], rows)
            lines += [f"Note: {sentence}." for sentence in whole["made"]["warnings"]] + [""]
        rows = [
            [f"{contrast}, {key}", shown(group["made"][key]), shown(group["floor"][key])]
            for contrast, group in groups.items()
            for key in ("fid", "kid", "coverage")
        ]
        lines += table([f"{title}, each contrast", "generated", FLOOR], rows) if rows else []
    return lines


def _grey(part: dict[str, Any]) -> list[str]:
    """Distances of grey levels, and ratios of tissues."""
    rows = [
        [f"{contrast}, {text}", shown(group["made"][key]), shown(group["floor"][key])]
        for contrast, group in part.items()
        for key, text in GREY
    ]
    lines = table(["grey levels in the brain, distance to held-out slices", "generated", FLOOR], rows)
    rows = [
        [
            f"{contrast}, {RATIOS[name]}",
            shown(ratio["real"]),
            " to ".join(f"{end:.3g}" for end in ratio["range"] or ()) or "-",
            shown(ratio["made"]),
            shown(ratio["inside"]),
            shown(ratio["floor"]),
        ]
        for contrast, group in part.items()
        for name, ratio in group.get("ratios", {}).items()
    ]
    heads = ("held-out, median", "95 % of them", "generated, median", "share within", "of the floor's slices")
    return lines + table(["ratio of mean grey", *heads], rows)


def _texture(part: dict[str, Any]) -> list[str]:
    """How many features differ, and which differ most."""
    rows = [
        [contrast, *(f"{group[kind]['different']} of {group[kind]['of']}" for kind in ("made", "floor"))]
        + [f"{group[kind]['mean_size']:.2f}" for kind in ("made", "floor")]
        for contrast, group in part.items()
    ]
    heads = ["generated", "floor", "mean size of Cliff's delta, generated", "floor"]
    lines = table(["texture: features that differ from held-out slices", *heads], rows)
    for contrast, group in list(part.items())[:1]:
        features = group["made"]["features"]
        worst = sorted(features, key=lambda name: -abs(features[name]["value"]))[:MOST_TEXTURES]
        rows = [[n, shown(features[n]), shown(group["floor"]["features"][n])] for n in worst]
        lines += table([f"largest differences, {contrast}: Cliff's delta", "generated", FLOOR], rows)
    return lines


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
