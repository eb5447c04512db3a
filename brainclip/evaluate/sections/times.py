"""Times: of a picture, and of the parts of this evaluation."""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import bars


def section(report: dict[str, Any]) -> Section | None:
    """Seconds for a picture, cold and warm, and for each part of the evaluation when it was computed."""
    blocks: list[Table | Picture | str] = []
    sentences = []
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
        load = machine.get("load", "not known")
        blocks.append(Table([f"time on {machine['threads']} threads, load {load}", ""], rows))
        sentences.append(
            f"A picture takes {cold['seconds']['value']:.1f} s from the shell's command and "
            f"{warm['one']['value']:.2f} s with the model loaded (medians of {cold['seconds']['n']} and "
            f"{warm['one']['n']})."
        )
    if parts := report.get("parts"):
        seconds = {name: part["seconds"] for name, part in parts.items()}
        reused = [name for name, part in parts.items() if part["reused"]]
        saved = sum(seconds[name] for name in reused)
        sentences.append(
            f"The parts of this evaluation took {sum(seconds.values()):.0f} s when they were computed; "
            f"{len(reused)} of {len(parts)}, with {saved:.0f} s, were read from an earlier run."
        )
        what = "Seconds of each part when it was computed; grey: read from an earlier run"
        blocks.append(Picture("plots/parts.svg", what, bars(seconds, "seconds", pale=reused)))
        rows = [[n, f"{p['seconds']:.1f}", "yes" if p["reused"] else "no"] for n, p in parts.items()]
        blocks.append(Table(["part", "seconds", "read from an earlier run"], rows, folded=True))
    return Section("times", "Times", " ".join(sentences), blocks) if sentences else None
