"""Reader study: a blinded kit, forms read or refused, and tables against published figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from scipy import stats
from toy_pairs import write_toy_pairs

from atlas.facts import Facts
from brainclip import cli
from brainclip.errors import BrainclipError
from brainclip.evaluate.reader import PHASES, Shown, make_kit, read_forms, said
from brainclip.evaluate.reader_tables import alpha, good_share, kappa, pictures_needed, score, share_table
from brainclip.picture import Picture

NOTE = "made-up ratings"


def shown(n: int = 6) -> list[Shown]:
    """Half real, half generated; each of a grey of its own, so that it is found again."""
    groups = ("real", "unclip")
    return [
        Shown(np.full((8, 8), k / 10, np.float32), groups[k % 2], f"{groups[k % 2]}/{k}.png", f"slice {k}")
        for k in range(n)
    ]


def fill(form: Path, out: Path, **levels: list[int]) -> Path:
    """A form with these levels, one list a scale, in the order of its rows."""
    with form.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, given in levels.items():
        for row, level in zip(rows, given, strict=True):
            row[name] = str(level)
    out.parent.mkdir(exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return out


def test_the_kit_tells_nothing_and_its_key_all(tmp_path: Path) -> None:
    key = make_kit(shown(), tmp_path / "kit", tmp_path / "key.json", phase=1, seed=3)
    assert sorted(path.name for path in (tmp_path / "kit").iterdir()) == [
        "form.csv", "instructions.md", "pictures", "sheets",
    ]  # fmt: skip
    names = [f"{number:03d}" for number in range(1, 7)]
    assert sorted(path.stem for path in (tmp_path / "kit" / "pictures").iterdir()) == names
    greys = []
    for name in names:
        with Image.open(tmp_path / "kit" / "pictures" / f"{name}.png") as image:
            assert image.info == {} and image.mode == "L"
            greys.append(round(10 * image.getpixel((0, 0)) / 255))
    assert greys != sorted(greys)
    assert [key["pictures"][name]["origin"].split("/")[1] for name in names] == [f"{k}.png" for k in greys]
    with Image.open(tmp_path / "kit" / "sheets" / "1.png") as image:
        assert image.info == {} and image.mode == "L"
        wide, high = image.width // 5, image.height // 2
        corners = [(5 + place % 5 * wide, 5 + place // 5 * high) for place in range(6)]
        assert [round(10 * image.getpixel(corner) / 255) for corner in corners] == greys
    for path in (tmp_path / "kit").rglob("*"):
        assert path.is_dir() or b"unclip" not in path.read_bytes()
    again = make_kit(shown(), tmp_path / "kit2", tmp_path / "key2.json", phase=1, seed=3)
    assert again == key
    assert make_kit(shown(), tmp_path / "kit3", tmp_path / "key3.json", phase=1, seed=4) != key | {"seed": 4}


def test_a_kit_that_would_give_itself_away_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrainclipError, match="the key must not lie in the folder"):
        make_kit(shown(), tmp_path / "kit", tmp_path / "kit" / "key.json", phase=1, seed=0)
    odd = [*shown(), Shown(np.zeros((9, 9), np.float32), "real", "x.png")]
    with pytest.raises(BrainclipError, match="pictures of 2 sizes"):
        make_kit(odd, tmp_path / "kit", tmp_path / "key.json", phase=1, seed=0)
    make_kit(shown(), tmp_path / "kit", tmp_path / "key.json", phase=1, seed=0)
    with pytest.raises(BrainclipError, match="there already"):
        make_kit(shown(), tmp_path / "kit", tmp_path / "key2.json", phase=1, seed=0)


def test_controls_are_described_in_the_words_of_the_pictures() -> None:
    asked = Facts("axial", 8.0, "T1", known={"age": 30.0})
    person = Facts("axial", 9.0, "T1", known={"age": 71.4, "sex": "male", "site": "X"}, regions={"pons": 5.0})
    assert said(asked, asked) == "axial T1 slice, level of the thalamus, 30-year-old person"
    assert said(person, asked) == "axial T1 slice, level of the thalamus, 71-year-old person"
    assert said(person, Facts("axial", 8.0, "T1")) == "axial T1 slice, level of the thalamus, person"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[:-1], "1 pictures are not rated, first 006"),
        (lambda rows: [*rows, rows[0]], "picture 001 is rated twice"),
        (lambda rows: [["099", "3"], *rows[1:]], "no picture '099' in this kit"),
        (lambda rows: [[rows[0][0], "6"], *rows[1:]], "realism = '6'; a level is a whole number from 1 to 5"),
        (lambda rows: [[rows[0][0], ""], *rows[1:]], "realism = ''"),
        (lambda rows: [[rows[0][0], "good"], *rows[1:]], "realism = 'good'"),
    ],
)
def test_a_faulty_form_is_refused_in_one_sentence(tmp_path: Path, change: object, sentence: str) -> None:
    key = make_kit(shown(), tmp_path / "kit", tmp_path / "key.json", phase=1, seed=0)
    rows = change([[f"{number:03d}", "3"] for number in range(1, 7)])  # type: ignore[operator]
    path = tmp_path / "anna.csv"
    path.write_text("picture,realism\n" + "".join(f"{a},{b}\n" for a, b in rows))
    with pytest.raises(BrainclipError) as raised:
        read_forms(key, [path])
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_forms_as_spreadsheets_write_them_are_read(tmp_path: Path) -> None:
    key = make_kit(shown(), tmp_path / "kit", tmp_path / "key.json", phase=1, seed=0)
    path = tmp_path / "anna.csv"
    path.write_text(
        "\ufeffpicture;realism\n" + "".join(f"{number};{number % 5 + 1}\n" for number in range(1, 7))
    )
    assert read_forms(key, [path])["anna"]["realism"] == {
        "001": 2, "002": 3, "003": 4, "004": 5, "005": 1, "006": 2
    }  # fmt: skip
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "anna.csv").write_text(path.read_text())
    with pytest.raises(BrainclipError, match=r"two forms are called anna\.csv"):
        read_forms(key, [path, tmp_path / "b" / "anna.csv"])
    path.write_text("picture,agreement\n001,1\n")
    with pytest.raises(BrainclipError, match="no column 'realism'"):
        read_forms(key, [path])


def test_scores_of_known_ratings() -> None:
    numbers = [f"{k:03d}" for k in range(1, 9)]
    key = {"phase": 1, "pictures": {n: {"group": ("real", "unclip")[k % 2]} for k, n in enumerate(numbers)}}
    forms = {
        "a": {"realism": dict(zip(numbers, [5, 1, 4, 2, 5, 3, 2, 1], strict=True))},
        "b": {"realism": dict(zip(numbers, [5, 1, 4, 3, 5, 3, 3, 1], strict=True))},
    }
    found = score(key, forms)["realism"]
    assert list(found["groups"]) == ["unclip", "real"]
    assert found["groups"]["unclip"]["counts"] == [4, 1, 3, 0, 0]
    assert found["groups"]["unclip"]["good"]["value"] == 3 / 8
    assert found["groups"]["real"]["good"]["value"] == 7 / 8
    assert found["groups"]["unclip"]["pictures_needed"] == pictures_needed(3 / 8, 7 / 8)
    # two ratings of a picture agree, so drawing pictures gives the wider interval
    over, plain = (found["groups"]["unclip"][name] for name in ("good_over_pictures", "good"))
    assert over["value"] == plain["value"] and over["subjects"] == 4
    assert found["raters"]["a"]["unclip"]["value"] == 1 / 4
    pair = found["agreement"]["pairs"][0]
    assert (pair["raters"], pair["n"], pair["share_equal"]) == (["a", "b"], 8, 0.75)
    assert pair["quadratic"] > pair["linear"] > pair["kappa"] > 0.6


def test_kappa_of_published_examples() -> None:
    # Fleiss, Levin and Paik 2003, Statistical Methods for Rates and Proportions, table 18.1: kappa 0.676
    table = np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]])
    first = [row + 1 for row in range(3) for _ in range(table[row].sum())]
    second = [column + 1 for row in range(3) for column in range(3) for _ in range(table[row, column])]
    assert kappa(first, second, 3) == pytest.approx(0.676, abs=5e-4)
    # data set anxiety of the R package irr, raters 1 and 2; its manual gives 0.297 for squared weights
    one = [3, 3, 3, 4, 5, 5, 2, 3, 5, 2, 2, 6, 1, 5, 2, 2, 1, 2, 4, 3]
    two = [3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4]
    assert kappa(one, two, 6, "quadratic") == pytest.approx(0.297, abs=5e-4)
    assert kappa([2, 2], [2, 2], 3) is None


def test_alpha_of_the_published_example() -> None:
    # Krippendorff 2011, Computing Krippendorff's alpha-reliability, example D: 4 observers, 12 units
    x = np.nan
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, x, x, x],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, x, 3],
            [x, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, x],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, x],
        ]
    )
    assert alpha(ratings, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert alpha(ratings, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert alpha(ratings, "interval") == pytest.approx(0.849, abs=5e-4)
    assert alpha(np.full((2, 5), 3.0)) is None


def test_pictures_needed_agree_with_published_sample_sizes() -> None:
    # power.prop.test(p1 = .50, p2 = .75, power = .90) in the manual of R: n = 76.7
    assert pictures_needed(0.5, 0.75, power=0.9) == 77
    assert pictures_needed(0.75, 0.5, power=0.9) == 77
    assert pictures_needed(0.5, 0.5) is None


def test_tables_of_the_chest_x_ray_study_come_out_of_its_counts() -> None:
    # phase 2 has published counts; of phase 1 the shares alone, 1/3 and 1/6, here with the fewest ratings
    one, two = PHASES[1][0], PHASES[2][0]
    assert one.good == 3 and len(one.levels) == 5 and two.good == 2 and len(two.levels) == 3
    groups = {
        "healthy": [[2, 2, 1, 1, 0], one, 0.3333],
        "unhealthy": [[3, 2, 1, 0, 0], one, 0.1667],
        "healthy, phase 2": [[9, 20, 3], two, 0.7188],
        "unhealthy, phase 2": [[69, 25, 2], two, 0.2813],
    }
    for name, (counts, scale, share) in groups.items():
        good = good_share(counts, scale.good)
        assert good["value"] == share, name
    rows = {
        name: {"counts": groups[name][0], "good": good_share(groups[name][0], 2)} for name in list(groups)[2:]
    }
    table = share_table(rows, two)
    assert table[2] == "| healthy, phase 2 | 9 | 20 | 3 | 23/32 = 0.7188 (0.546 to 0.844) |  |"
    assert table[3].startswith("| unhealthy, phase 2 | 69 | 25 | 2 | 27/96 = 0.2813")
    assert pictures_needed(23 / 32, 27 / 96) == 20


def made(folder: Path, n: int) -> None:
    for k in range(n):
        Picture(
            pixels=np.full((32, 32), k / n, np.float32),
            prompt=f"axial T1 slice at z = {10 * k} mm, {30 + k}-year-old woman",
            seed=k,
            plane="axial",
            position_mm=10.0 * k,
            position_asked=True,
            spacing_mm=6.0,
            model="toy",
            facts=Facts(),
        ).save(folder / f"p{k}.png")


def test_from_kit_to_table_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_toy_pairs(tmp_path / "pairs", subjects=(2, 1, 3))
    made(tmp_path / "unclip", 5)
    kit = ["reader-kit", str(tmp_path / "kit"), "--made", f"unclip={tmp_path}/unclip", "--real"]
    kit += [str(tmp_path / "pairs"), "--n", "4", "--controls", "3", "--phase", "2", "--shares", "0.7", "0.9"]
    assert cli.main([*kit, "--dry-run"]) == 0
    assert not (tmp_path / "kit").exists()
    assert cli.main(kit) == 0
    assert "62 a group tell 0.7 from 0.9" in capsys.readouterr().out
    key = json.loads((tmp_path / "kit-key.json").read_text())
    assert sorted(one["group"] for one in key["pictures"].values()) == ["real"] * 3 + ["unclip"] * 4
    real = [one for one in key["pictures"].values() if one["group"] == "real"]
    assert all(one["origin"].startswith("test/") and one["text"].startswith("axial T1 slice") for one in real)
    forms = [
        fill(tmp_path / "kit" / "form.csv", tmp_path / f"{name}.csv", realism=levels, agreement=levels[::-1])
        for name, levels in {"made-up-a": [1, 2, 3, 1, 2, 3, 1], "made-up-b": [1, 2, 2, 1, 3, 3, 2]}.items()
    ]
    argv = ["reader-score", str(tmp_path / "kit-key.json"), *map(str, forms), "--out", str(tmp_path / "out")]
    assert cli.main([*argv, "--note", NOTE, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert cli.main([*argv, "--note", NOTE]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"**{NOTE}**" in text and "Krippendorff's alpha, ordinal: 0." in text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["note"] == NOTE and report["raters"] == ["made-up-a", "made-up-b"]
    assert report["scales"]["realism"]["groups"]["unclip"]["good"]["n"] == 8
    with Image.open(tmp_path / "out" / "bars_realism.png") as image:
        assert image.size[0] == 960 and len(image.convert("RGB").getcolors(10**6)) > 20
    assert (
        cli.main(["reader-kit", str(tmp_path / "k2"), "--made", "unclip", "--real", str(tmp_path / "pairs")])
        == 2
    )
    assert "NAME=FOLDER" in capsys.readouterr().err


def test_counts_give_the_published_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["reader-counts", str(ROOT / "recipes" / "reader_counts.toml"), "--out", str(tmp_path / "out")]
    assert cli.main([*argv, "--dry-run"]) == 0 and not (tmp_path / "out").exists()
    assert cli.main(argv) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    shares = [row["good"]["value"] for row in report["groups"].values()]
    assert shares == [0.3333, 0.1667, 0.7188, 0.2813]
    one, two = report["comparisons"]
    assert one["groups"] == ["healthy, phase 1", "unhealthy, phase 1"] and one["p"] is None
    assert two["p"] == pytest.approx(stats.fisher_exact([[23, 9], [27, 69]]).pvalue) and two["needed"] == 20
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| healthy, phase 2 | 2 | 23 of 32 | 0.7188 | 0.546 to 0.844 |" in text
    assert "| healthy, phase 1 | 1 | not published | 0.3333 |  |" in text
    capsys.readouterr()
    assert cli.main([*argv, "--set", "group.x.good=3", "group.x.n=2"]) == 2
    assert "[group.x]: give good and n" in capsys.readouterr().err
