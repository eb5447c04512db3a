"""No name, date or other free text comes into a caption."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from test_atlas_sizes import sized

import atlas.records
from atlas.caption import caption, captions, keywords, wording_names
from atlas.errors import PairsError
from atlas.facts import wordings
from atlas.lint import foreign_words
from atlas.records import CAPTIONS, line_of

ODD = (
    "IXI012-HH-1211",
    "sub-0042",
    "Müller^Hans",
    "Smith, J.",
    "2009-11-21",
    "20091121",
    "21.11.2009",
    "11/21/09",
    "Guys",
    "Hammersmith Hospital",
    "s3cr3t",
    "脑",
    "DROP TABLE",
    "{age}",
    "{0}",
    "%s",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "M\nR",
    "nan",
    "007",
)
FIELDS = ("sex", "health", "handedness", "site", "field_strength", "age", "subject", "date", "name")


def test_free_text_in_any_field_never_comes_into_a_caption():
    rng = random.Random(0)
    for seed in range(600):
        facts = sized(seed)
        odd = rng.sample(ODD, 6)
        facts.known.update({name: rng.choice(odd) for name in rng.sample(FIELDS, 5)})
        facts = replace(
            facts,
            source=odd[0],
            regions=facts.regions | {f"left {odd[1]}": 500.0, odd[2]: 900.0},
            sizes=facts.sizes | {odd[3]: "small", "hippocampi": odd[4]},
        )
        texts = [caption(facts, seed=seed).text, *keywords(facts)]
        texts += [made.text for made in captions(facts, seed=seed, n=CAPTIONS)]
        for text in texts:
            assert foreign_words(text) == (), text
            words = set(re.split(r"[\s,;]+", text))
            assert not [one for one in odd if one in words or (len(one) > 4 and one in text)], text


def test_every_wording_is_made_of_known_words():
    for seed in range(100):
        for wording in wording_names():
            text = caption(sized(seed), seed=seed, wording=wording).text
            assert foreign_words(text) == (), text


@pytest.mark.parametrize("text", ODD[:17])
def test_names_and_dates_are_foreign(text):
    assert foreign_words(f"axial T1 slice, {text}, healthy woman") != ()


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("An axial T1 slice, z = -12 mm, 70-year-old woman, 1.5 T.", ()),
        ("Midsagittal T1-weighted, x=-3 (healthy M in his 20s); 3T", ()),
        ("axial T1 slice of Mrs Woolf", ("mrs", "woolf")),
        ("12-05-20", ("12-05-20",)),
        ("F 1949", ("1949",)),
        ("F 049", ("049",)),
        ("F 250", ("250",)),
        ("30 T", ()),  # 30 can be an age
        ("x = 12.5 mm", ()),
        ("x = 30.5 mm", ("30.5",)),
        ("t1-guys", ("t1-guys",)),
    ],
)
def test_foreign_words_are_named(text, foreign):
    assert foreign_words(text) == foreign


def test_numbers_out_of_bounds_are_not_said():
    facts = sized(2)
    for age, tesla in (
        (-1, -3.0),
        (1949, 20091121),
        (float("nan"), float("inf")),
        ("70", "3T"),
        (None, None),
    ):
        facts.known.update(age=age, field_strength=tesla)
        for seed in range(60):
            mentioned = caption(facts, seed=seed).mentioned
            assert not {"age", "age_band", "field_strength"} & set(mentioned)
        assert not [word for word in keywords(facts) if "years" in word]


def test_a_foreign_word_stops_the_build_with_the_subject_and_the_word(monkeypatch):
    monkeypatch.setattr(atlas.records, "keywords", lambda facts: ("axial", "Guys Hospital"))
    with pytest.raises(
        PairsError, match=r"sub-7: the caption word 'guys' of train/sub-7/a.png is in no table"
    ):
        line_of("train/sub-7/a.png", "sub-7", "train", "", sized(1))


def test_a_slice_has_several_captions_in_all_styles_and_text_is_the_first():
    style_of = {row["name"]: row["style"] for row in wordings()["wording"]}
    assert set(style_of.values()) == {"plain", "radiologist", "telegraphic"}
    for style in set(style_of.values()):
        assert list(style_of.values()).count(style) >= 5
    for seed in range(200):
        facts = sized(seed)
        made = captions(facts, seed=seed, n=CAPTIONS)
        assert made == captions(facts, seed=seed, n=CAPTIONS)
        assert len({one.text for one in made}) == CAPTIONS == 4
        line = line_of(f"train/a/{seed}.png", "a", "train", "", facts)
        assert line["text"] == line["captions"][0]
        assert len(set(line["captions"])) == CAPTIONS
