"""The page to look a folder of pairs over: one HTML file that needs no network, the doubtful cases first."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from atlas.files import writing_whole
from atlas.overlay import VIEW
from atlas.quality import SHOWN, Quality, Row, quality, volume_ml
from atlas.records import read_dataset

MOST_PICTURES = 2000  # of 13 KB in the page: 26 MB; the rows behind them are listed without
FAR = 4.0  # robust z that is marked: about one region in 16 000 of a normal distribution
MOST_WORDS = 80

STYLE = """
body { font: 14px/1.4 sans-serif; margin: 2em; max-width: 80em; }
table { border-collapse: collapse; } td, th { padding: 2px 8px; text-align: left; vertical-align: top; }
td.n { text-align: right; } tr.rejected td { background: #fdd; } b.far { color: #b00; }
tbody.visits tr { border-top: 1px solid #ddd; content-visibility: auto; }
img { display: block; background: #000; }
section { display: inline-block; vertical-align: top; margin: 0 3em 1em 0; max-height: 30em; overflow: auto; }
i { display: inline-block; height: 0.8em; background: #69c; }
"""


def write_quality_page(folder: Path, out: Path | None = None) -> str:
    """A line of counts; writes <folder>/qc.html, or `out`. PairsError for an incomplete folder of pairs."""
    dataset = read_dataset(folder)
    found = quality(folder)
    rejected = sum(row.rejected for row in found.rows)
    bare = sum(row.overlay is None for row in found.rows)
    with writing_whole(out or folder / "qc.html") as page:
        title = escape(f"{dataset['source']}: {dataset['pairs']} pairs, {len(found.rows)} visits")
        page.write(f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n')
        page.write(
            f"<style>{STYLE}</style>\n<h1>{title}</h1>\n<p>{_introduction(found, rejected, bare)}</p>\n"
        )
        page.write("".join(_bars(name, counts) for name, counts in found.counts.items()))
        heads = ["visit", "labels on the registered volume", "similarity", "overlap", "after the warp"]
        heads += [f"{name}, ml" for name in SHOWN]
        heads += ["furthest from the cohort (robust z of the share of the brain)", "remarks"]
        page.write(f"<h2>Visits</h2>\n<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>")
        page.write('<tbody class="visits">\n')
        for number, row in enumerate(found.rows):
            page.write(_row(row, picture=number < MOST_PICTURES))
        page.write("</tbody></table></html>\n")
    return f"{len(found.rows)} visits, {rejected} rejected, {bare} without overlay"


def _introduction(found: Quality, rejected: int, bare: int) -> str:
    """What the page shows, in sentences."""
    hidden = max(0, len(found.rows) - MOST_PICTURES)
    return (
        f"{rejected} visits have rejected scans and come first, then the worst fit to the template. "
        "Similarity: share of the template's information that the registered volume tells. Overlap: Dice of "
        "its brain's outline and the template's. The one in which a visit ranks lower decides its place. "
        "After the warp: the similarity then. "
        "Axial, coronal and sagittal views through the middle of the grid; the subject's left is at image "
        "left in the first two. Outlines: red where the regions end, yellow white matter, blue ventricles, "
        "green diencephalon, pink basal ganglia, orange medial temporal lobe, light blue cerebellum, violet "
        "brainstem. "
        "A visit that was set aside is drawn by its affine part, with the atlas's own labels. "
        f"{bare} visits have no overlay"
        + (f", and those of the last {hidden} are not in the page" if hidden else "")
        + f". The longest caption has {found.longest} words."
    )


def _bars(name: str, counts: dict[str, int]) -> str:
    """A section with a bar for each count, in the given order."""
    largest = max(counts.values(), default=1)
    shown = list(counts.items())[:MOST_WORDS]
    rest = f"<p>and {len(counts) - len(shown)} more</p>" if len(counts) > len(shown) else ""
    lines = "".join(
        f'<tr><td>{escape(key)}</td><td class="n">{count}</td>'
        f'<td><i style="width:{max(1, round(120 * count / largest)) if count else 0}px"></i></td></tr>\n'
        for key, count in shown
    )
    return f"<section><h3>{escape(name)}</h3><table>\n{lines}</table>{rest}</section>\n"


def _row(row: Row, *, picture: bool) -> str:
    """One visit as a row of the table."""
    age = [] if row.age is None else [f"{row.age:.0f} years"]
    person = ", ".join(age + ([row.sex] if row.sex else [])) or "nothing known"
    name = escape(f"{row.subject} {row.session}".strip())
    cells = [f"<b>{name}</b><br>{escape(person)}<br>{row.split or 'no split'}, {row.slices} slices"]
    shown = "no overlay" if row.overlay is None else "not in the page"
    if row.overlay is not None and picture:
        data = base64.b64encode(row.overlay.read_bytes()).decode()
        size = f'width="{3 * VIEW}" height="{VIEW}"'
        shown = f'<img loading="lazy" {size} alt="labels of {name}" src="data:image/webp;base64,{data}">'
    cells.append(shown)
    numbers = [None if fit is None else f"{fit:.3f}" for fit in (row.similarity, row.overlap, row.warped)]
    for part in SHOWN:
        millilitres = volume_ml(row, part)
        numbers.append(None if millilitres is None else f"{millilitres:.1f}")
    cells += [number or "–" for number in numbers]
    far = [f"{escape(region)} {z:+.1f}" for region, z in row.far]
    marked = [
        f'<b class="far">{text}</b>' if abs(z) >= FAR else text
        for text, (_, z) in zip(far, row.far, strict=True)
    ]
    cells.append("<br>".join(marked) or "–")
    cells.append("<br>".join(escape(reason) for reason in row.reasons))
    kind = ' class="rejected"' if row.rejected else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
