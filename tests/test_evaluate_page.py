from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainclip.evaluate.page import Picture, Section, Table, write_page
from brainclip.evaluate.plots import bars, cloud, intervals, shades
from brainclip.evaluate.sections.words import listed, said, told_apart

FIGURE = {"value": 0.5, "low": 0.4, "high": 0.61, "n": 20, "subjects": 4}
NONE = {"value": None, "low": None, "high": None, "n": 0}


def test_both_pages_come_from_the_same_rows(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "there.png")
    table = Table(["share <right>", "made", "real"], [["plane & place", FIGURE, None], ["sex", "a", NONE]])
    plot = intervals({"plane": {"made": FIGURE, "real": NONE}}, "share")
    blocks = [
        table,
        Picture("there.png", "a slice"),
        Picture("gone.png", "none"),
        Picture("p/x.svg", "p", plot),
    ]
    sections = [Section("one", "One & two", "It is < 3.", [*blocks, "A note.", Table(["empty"], [])])]
    write_page("Title", "About.", sections, tmp_path, "page")
    markdown, page = (tmp_path / "page.md").read_text(), (tmp_path / "page.html").read_text()
    assert "| plane & place | 0.5 (0.4 to 0.61, n 20 of 4 subjects) | - |" in markdown
    assert "![a slice](there.png)" in markdown and "gone.png" not in markdown and "(p/x.svg)" in markdown
    assert (
        "plane &amp; place" in page and "<td>0.5<small>0.4 to 0.61, n 20 of 4 subjects</small></td>" in page
    )
    assert page.count("<img") == 2 and "data:image/svg+xml;base64," in page and "It is &lt; 3." in page
    assert (tmp_path / "p" / "x.svg").read_bytes() == plot and '<th scope="col">empty' not in page


@pytest.mark.parametrize(
    "draw",
    [
        lambda: intervals({"a": {"x": FIGURE, "y": None}, "b": {"x": NONE}}, "share", marks={"here": 0.5}),
        lambda: shades(
            {"made": np.array([[0.5, np.nan], [1, 0]]), "real": np.eye(2)}, ["a", "b"], ["c", "d"]
        ),
        lambda: cloud(
            [("made", np.eye(2), np.array(["T1", "T2"])), ("real", np.ones((3, 2)), np.array(["T1"] * 3))],
            ("x", "y"),
        ),
        lambda: bars({"adherence": 3.0, "grey": 1.5}, "seconds", pale=["grey"]),
    ],
)
def test_plots_are_svg_that_is_the_same_every_time(draw: object) -> None:
    first, again = draw(), draw()  # type: ignore[operator]
    assert first == again and ElementTree.fromstring(first).tag.endswith("svg")


def test_figures_are_told_apart_by_their_intervals() -> None:
    low, high = FIGURE | {"low": 0.1, "high": 0.3, "value": 0.2}, FIGURE | {"low": 0.7, "high": 0.8}
    assert (told_apart(high, low), told_apart(low, high), told_apart(FIGURE, FIGURE)) == (1, -1, 0)
    assert told_apart(NONE, low) == told_apart(None, low) == told_apart(FIGURE | {"low": None}, low) == 0
    assert said(FIGURE) == "0.5 (0.4 to 0.61)" and said(FIGURE, percent=True) == "50 % (40 to 61)"
    assert said(None) == said(NONE) == "not measured"
    assert [listed(list("abc")[:k]) for k in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
