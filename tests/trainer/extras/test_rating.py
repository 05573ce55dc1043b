import csv
import doctest
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rhapsode_contract.model_directory import ModelDirectory, ModelFolder, NoSuchModel
from rhapsode_trainer.commands.preferences import preference_line, read_preferences
from rhapsode_trainer.errors import ConfigError, DataError
from rhapsode_trainer.rating import Sheet, export_sheet, import_ratings, result
from rhapsode_trainer.rating.drawing import read_prompts
from rhapsode_trainer.rating.key import Key
from rhapsode_trainer.rating.recording import record_rating

PAIRS = [(f"prompt {number}", f"first text {number}", f"second text {number}") for number in range(1, 9)]
VERSIONS = {"a": "poems 3", "b": "poems 4"}


@pytest.fixture
def sheet(tmp_path: Path) -> Sheet:
    return export_sheet(tmp_path / "sheet", PAIRS, versions=VERSIONS, seed=7)


Rate = Callable[..., Path]


@pytest.fixture
def rate(sheet: Sheet, tmp_path: Path) -> Rate:
    """Writes the ratings of somebody who wants the versions given, item by item: a, b, tie or - for none."""

    def rate(rater: str, wanted: str) -> Path:
        key = Key.load(sheet.key)
        names = {"t": "tie", "-": "", **dict.fromkeys("ab", "")}
        path = tmp_path / f"{rater}.csv"
        lines = ["sheet,item,rater,choice"]
        for item, letter in enumerate(wanted, start=1):
            side = "left" if key.left[item - 1] == letter else "right"
            lines.append(f"{key.sheet},{item},{rater},{side if letter in 'ab' else names[letter]}")
        path.write_text("\n".join(lines))
        return path

    return rate


