"""Anatomy: tissues, ventricles by age, symmetry and outline of pictures beside the slices they stand for."""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.figures import Figure
from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import intervals, shades
from brainclip.evaluate.sections.confusion import counted
from brainclip.evaluate.sections.words import listed, said

OUTLINES = {
    "any": "any of these",
    "area_mm2": "area",
    "compactness": "compactness",
    "solidity": "solidity",
    "holes": "holes",
    "pieces": "pieces",
    "atlas_dice": "Dice with the atlas",
}
LIKE = "the slices they were asked for by"


def section(report: dict[str, Any]) -> Section | None:
    """What a segmenter says of the pictures, and whether their shape is a brain's."""
    part = report.get("anatomy")
    if not part:
        return None
    groups = part["groups"]
    slopes = [
        f"{name} {said(found['made']['slope'])}, people {said(found['people']['slope'])}"
        for name, found in part["ages"].items()
    ]
    odd = [
        f"{name} {said(group['outline']['any']['made'], percent=True)}, real "
        f"{said(group['outline']['any']['real'], percent=True)}"
        for name, group in groups.items()
    ]
    return Section(
        "anatomy",
        "Anatomy",
        "Percentage points of the brain that the lateral ventricles gain a decade, in pictures of 20 to 85 "
        f"years and in training people: {'; '.join(slopes) or 'not measured'}. Pictures with an outline "
        f"outside the range of 99 % of training slices in one way or another: {'; '.join(odd)}.",
        [
            _segmenter(part["segmenter"]),
            Picture(
                "segmenter.png",
                "Held-out slices, their labels, the segmenter's, and generated pictures with the segmenter's",
            ),
            *_sweep(part["ages"]),
            _ages(groups),
            *_sizes(part["sizes"]),
            _areas(groups),
            _symmetry(groups),
            _outlines(groups),
            "Each picture was asked for by plane, contrast, position, age and sex of a held-out slice. Other "
            "people's: for each the training slice of another person with the nearest facts.",
        ],
    )


def _segmenter(part: dict[str, Any]) -> Table:
    columns = {
        f"{name}, {split}": found
        for split, tables in part["held_out"].items()
        for name, found in tables.items()
    }
    names = [name for name in next(iter(columns.values())) if name != "ventricle_bias"]
    rows = [[name, *(found[name] for found in columns.values())] for name in names]
    off = [found["ventricle_bias"] for found in columns.values()]
    rows.append(["ventricles, segmenter less truth, % of the brain", *off])
    people = listed([f"{share:.0%} {name}" for name, share in part["trained_on"].items()])
    head = f"segmenter {part['hash']}, Dice over people ({people}, at most {part['people']} people of each)"
    return Table([head, *columns], rows)


def _ages(groups: dict[str, Any]) -> Table:
    rows: list[list[str | Figure | None]] = []
    for name, group in groups.items():
        if "age" in group:
            found = group["age"]
            cells = [found[kind]["slope"] for kind in ("made", "real", "true")]
            rows.append([f"{name}, points a decade", *cells, found["difference"]])
            cells = [found[kind]["order"] for kind in ("made", "real", "true")]
            rows.append([f"{name}, order by age (Spearman)", *cells, "-"])
    heads = ("generated", "real, by the segmenter", "real, by the labels", "generated less real")
    return Table(["lateral ventricles in percent of the brain, axial, z 10 to 25 mm", *heads], rows)


def _sweep(ages: dict[str, Any]) -> list[Table | Picture]:
    """Ventricles over the whole range of ages, beside training people's; nothing where there are too few."""
    if not ages:
        return []
    cells: list[list[str | Figure | None]] = []
    for name, found in ages.items():
        made, people = found["made"], found["people"]
        cells.append([f"{name}, points a decade", made["slope"], people["slope"]])
        cells.append([f"{name}, order by age (Spearman)", made["order"], people["order"]])
        cells += [[f"{name}, at {at} years", made["at"][at], people["at"][at]] for at in made["at"]]
    drawn = intervals(
        {
            name: {kind: found[key]["slope"] for kind, key in (("generated", "made"), ("people", "people"))}
            for name, found in ages.items()
        },
        "percentage points of the brain a decade",
        marks={"no ageing": 0.0},
    )
    heading = "lateral ventricles in percent of the brain, axial, z = 17 mm"
    return [
        Table([heading, "generated, 20 to 85 years", "training people"], cells),
        Picture("plots/ageing.svg", "Growth of the lateral ventricles with age", drawn),
    ]


def _sizes(sizes: dict[str, Any]) -> list[Table | Picture]:
    """Asked and judged sizes of the ventricles; nothing where none was asked for."""
    if not sizes:
        return []
    words = list(next(iter(sizes.values()))["shares"])
    rows: list[list[str | Figure | None]] = [
        [name, found["made"]["right"], found["real"]["right"], *(found["shares"][word] for word in words)]
        for name, found in sizes.items()
    ]
    heads = (
        "as asked",
        "held-out slices, as known",
        *(f"percent of the brain, asked {word}" for word in words),
    )
    caption = (
        "{}, size of the ventricles: of the slices that should show what the row says, the share that is "
        "judged so by the segmenter, from what training people of that age have there"
    )
    pictures = []
    for name, found in sizes.items():
        tables = counted({"generated": found["made"], "held-out": found["real"]})
        drawn = shades(tables, words, words, axes_names=("wanted", "judged"))
        path = f"plots/ventricles_{name.replace(' ', '_')}.svg"
        pictures.append(Picture(path, caption.format(name), drawn, folded=True))
    heading = "lateral ventricles small, normal or enlarged for the age (chance 33 %)"
    return [Table([heading, *heads], rows), *pictures]


def _areas(groups: dict[str, Any]) -> Table:
    rows: list[list[str | Figure | None]] = []
    for name, group in groups.items():
        for structure, found in group["areas"].items():
            if structure == "brain":
                rows.append(
                    [f"{name}, brain, times the real slice's", found["made"], "1", found["floor"], "-", "-"]
                )
                continue
            kinds = ("made", "real", "floor", "difference", "floor_difference")
            rows.append([f"{name}, {structure}", *(found[kind] for kind in kinds)])
    heads = ("generated", LIKE, "other people's", "generated less real", "other people's less real")
    return Table(["percent of the brain in a slice, by the segmenter", *heads], rows, folded=True)


def _symmetry(groups: dict[str, Any]) -> Table:
    rows = [
        [f"{name}, {kind}", *(found[key] for key in ("made", "real", "floor", "difference"))]
        for name, group in groups.items()
        for kind, found in group["symmetry"].items()
    ]
    heads = ("generated", LIKE, "other people's", "generated less real")
    return Table(["asymmetry of axial and coronal slices, 0 to 1", *heads], rows)


def _outlines(groups: dict[str, Any]) -> Table:
    rows: list[list[str | Figure | None]] = []
    for name, group in groups.items():
        for key, text in OUTLINES.items():
            found = group["outline"][key]
            means = [found["mean"][kind] for kind in ("made", "real")] if "mean" in found else ["-", "-"]
            rows.append([f"{name}, {text}", found["made"], found["real"], *means])
    heads = ("share of pictures", "of the real slices (false alarms)", "mean, generated", "mean, real")
    return Table(["outline outside the range of 99 % of training slices", *heads], rows)
