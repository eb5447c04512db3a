"""Which words the captions of a folder of pairs use, and how often training saw each term of a prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from atlas.files import write_whole
from atlas.records import read_pairs
from brainclip.errors import PairsError, PromptError
from brainclip.weights import write_json

LONGEST = 3  # words in an n-gram
SHOWN = 30  # rows of a table
ORDERS = ("words", "pairs of words", "threes")
# numbers keep their sign ("z=-66"), compounds their hyphen ("79-year-old", "t1-weighted")
TOKEN = re.compile(r"(?<![a-z0-9])[+-]?\d+(?:\.\d+)?(?![a-z0-9-])|[a-z0-9]+(?:[-'][a-z0-9]+)*")
# words that say nothing of a picture; those of place (above, below, left, through) do, and stay
STOP_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "a about all also an and any are as at be been but by can could do does for from had has have he her "
        "hers him his how i if in into is it its me more most my no nor not of on one or our out per she so "
        "some such than that the their them then there these they this those to very was we were what when "
        "where which who whom whose will with would you your",
    )
)


def tokens(text: str) -> list[str]:
    """The words of a text in lower case, without stop words and punctuation."""
    return [word for word in TOKEN.findall(text.lower()) if word not in STOP_WORDS]


def ngrams(words: Sequence[str], length: int) -> list[str]:
    """The runs of `length` words, joined by spaces."""
    return [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]


def caption_statistics(captions: Iterable[str], *, prompt: str = "") -> dict[str, Any]:
    """Counts of words and n-grams over captions, and of the terms of a prompt among them.

    words, pairs of words, threes: total, different, and `most`, the most frequent: count, percent of the
    total, and in_captions, the percent of captions that have it. Runs of words go across removed stop words
    and punctuation. prompt_terms: every word and run of the prompt, counted likewise.
    PairsError where there are no captions, PromptError for a prompt of stop words alone.
    """
    counts: tuple[Counter[str], ...] = tuple(Counter() for _ in range(LONGEST))
    having: tuple[Counter[str], ...] = tuple(Counter() for _ in range(LONGEST))
    number = 0
    for caption in captions:
        number += 1
        words = tokens(caption)
        for order in range(LONGEST):
            runs = ngrams(words, order + 1)
            counts[order].update(runs)
            having[order].update(set(runs))
    if number == 0:
        raise PairsError("no captions to count; give a folder of pairs whose split has slices")

    def row(term: str, order: int) -> dict[str, Any]:
        total = max(1, counts[order].total())
        return {
            "term": term,
            "count": counts[order][term],
            "percent": round(100 * counts[order][term] / total, 3),
            "in_captions": round(100 * having[order][term] / number, 3),
        }

    found: dict[str, Any] = {"captions": number}
    for order, name in enumerate(ORDERS):
        ranked = sorted(counts[order], key=lambda term: (-counts[order][term], term))[:SHOWN]
        found[name] = {
            "total": counts[order].total(),
            "different": len(counts[order]),
            "most": [row(term, order) for term in ranked],
        }
    if prompt:
        words = tokens(prompt)
        if not words:
            raise PromptError(f"prompt {prompt!r}: no word to count; all are stop words or punctuation")
        found["prompt"] = prompt
        found["prompt_terms"] = [
            row(term, order) for order in range(LONGEST) for term in dict.fromkeys(ngrams(words, order + 1))
        ]
    return found


def write_caption_statistics(
    folder: Path, out: Path, *, split: str = "train", prompt: str = ""
) -> dict[str, Any]:
    """The statistics of every caption written for a split of a pairs folder; captions.json and captions.md.

    Training draws further wordings from the same facts: what is counted are those written in the folder.
    """
    pairs = read_pairs(folder, split)
    if not pairs:
        raise PairsError(f"{folder}: no pairs in the split {split!r}")
    found = caption_statistics((text for pair in pairs for text in pair.captions), prompt=prompt)
    found = {"pairs_folder": str(folder), "split": split, "pairs": len(pairs)} | found
    write_whole(out / "captions.md", as_markdown(found))
    write_json(out / "captions.json", found)
    return found


def as_markdown(found: dict[str, Any]) -> str:
    """The statistics as tables."""
    lines = ["# Words of the captions", ""]
    if "pairs" in found:
        counted = f"{found['captions']:,} captions of {found['pairs']:,} slices"
        lines += [f"{counted}, split {found['split']}, {found['pairs_folder']}.", ""]
    lines += [
        "Without stop words and punctuation. In captions: share of the captions that have the term.",
        "",
    ]
    if "prompt_terms" in found:
        lines += [f"## Prompt: {found['prompt']}", "", *_table(found["prompt_terms"])]
        unseen = [row["term"] for row in found["prompt_terms"] if row["count"] == 0]
        lines += [f"Never seen: {', '.join(unseen) or 'none'}.", ""]
    for name in ORDERS:
        part = found[name]
        lines += [f"## {name.capitalize()}: {part['total']:,}, of which {part['different']:,} different", ""]
        lines += _table(part["most"])
    return "\n".join(lines)


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| term | count | % | % in captions |", "|---|---|---|---|"]
    lines += [
        f"| {row['term']} | {row['count']:,} | {row['percent']:.2f} | {row['in_captions']:.2f} |"
        for row in rows
    ]
    return [*lines, ""]