class Page(HTMLParser):
    """The scripts of a page, and every attribute that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [name for name, _ in attrs if name in ("src", "href", "action", "srcset")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.scripts and self.cdata_elem == "script":
            self.scripts[-1] += data


def test_the_documented_interval_holds() -> None:
    failed, attempted = doctest.testmod(result)
    assert (failed, attempted > 0) == (0, True)


def test_both_sheets_hold_the_texts_side_by_side_as_the_key_says(sheet: Sheet) -> None:
    key = Key.load(sheet.key)
    with sheet.csv.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    items = json.loads(Page(sheet.html.read_text()).scripts[0])["items"]
    for row, item, side, (prompt, a, b) in zip(rows, items, key.left, PAIRS, strict=True):
        shown = [prompt, a, b] if side == "a" else [prompt, b, a]
        assert [row["prompt"], row["left"], row["right"]] == shown == item
        assert (row["sheet"], row["choice"]) == (key.sheet, "")
    assert key.left.count("a") == key.left.count("b") == 4


def test_raters_are_told_neither_versions_nor_seed(sheet: Sheet) -> None:
    for path in (sheet.csv, sheet.html):
        text = path.read_text()
        assert not [secret for secret in (*VERSIONS.values(), "seed") if secret in text]
    assert Key.load(sheet.key).versions == VERSIONS


def test_the_seed_decides_the_sides(tmp_path: Path) -> None:
    sides = [Key.load(export_sheet(tmp_path, PAIRS, versions=VERSIONS, seed=seed).key).left for seed in (1, 1, 2, 3, 4)]
    assert sides[0] == sides[1]
    assert len(set(sides)) > 2


def test_the_page_needs_nothing_from_elsewhere(sheet: Sheet) -> None:
    text = sheet.html.read_text()
    assert Page(text).loads == []
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


@given(st.text(max_size=30) | st.sampled_from(["</script><script>alert(1)</script>", "<!--<script>", "]]>", "\u2028"]))
def test_any_text_stays_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    sheet = export_sheet(tmp_path_factory.mktemp("sheet"), [(text, text, text)], versions=VERSIONS, seed=0)
    page = Page(sheet.html.read_text(encoding="utf-8"))
    assert len(page.scripts) == 2
    shown = json.loads(page.scripts[0])["items"][0][0]
    assert len(shown) == len(text)
    assert all(char in (*text, "\ufffd") for char in shown)
    with sheet.csv.open(encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["left"] in (shown, f" {shown}")
    assert not row["left"].startswith(("=", "+", "-", "@"))


def test_nothing_to_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to rate"):
        export_sheet(tmp_path, [], versions=VERSIONS, seed=0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: cannot be written"):
        export_sheet(tmp_path / "file", PAIRS, versions=VERSIONS, seed=0)


def test_the_result_of_three_raters(sheet: Sheet, rate: Rate) -> None:
    paths = [rate("ada", "bbbbbbat"), rate("ben", "bbbbbaa-"), rate("cyd", "bbbbt-bt")]
    record = import_ratings(sheet.key, paths)
    assert record["versions"] == VERSIONS
    assert (record["raters"], record["ratings"]) == (3, {"a": 3, "b": 16, "tie": 3})
    # Item 6 is a draw, 7 goes to a, 8 has ties only.
    assert record["items"] == {"a": 1, "b": 5, "tie": 2, "unrated": 0}
    assert record["preference_b"] == pytest.approx(5 / 6)
    assert record["preference_b_interval"] == pytest.approx((0.4365, 0.9699), abs=1e-4)
    assert record["agreement_alpha"] == pytest.approx(alpha(["bbbbbbat", "bbbbbaa-", "bbbbt-bt"]))
    assert not any(name in json.dumps(record, allow_nan=False) for name in ("ada", "ben", "cyd"))


def alpha(rows: list[str]) -> float:
    """Krippendorff's alpha for nominal data from its definition, 1 - observed / expected disagreement."""
    units = [[value for value in unit if value != "-"] for unit in zip(*rows, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]

    def pairs(values: list[str]) -> int:
        return sum(one != other for one in values for other in values)

    observed = sum(pairs(unit) / (len(unit) - 1) for unit in units) / len(pooled)
    return 1 - observed / (pairs(pooled) / (len(pooled) * (len(pooled) - 1)))


@pytest.mark.parametrize(("wanted", "preference"), [("aaaaaaaa", 0.0), ("bbbbbbbb", 1.0), ("tttttttt", None)])
def test_one_voice_has_no_agreement(sheet: Sheet, rate: Rate, wanted: str, preference: float | None) -> None:
    record = import_ratings(sheet.key, [rate("ada", wanted), rate("ben", wanted)])
    low, high = record["preference_b_interval"]
    assert (record["preference_b"], record["agreement_alpha"]) == (preference, None)
    assert 0 <= low < high <= 1
    assert record["left_share"] == (None if wanted[0] == "t" else 0.5)


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_interval_is_symmetric_and_holds_the_share(successes: int, failures: int) -> None:
    trials = successes + failures
    low, high = result.wilson_interval(successes, trials, 0.95)
    other = result.wilson_interval(failures, trials, 0.95)
    assert other == pytest.approx((1 - high, 1 - low))
    assert 0 <= low <= (successes / trials if trials else 0.5) <= high <= 1


def test_a_sheet_filled_in_a_spreadsheet_is_read(sheet: Sheet, tmp_path: Path) -> None:
    with sheet.csv.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:4]:
        row[-1] = " Left "
    path = tmp_path / "ada.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([*rows, [""] * len(rows[0])])
    record = import_ratings(sheet.key, [path])
    assert (sum(record["ratings"].values()), record["items"]["unrated"], record["left_share"]) == (3, 5, 1.0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sheet,item\nS,1", "line 1, column choice: 0 columns of this name"),
        ("sheet,item,choice,choice\nS,1,tie,tie", "line 1, column choice: 2 columns of this name"),
        ("", "line 1, column sheet: 0 columns"),
        ("sheet,item,choice\nS,1,tie\nother,2,tie", "line 3, column sheet: 'other' is not the sheet of the key"),
        ("sheet,item,choice\n\nS,9,tie", "line 3, column item: '9' is not a number from 1 to 8"),
        ("sheet,item,choice\nS,one,tie", "line 2, column item: 'one' is not a number"),
        ("sheet,item,choice\nS,\u0663,tie", "line 2, column item: "),
        ("sheet,item,choice\nS,1,better", "line 2, column choice: 'better' is not left, right or tie"),
        ("sheet,item,choice\nS,1,tie\nS,1,left", r"line 3, column item: 'bad' rated item 1 already \(.*line 2\)"),
        ("sheet,item,choice\nS,1", "line 2: 2 cells, but the header has 3"),
        ('sheet,item,left,choice\nS,1,"two\nlines",tie\nS,2,x,oops', "line 4, column choice: 'oops'"),
        ('sheet,item,choice\nS,1,"tie', "line 2: unexpected end of data"),
        ("sheet,item,choice\nS,1,\nS,2,", "no item has a choice"),
        ("sheet,item,choice\nS,1,\udcff", "line 2: not UTF-8"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_refused_by_line_and_column(
    sheet: Sheet, tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content.replace("S,", f"{Key.load(sheet.key).sheet},").encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=f"bad.csv.*{complaint}"):
        import_ratings(sheet.key, [path])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema_version": 2}, "schema_version: 2 is not 1"),
        ({"left": ["a", "c"]}, "left: item 2 is 'c'"),
        ({"versions": {"a": "1"}}, "versions: "),
        ({"sheet": ""}, "sheet: ''"),
        ({"left": None}, "not the key of a sheet"),
    ],
)
def test_a_malformed_key_is_refused_by_field(sheet: Sheet, change: dict[str, object], complaint: str) -> None:
    document = json.loads(sheet.key.read_text())
    sheet.key.write_text(json.dumps({**document, **change}))
    with pytest.raises(DataError, match=rf"key\.json: .*{complaint}"):
        import_ratings(sheet.key, [])
    sheet.key.write_text(json.dumps({name: value for name, value in document.items() if name not in change}))
    with pytest.raises(DataError, match=rf"key\.json: {next(iter(change))}: missing"):
        import_ratings(sheet.key, [])


