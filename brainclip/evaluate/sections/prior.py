"""Prior: how near is its image embedding to the true one, and what must it beat?"""

from __future__ import annotations

from typing import Any

from brainclip.evaluate.page import Picture, Section, Table
from brainclip.evaluate.plots import intervals
from brainclip.evaluate.sections.words import said, told_apart


def section(report: dict[str, Any]) -> Section:
    """The prior and its baselines."""
    part = report["embeddings"]
    heads = {
        "cosine": "cosine to the true one",
        "whitened": "whitened",
        "r1": f"R@1 of {part['candidates']}",
        "r10": "R@10",
    }
    cosine, spread = part["cosine"], part["spread"]
    words = {1: "more than", 0: "not told from", -1: "less than"}
    prior, ridge = cosine["prior_sample"], cosine["ridge"]
    return Section(
        "prior",
        "From caption to image embedding",
        f"A sample of the prior has a cosine of {said(prior)} to the true image embedding, "
        f"{words[told_apart(prior, ridge)]} the {said(ridge)} of ridge regression, which aims at the mean; "
        f"another slice of which the caption is true has {said(cosine['another_true_slice'])}.",
        [
            Picture(
                "plots/prior.svg",
                f"Cosine to the true image embedding of CLIP {report['clip']}",
                intervals({name: {"cosine": figure} for name, figure in cosine.items()}, "cosine"),
            ),
            Table(
                ["image embedding from a caption", *heads.values()],
                [[name, *(part[kind].get(name) for kind in heads)] for name in cosine],
            ),
            Table(
                ["spread: mean cosine among", "as they are", "whitened"],
                [[name, *(spread[space][name] for space in spread)] for name in spread["cosine"]],
            ),
        ],
    )
