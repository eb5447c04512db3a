"""Page: sections of tables and pictures, written as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from atlas.files import write_whole
from brainclip.evaluate.figures import Figure, shown

Cell = str | Figure | None
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}
STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: #1a1a1a; background: #fff }
h1 { font-size: 1.6rem; line-height: 1.2 } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem }
.conclusion { font-size: 1.05rem; border-left: .25rem solid #1d4ed8; padding-left: .75rem }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35 }
caption { text-align: left; color: #555; padding-bottom: .25rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #ddd }
td { font-variant-numeric: tabular-nums } td small { color: #555; white-space: nowrap; display: block }
figure { margin: 1rem 0 } img { max-width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .875rem }
summary { cursor: pointer; color: #1d4ed8 } a { color: #1d4ed8 }
@media print { body { max-width: none; padding: 0; font-size: 10pt } h2, figure, tr { break-inside: avoid }
  h2 { break-after: avoid } summary { display: none } .wide { overflow: visible }
  details::details-content { content-visibility: visible; height: auto } }
"""


@dataclass(frozen=True)
class Table:
    """Rows under a head. A cell is text, a figure, or None for nothing. folded: shown in HTML on a click."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture by its file name in the report's folder, .svg or .png, and what there is to see.

    content: of the file, which the report writes; None: a file that is there, or is left out where it is not.
    folded: shown in HTML on a click.
    """

    file_name: str
    caption: str
    content: bytes | None = None
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """What a part of the evaluation has to say. conclusion: plain sentences made from its figures. blocks:
    tables, pictures, and notes as text."""

    name: str
    title: str
    conclusion: str
    blocks: Sequence[Table | Picture | str] = ()


def write_page(title: str, about: str, sections: Sequence[Section], folder: Path, name: str) -> None:
    """Write <folder>/<name>.md and .html, and the pictures of the sections into the folder.

    about: what the page is on, in a sentence or two. The HTML carries its pictures, so it can be sent alone.
    """
    there = []
    for section in sections:
        blocks = [block for block in section.blocks if _ready(block, folder)]
        there.append(Section(section.name, section.title, section.conclusion, blocks))
    write_whole(folder / f"{name}.md", markdown(title, about, there))
    write_whole(folder / f"{name}.html", html(title, about, there, folder))


def _ready(block: Table | Picture | str, folder: Path) -> bool:
    """Whether a block can be shown; a picture's content is written for it."""
    if not isinstance(block, Picture):
        return not isinstance(block, Table) or len(block.rows) > 0
    path = folder / block.file_name
    if block.content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(block.content)
        temporary.replace(path)
    return path.is_file()


def markdown(title: str, about: str, sections: Iterable[Section]) -> str:
    """The page in Markdown; its pictures are links to the files."""
    lines = [f"# {title}", "", about, ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.conclusion, ""]
        for block in section.blocks:
            if isinstance(block, Table):
                lines += table(block.head, block.rows)
            elif isinstance(block, Picture):
                lines += [f"![{block.caption}]({block.file_name})", ""]
            else:
                lines += [block, ""]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """The lines of a Markdown table."""
    cells = [[cell if isinstance(cell, str) else shown(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)] + [""]


def html(title: str, about: str, sections: Sequence[Section], folder: Path) -> str:
    """The page as HTML, the pictures of `folder` in it: the conclusions first, then section by section."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<header><h1>{escape(title)}</h1><p>{escape(about)}</p></header>",
        '<nav aria-label="Conclusions"><h2>In short</h2><ul>',
        *(f'<li><a href="#{s.name}">{escape(s.title)}</a>: {escape(s.conclusion)}</li>' for s in sections),
        "</ul></nav><main>",
    ]
    for section in sections:
        parts += [
            f'<section id="{section.name}"><h2>{escape(section.title)}</h2>',
            f'<p class="conclusion">{escape(section.conclusion)}</p>',
            *(_block(block, folder) for block in section.blocks),
            "</section>",
        ]
    return "\n".join([*parts, "</main></body></html>\n"])


def _block(block: Table | Picture | str, folder: Path) -> str:
    if isinstance(block, str):
        return f'<p class="note">{escape(block)}</p>'
    if isinstance(block, Picture):
        path, caption = folder / block.file_name, escape(block.caption, quote=True)
        data = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{caption}" src="data:{KINDS[path.suffix]};base64,{data}">'
        shown_picture = f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
        return _folded(caption, shown_picture) if block.folded else shown_picture
    title, *heads = block.head
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in (title, *heads))
    rows = ""
    for name, *cells in block.rows:
        rows += f'<tr><th scope="row">{_cell(name)}</th>' + "".join(
            f"<td>{_cell(cell)}</td>" for cell in cells
        )
        rows += "</tr>"
    made = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return _folded(escape(title), made) if block.folded else made


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _cell(cell: Cell) -> str:
    """A figure with its interval and n below it in small print."""
    if isinstance(cell, str):
        return escape(cell)
    value, _, rest = shown(cell).partition(" (")
    return f"{value}<small>{escape(rest.removesuffix(')'))}</small>" if rest else value
