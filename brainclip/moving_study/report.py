"""README.md of the study: what was measured, in tables, beside the pictures."""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.figures import Figure


def shown(figure: Figure | None, digits: int = 2, *, percent: bool = False) -> str:
    """ "0.54 (0.33 to 0.73)"; percent: "54 % (33 to 73)"."""
    if figure is None or figure["value"] is None:
        return "-"
    scale, unit = (100, " %") if percent else (1, "")
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    form = f"{{:.{0 if percent else digits}f}}"
    text = form.format(value * scale) + unit
    return text if low is None else f"{text} ({form.format(low * scale)} to {form.format(high * scale)})"


def markdown(report: dict[str, Any]) -> str:
    """The whole page."""
    lines = [
        "# Moving in the space",
        "",
        f"Made by `brainclip moving` with the model {report['model']}, seed {report['recipe']['seed']}. 95 % "
        "intervals in brackets, over people where slices of people are meant. All pictures are synthetic but "
        "where a row says real; synthetic lesions are simulated.",
        "",
    ]
    parts = {"ageing": ageing, "sizes": sizes, "stacks": stacks, "markers": markers}
    for name, part in parts.items():
        if name in report:
            lines += part(report[name], report["recipe"])
    return "\n".join(lines) + "\n"


def ageing(found: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    asked = recipe["ageing"]
    lines = [
        "## One person ageing",
        "",
        "![One synthetic person at six ages, and real people of these ages](ageing.png)",
        "",
        f"`trajectory`: {asked['people']} synthetic people, {asked['steps']} ages from {asked['age'][0]:g} "
        f"to {asked['age'][1]:g} years, z = {asked['position_mm']:g} mm; measured: {found['measure']}, "
        "percent of the brain in the slice. By prior: the age changes what the prior draws; by text, along "
        "the difference of the captions' text embeddings. People's figures are across people, a slice each.",
        "",
        "| | slope, points a decade | at 30 | at 80 | Spearman with age | steps that rise | people who rise "
        "at every step |",
        "|---|---|---|---|---|---|---|",
    ]
    for modality, one in found["contrasts"].items():
        cohort = one["cohort"]
        rows = {f"{modality}, people ({cohort['pairs']}, n {cohort['slope']['n']})": cohort}
        rows |= {f"{modality}, trajectories by {by}": way for by, way in one["ways"].items()}
        for name, row in rows.items():
            cells = [name, *(shown(row[key]) for key in ("slope", "at_30", "at_80", "rank"))]
            for key in ("rising_steps", "rising_people"):
                cells.append(shown(row[key], percent=True) if key in row else "")
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "![Ventricles by age: people and trajectories](curve.png)",
        "",
        "Identity: correlation of the slices' own patterns (between 0.8 and 4 pixels, less the mean of that "
        "age). Found: the nearest slice of any other age is the same person's; chance: with people shuffled "
        "at each age.",
        "",
        "| | same person, other ages | other people | found | chance |",
        "|---|---|---|---|---|",
    ]
    for modality, one in found["contrasts"].items():
        for by, way in one["ways"].items():
            kept = way["identity"]
            cells = [f"{modality}, by {by}", shown(kept["same"]), shown(kept["other"])]
            cells += [shown(kept["found"], percent=True), shown(kept["chance"], percent=True)]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def sizes(found: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    lines = [
        "## Larger and smaller ventricles",
        "",
        "![Edits of the lateral ventricles](sizes.png)",
        "",
        f"`edit`: {recipe['sizes']['people']} synthetic people, 'with small ventricles' and 'with larger "
        "ventricles', along directions fitted on training people's embeddings, and by captions alone. Change "
        f"of {found['measure']}, in points. People: the cohort's with such ventricles for age and sex, less "
        "what is expected at their age; unseen: those of validation and test alone.",
        "",
        "| | change | in the right sense | people | people, unseen |",
        "|---|---|---|---|---|",
    ]
    for modality, one in found["contrasts"].items():
        for name, row in one["edits"].items():
            size = name.split(",")[0]
            cells = [f"{modality}, {name}", shown(row["change"]), shown(row["right"], percent=True)]
            for key in (size, f"{size}, unseen"):
                cells.append(f"{shown(one['people'][key])}, n {one['people'][key]['n']}")
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Length of the directions, chosen on training people's slices and other synthetic people: the change "
        "that a standard deviation of the size makes, in points.",
        "",
        "| | training people | by length | chosen |",
        "|---|---|---|---|",
    ]
    for modality, row in found["gains"].items():
        tried = ", ".join(f"{length}: {value:.2f}" for length, value in row["made"].items())
        lines.append(f"| {modality} | {row['people']:.2f} | {tried} | {row['gain']:.2f} |")
    return [*lines, ""]


