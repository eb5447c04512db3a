"""Plots of figures as SVG: values with their intervals, tables of shades, clouds of points, bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from brainclip.evaluate.figures import Figure

MADE, REAL, FLOOR = "#c2410c", "#1d4ed8", "#6b7280"
COLOURS = (MADE, REAL, FLOOR, "#15803d", "#a21caf")
MARKS = ("o", "s", "D", "^", "v")  # told apart without colour as well
WIDTH = 7.0  # inches


def intervals(
    rows: Mapping[str, Mapping[str, Figure | None]], axis: str, *, marks: Mapping[str, float] | None = None
) -> bytes:
    """An SVG of figures as points with their intervals: a row of the plot for each row, a colour for each
    series. axis: what the values are. marks: vertical lines by name."""
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    drawing, axes = _axes(0.9 + len(rows) * (0.16 + 0.14 * len(series)))
    for k, name in enumerate(series):
        shift = (k - (len(series) - 1) / 2) * 0.7 / max(1, len(series))
        found = [(place + shift, row.get(name)) for place, row in enumerate(rows.values())]
        points = [(place, figure) for place, figure in found if figure and figure["value"] is not None]
        for place, figure in points:
            if figure["low"] is not None:
                axes.plot([figure["low"], figure["high"]], [place] * 2, color=COLOURS[k], linewidth=1.5)
        values = [figure["value"] for _, figure in points]
        axes.plot(values, [p for p, _ in points], MARKS[k], color=COLOURS[k], markersize=5, label=name)
    for name, value in (marks or {}).items():
        axes.axvline(value, color="#999", linewidth=1, linestyle="--", label=name)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(axis)
    axes.grid(axis="x", color="#e5e5e5")
    if len(series) + len(marks or {}) > 1:
        axes.legend(
            loc="upper left", bbox_to_anchor=(0, -0.7 / drawing.get_figheight()), ncols=3, frameon=False
        )
    return _svg(drawing)


def shades(
    tables: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    form: str = "{:.0%}",
    axes_names: tuple[str, str] = ("", ""),
    limits: tuple[float, float] = (0.0, 1.0),
) -> bytes:
    """An SVG of tables (R, C), each cell shaded and written by `form`; nan and 0 are not written. Small ones
    stand side by side, large ones one below the other."""
    stacked = len(columns) > 5
    height = 1.5 + 0.34 * len(rows)
    across, down = (1, len(tables)) if stacked else (len(tables), 1)
    drawing, all_axes = _axes(
        height * down, columns=across, rows=down, width=WIDTH if stacked else 1.4 + 2.2 * across
    )
    for k, (axes, (title, values)) in enumerate(zip(np.atleast_1d(all_axes), tables.items(), strict=True)):
        axes.imshow(values, cmap="Blues", vmin=limits[0], vmax=limits[1], aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            dark = value > limits[0] + 0.6 * (limits[1] - limits[0])
            if np.isfinite(value) and value:
                text = form.format(value)
                axes.text(j, i, text, ha="center", va="center", size=7, color="white" if dark else "black")
        axes.set_title(title, fontsize=9)
        axes.set_xticks(range(len(columns)), list(columns), rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), list(rows) if k == 0 or stacked else [""] * len(rows))
        axes.set_xlabel(axes_names[1])
        axes.set_ylabel(axes_names[0] if k == 0 or stacked else "")
        axes.tick_params(length=0, labelsize=8)
    return _svg(drawing)


def cloud(sets: Sequence[tuple[str, np.ndarray, np.ndarray]], axes_names: tuple[str, str]) -> bytes:
    """An SVG of points: for each set its name, places (N, 2) and kinds (N,), which have a colour each; the
    first set is drawn with filled marks, the second with open ones."""
    drawing, axes = _axes(4.8)
    kinds = list(dict.fromkeys(kind for _, _, own in sets for kind in own))
    for k, (name, places, own) in list(enumerate(sets))[::-1]:
        for kind, colour in zip(kinds, COLOURS[::-1], strict=False):
            part = places[own == kind]
            face = colour if k == 0 else "none"
            axes.scatter(
                *part.T,
                s=14,
                marker=MARKS[k],
                facecolors=face,
                edgecolors=colour,
                linewidths=0.6,
                alpha=0.75,
                label=f"{kind}, {name}",
            )
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return _svg(drawing)


def bars(values: Mapping[str, float], axis: str, *, pale: Sequence[str] = ()) -> bytes:
    """An SVG of horizontal bars, the largest first; those named in `pale` in grey."""
    ordered = dict(sorted(values.items(), key=lambda item: -item[1]))
    drawing, axes = _axes(0.8 + 0.26 * len(ordered))
    colours = [FLOOR if name in pale else REAL for name in ordered]
    axes.barh(range(len(ordered)), list(ordered.values()), color=colours, height=0.7)
    axes.set_yticks(range(len(ordered)), list(ordered))
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    return _svg(drawing)


def reliability(panels: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """An SVG with a panel for each question: share of right answers against their confidence, a line for each
    series of bins (B, 3): mean confidence, share right, answers. On the dashed line they agree."""
    drawing, all_axes = _axes(2.2, columns=len(panels), width=2.1 * len(panels))
    for axes, (title, series) in zip(np.atleast_1d(all_axes), panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#999", linewidth=1, linestyle="--")
        for k, (name, bins) in enumerate(series.items()):
            axes.plot(*np.asarray(bins)[:, :2].T, MARKS[k] + "-", color=COLOURS[k], markersize=4, label=name)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal", xlabel="confidence")
        axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_title(title, fontsize=9)
        axes.label_outer()
    first = np.atleast_1d(all_axes)[0]
    first.set_ylabel("right")
    first.legend(loc="upper left", bbox_to_anchor=(0, -0.3), ncols=4, frameon=False, fontsize=8)
    return _svg(drawing)


def _axes(height: float, *, columns: int = 1, rows: int = 1, width: float = WIDTH) -> tuple[Any, Any]:
    """A drawing of its own, which no window and no other drawing shares."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height), layout="constrained" if rows > 1 else None)
    FigureCanvasSVG(drawing)
    axes = drawing.subplots(rows, columns)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=9)
        one.xaxis.label.set_size(9)
        one.yaxis.label.set_size(9)
    return drawing, axes


def _svg(drawing: Any) -> bytes:
    """The same bytes for the same drawing: no date, no random names."""
    import matplotlib

    buffer = BytesIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "brainclip", "font.family": "sans-serif"}
    ):
        drawing.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()
