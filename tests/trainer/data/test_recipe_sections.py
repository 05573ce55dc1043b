"""The `data` and `rows` sections of recipes, each on a small file in the real format."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rhapsode_trainer.data.corpus import Corpus, load_corpus
from rhapsode_trainer.data.encoding import encode_documents
from rhapsode_trainer.data.rows import NO_LOSS, PassRows, rows_of_pass
from rhapsode_trainer.data.settings import DataConfig, RowsConfig, SourceConfig
from rhapsode_trainer.data.tokenizer import train_tokenizer

WRITING_PROMPTS = """
data:
  sources: [{path: train.wp_source}]
  validation_sources: [{path: valid.wp_source}]
  held_out_sources: [{path: test.wp_source}]
  text_field: story
  prompt_field: prompt
  on_bad_row: skip
  cleaning: [ftfy, bracket_tags, newline_tokens, collapse_spaces, strip]
rows: {kind: packed, block_size: 32, loss_on: story, separator: "\\n\\n"}
"""

TEXT_FILES = """
data:
  sources: [{path: texts, format: text}]
  on_bad_row: skip
  validation: 0.05
  held_out: 0.15
rows: {kind: blocks, block_size: 16}
"""

WIKITEXT = """
data:
  sources: [{path: wiki.train.raw, format: text, heading: "^ = [^=].* = $"}]
  validation_sources: [{path: wiki.valid.raw, format: text, heading: "^ = [^=].* = $"}]
  held_out_sources: [{path: wiki.test.raw, format: text, heading: "^ = [^=].* = $"}]
  part: 0.5
rows: {kind: blocks, block_size: 64}
"""

POETRY = """
data:
  sources: [{path: PoetryFoundationData.csv}]
  text_field: Poem
  on_bad_row: skip
  cleaning: [ftfy, collapse_spaces, strip]
  held_out: 0.2
rows: {kind: packed, block_size: 32}
"""

STORIES = """
data:
  sources: [{path: stories.jsonl}]
  text_field: story
  prompt_field: prompt
  cleaning: [ftfy, newline_tokens, collapse_spaces, strip]
  validation: 0.1
  held_out: 0.1
rows: {kind: packed, block_size: 32, loss_on: story, separator: "\\n"}
"""


def read(sections: str) -> tuple[DataConfig, RowsConfig]:
    tree = yaml.safe_load(sections)
    data: dict[str, Any] = {}
    for name, value in tree["data"].items():
        if name.endswith("sources"):
            data[name] = tuple(SourceConfig(**source) for source in value)
        else:
            data[name] = tuple(value) if isinstance(value, list) else value
    return DataConfig(**data), RowsConfig(**tree["rows"])


Prepare = Callable[[str], tuple[Corpus, PassRows]]
TOKENIZER = train_tokenizer(["the king said that there was nothing"] * 9, 290).backend_tokenizer
END, PAD = 0, 0


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """The corpus and the training rows of the sections, read in `tmp_path`, with pad = eos."""
    monkeypatch.chdir(tmp_path)

    def run(sections: str) -> tuple[Corpus, PassRows]:
        data, rows = read(sections)
        corpus = load_corpus(data)
        encoded = encode_documents(TOKENIZER, corpus.train, rows, end_of_text=END, cache=Path("cache"))
        passed = rows_of_pass(encoded, rows, pad=PAD, seed=0, epoch=0)
        ends = sum(int((row["labels"] == END).sum()) for row in passed)
        assert ends == len(corpus.train), "each document's end is learned, once"
        return corpus, passed

    return run


def learned(rows: PassRows) -> str:
    """All that carries loss, in order."""
    return TOKENIZER.decode([int(label) for row in rows for label in row["labels"] if label != NO_LOSS])


def test_writing_prompts(tmp_path: Path, prepare: Prepare) -> None:
    for name, number in {"train": 40, "valid": 4, "test": 5}.items():
        prompts = [f"[ WP ] {name} king {n} has a secret ." for n in range(number)]
        stories = [
            f"`` I know , '' said {n} . <newline> <newline> It was {name} sch\u00c3\u00b6n ." for n in range(number)
        ]
        stories[0] = " "
        (tmp_path / f"{name}.wp_source").write_text("\n".join(prompts) + "\n", encoding="utf-8")
        (tmp_path / f"{name}.wp_target").write_text("\n".join(stories) + "\n", encoding="utf-8")
    corpus, rows = prepare(WRITING_PROMPTS)
    assert (len(corpus.train), len(corpus.validation), len(corpus.held_out)) == (39, 3, 4)
    assert corpus.skipped == {"empty text": 3}
    assert corpus.train[0].prompt == "train king 1 has a secret ."
    assert corpus.train[0].text == "`` I know , '' said 1 .\n\nIt was train sch\u00f6n ."
    assert "secret" not in learned(rows)
    assert len(corpus.files) == 6


def test_text_files(tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "texts" / "more").mkdir(parents=True)
    for number in range(60):
        (tmp_path / "texts" / ("more" if number % 2 else "") / f"{number:02}.txt").write_text(
            f"text {number} " * number
        )
    corpus, rows = prepare(TEXT_FILES)
    assert corpus.skipped == {"empty file": 1}
    assert len(corpus.train) + len(corpus.validation) + len(corpus.held_out) == 59
    assert len(corpus.held_out) >= 4
    longest = max(corpus.train, key=lambda document: len(document.text))
    assert f"{longest.text.split()[1]} \n" in longest.text
    assert 0 < rows.padding_share < 0.2


def test_wikitext(tmp_path: Path, prepare: Prepare) -> None:
    article = " \n = {0} {1} = \n \n {1} is a @-@ thing {0} , and k = \n = 1 rad . \n \n = = Life = = \n \n It was . \n"
    for name, number in {"train": 10, "valid": 2, "test": 3}.items():
        text = "".join(article.format(name, n) for n in range(number))
        (tmp_path / f"wiki.{name}.raw").write_text(text, encoding="utf-8")
    corpus, rows = prepare(WIKITEXT)
    assert (len(corpus.train), len(corpus.validation), len(corpus.held_out)) == (5, 2, 3)
    assert corpus.train[4].where == "wiki.train.raw, line 38"
    assert corpus.train[4].text.startswith(" = train 4 = \n \n 4 is")
    assert rows.block_size == 64


def test_poetry(tmp_path: Path, prepare: Prepare) -> None:
    with (tmp_path / "PoetryFoundationData.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "Title", "Poem", "Poet", "Tags"])
        for n in range(50):
            poem = f"\n\nDog bone, stapler,\n\ncribbage board {n}, \u201cgarlic\u201d press\n     because\n\n"
            writer.writerow([n, f"\n  Objects {n}\n", poem if n else "\n\n", "Michelle", ""])
    corpus, _ = prepare(POETRY)
    assert corpus.skipped == {"empty text": 1}
    assert len(corpus.train) + len(corpus.held_out) == 49
    assert corpus.train[0].text.endswith('"garlic" press\nbecause')
    assert {document.where for document in corpus.train} <= {
        f"PoetryFoundationData.csv, line {n}" for n in range(2, 999)
    }


def test_stories(tmp_path: Path, prepare: Prepare) -> None:
    lines = [{"prompt": f"Opening {n}", "story": f"Once upon {n} . <newline> The end ."} for n in range(60)]
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus, rows = prepare(STORIES)
    assert min(len(corpus.validation), len(corpus.held_out)) > 0
    assert corpus.train[0].text.endswith(" .\nThe end .")
    assert "Opening" not in learned(rows)