def stacks(found: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    asked, places = recipe["stacks"], found["distances_mm"]
    lines = [
        "## A stack as a volume",
        "",
        "![Three planes of a synthetic stack and of a real person](stack.png)",
        "",
        f"`stack`: axial {asked['modality']} slices every {asked['every_mm']:g} mm from {asked['from_mm']:g} "
        f"to {asked['to_mm']:g} mm, beside real slices at the same places. Correlation of slices so many mm "
        "apart, inside the brain, mean over people; of validation people the least and most, too, within "
        f"which a stack should lie. The noise's length, {found['chosen']:g} mm, is of "
        f"{', '.join(found['away'])} mm the nearest to validation people ({asked['tried']} synthetic people "
        "each). Step: change of grey a millimetre across the slices, over that within them; 1 is as smooth "
        "across as along. Place: by the judge.",
        "",
        f"| | n | {' | '.join(f'{one:g} mm' for one in places)} | step | order of places | error, mm |",
        f"|{'---|' * (len(places) + 5)}",
    ]
    for name, row in found["sets"].items():
        cells = [name, str(row["step"]["n"]), *(shown(one) for one in row["correlation"]), shown(row["step"])]
        cells += [shown(row.get("place_order"), 3), shown(row.get("place_error_mm"), 1)]
        lines.append(f"| {' | '.join(cells)} |")
        if name == "real validation people":
            ends = [f"{low:.2f} to {high:.2f}" for low, high in zip(*row["range"], strict=True)]
            lines.append(f"| their least and most | | {' | '.join(ends)} | | | |")
    return [*lines, ""]


def markers(found: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    about = found["trained_on"]
    lines = [
        "## Markers",
        "",
        "![Simulated lesions growing in synthetic slices, with their masks](markers.png)",
        "",
        f"`mark`: a detector (U-Net) trained on {about['slices']} marked and healthy slices of "
        f"{found['people']} synthetic people alone, {about['steps']} steps of {about['batch']}, and scored "
        "once on real patients, on whom nothing was trained or chosen. Validation people: lesions drawn into "
        "their slices, real ones in T1 (IXI), simulated ones in FLAIR. Grey level: bright is abnormal, in T1 "
        "dark. Dice at a threshold: the best one of the first row of that contrast. Best Dice: over all "
        "thresholds, chosen on the very slices. Intervals are over people, of one patient over blocks of "
        "five neighbouring slices; three patients say little.",
        "",
        "| slices | with lesion | by | slice AUROC | slice AUPRC (chance) | pixel AUPRC (chance) "
        "| Dice at threshold | best Dice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found["sets"].items():
        for by in ("detector", "grey level"):
            slice_, pixel = one[by]["slice"], one[by]["pixel"]
            cells = [f"{name} ({one['people']})", f"{one['with']} of {one['slices']}", by]
            cells += [shown(slice_["auroc"]), f"{shown(slice_['auprc'])} ({slice_['prevalence']:.2f})"]
            cells += [f"{shown(pixel['auprc'])} ({pixel['prevalence']:.3f})", shown(pixel.get("dice_at"))]
            lines.append(f"| {' | '.join([*cells, shown(pixel['dice'])])} |")
        apart = one["difference"]
        cells = [name, "", "difference", shown(apart["auroc"]), "", shown(apart["auprc"]), "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "By kind of lesion: pixel AUPRC among the slices with it and the healthy ones.",
        "",
        "| slices | kind | with it | detector | grey level | chance |",
        "|---|---|---|---|---|---|",
    ]
    for name, kinds in found["kinds"].items():
        for kind, one in kinds.items():
            cells = [name, kind, str(one["slices"])]
            cells += [shown(one[by]["auprc"]) for by in ("detector", "grey level")]
            lines.append(f"| {' | '.join([*cells, format(one['detector']['prevalence'], '.4f')])} |")
    return [*lines, "", "![What the detector calls in real patients](detections.png)", ""]