def test_a_file_that_is_not_there_is_named(sheet: Sheet, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read: No such file"):
        import_ratings(sheet.key, [tmp_path / "absent.csv"])
    with pytest.raises(DataError, match=r"absent\.json: cannot be read: No such file"):
        import_ratings(tmp_path / "absent.json", [])


def test_a_missing_library_is_named(sheet: Sheet, rate: Rate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    assert import_ratings(sheet.key, [rate("ada", "abababab")])["agreement_alpha"] is None
    with pytest.raises(ConfigError, match=r"pip install 'rhapsode-trainer\[rating\]'"):
        import_ratings(sheet.key, [rate("ada", "abababab"), rate("ben", "bbababab")])


@pytest.fixture
def poems(tmp_path: Path) -> ModelFolder:
    """A model with versions 3 and 4, as far as their names go."""
    folder = ModelDirectory(tmp_path / "models").model("poems")
    for version in ("3", "4"):
        (folder.path / version).mkdir(parents=True)
        (folder.path / version / "MANIFEST.json").write_text("{}")
    return folder


def test_the_record_stands_beside_the_versions_once(sheet: Sheet, rate: Rate, poems: ModelFolder) -> None:
    record = import_ratings(sheet.key, [rate("ann", "bbbbbbba"), rate("bob", "bbbbbbat")])
    for _ in range(2):
        record_rating(ModelDirectory(poems.path.parent), record)
    [kept] = poems.ratings()
    assert kept.pop("time")
    assert kept == json.loads(json.dumps(record))
    more = import_ratings(sheet.key, [rate("ann", "bbbbbbba"), rate("bob", "bbbbbbat"), rate("eve", "aaaaaaaa")])
    record_rating(ModelDirectory(poems.path.parent), more)
    assert [kept["raters"] for kept in poems.ratings()] == [2, 3]


def test_compare_shows_the_latest_ratings_of_a_sheet_from_either_side(
    sheet: Sheet, rate: Rate, poems: ModelFolder
) -> None:
    for raters in ([rate("ann", "bbbbbbba")], [rate("ann", "bbbbbbba"), rate("bob", "bbbbbbat")]):
        record_rating(ModelDirectory(poems.path.parent), import_ratings(sheet.key, raters))
    [forward], [backward] = read_preferences(poems, 3, 4), read_preferences(poems, 4, 3)
    assert (forward.won, forward.lost, forward.ties, forward.raters) == (6, 1, 1, 2)
    assert (backward.won, backward.lost, backward.ties, backward.raters) == (1, 6, 1, 2)
    assert forward.preferred == pytest.approx(6 / 7)
    assert backward.preferred == pytest.approx(1 / 7)
    assert backward.bounds == (1 - forward.bounds[1], 1 - forward.bounds[0])
    assert "version 4 to 3 in 6 texts" in preference_line(forward).plain
    assert read_preferences(poems, 3, 5) == []


def test_a_sheet_whose_versions_are_elsewhere_is_refused(sheet: Sheet, rate: Rate, tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel):
        record_rating(ModelDirectory(tmp_path), import_ratings(sheet.key, [rate("ann", "bbbbbbba")]))


@pytest.mark.parametrize(("content", "complaint"), [(b"\n \n", "no prompts"), (b"\xff", "not UTF-8 at byte 0")])
def test_a_file_of_prompts_without_any_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_prompts(tmp_path / "prompts.txt")
