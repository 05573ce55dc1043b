import csv
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from rhapsode_trainer.data.assembly import Document
from rhapsode_trainer.data.corpus import hash_inputs, load_corpus
from rhapsode_trainer.data.files import InputFile
from rhapsode_trainer.data.readers import READERS
from rhapsode_trainer.data.settings import DataConfig
from rhapsode_trainer.errors import ConfigError, DataError

Make = Callable[..., DataConfig]
ReadAll = Callable[..., tuple[Document, ...]]

# Text that a file in UTF-8 can hold, without the characters that some reader takes for the end of a line.
words = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1).filter(str.strip)
rows = st.lists(st.tuples(words, words), min_size=1, max_size=8)


def read(path: Path, format: str, *fields: str, limit: int = 2**20) -> list[tuple[object, ...]]:
    return [row.values for row in READERS[format](InputFile(path.name, path, format), fields, limit)]


@settings(deadline=None)
@given(rows)
def test_csv_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("title", "text"), *pairs])
    path.write_bytes(buffer.getvalue().encode())
    assert read(path, "csv", "text", "title") == [(text, title) for title, text in pairs]


@settings(deadline=None)
@given(rows)
def test_jsonl_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    lines = [json.dumps({"title": title, "text": text}, ensure_ascii=False) for title, text in pairs]
    path.write_bytes("\n".join(lines).encode())
    assert read(path, "jsonl", "text", "title") == [(text, title) for title, text in pairs]


@settings(deadline=None)
@given(rows)
def test_parquet_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    titles, stories = zip(*pairs, strict=True)
    parquet.write_table(pyarrow.table({"title": titles, "text": stories}), path)
    assert read(path, "parquet", "text", "title") == [(text, title) for title, text in pairs]


def test_a_text_file_is_one_document_whatever_its_line_breaks(tmp_path: Path, read_all: ReadAll) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo")
    (tmp_path / "b.txt").write_bytes(b"three\n\nfour\n")
    texts = [document.text for document in read_all(tmp_path / "*.txt")]
    assert texts == ["one\n\ntwo\n", "three\n\nfour\n"]


def test_headings_between_blank_lines_begin_documents(tmp_path: Path, read_all: ReadAll) -> None:
    article = " \n = {} = \n \n Some text . \n = and = \n \n = = Section = = \n \n More , k = \n = 1 = \n"
    articles = [article.format(f"Title {number}") for number in range(12)]
    (tmp_path / "wiki.raw").write_text("".join(articles))
    documents = read_all(tmp_path / "wiki.raw", format="text", heading="^ = [^=].* = $")
    found = [document.text for document in documents]
    assert [text.splitlines()[0] for text in found] == [f" = Title {number} = " for number in range(12)]
    assert "".join(found) == "".join(articles).removeprefix(" \n")


def test_rows_that_are_lines_are_joined_at_headings_too(tmp_path: Path, read_all: ReadAll) -> None:
    lines = ["", " = One = \n", "", " text \n", "", " = Two = \n", "", " text \n"]
    parquet.write_table(pyarrow.table({"text": lines}), tmp_path / "a.parquet")
    documents = read_all(tmp_path / "a.parquet", heading="^ = [^=].* = $")
    assert [document.text for document in documents] == [" = One = \n\n text \n\n", " = Two = \n\n text \n"]


def test_fairseq_pairs_are_read_line_by_line(tmp_path: Path, make_config: Make, read_all: ReadAll) -> None:
    (tmp_path / "train.wp_source").write_text("[ WP ] One\n[ WP ] Two\r\n")
    (tmp_path / "train.wp_target").write_text("Once <newline> upon\nTwice upon")
    found = [(document.prompt, document.text) for document in read_all(tmp_path, prompt_field="prompt")]
    assert found == [("[ WP ] One", "Once <newline> upon"), ("[ WP ] Two", "Twice upon")]
    assert {Path(name).name for name in hash_inputs(make_config(tmp_path))} == {"train.wp_source", "train.wp_target"}


@pytest.mark.parametrize(("sources", "targets"), [(3, 2), (2, 3), (2, 0)])
def test_unequal_pairs_are_an_error_whatever_is_to_be_skipped(
    tmp_path: Path, make_config: Make, sources: int, targets: int
) -> None:
    (tmp_path / "train.wp_source").write_text("prompt\n" * sources)
    (tmp_path / "train.wp_target").write_text("story\n" * targets)
    config = make_config(tmp_path / "train.wp_source", prompt_field="prompt", on_bad_row="skip")
    with pytest.raises(DataError, match=rf"wp_source has {sources} lines, .*wp_target has {targets}"):
        load_corpus(config)


BAD = [
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    ("a.jsonl", b'{"text": "a"}\n\n{"title": "b"}\n', "line 3: no text in the field 'text'"),
    ("a.jsonl", b'{"text": null}\n', "line 1: no text in the field 'text'"),
    ("a.jsonl", b'["a"]\n', "line 1: not a JSON object"),
    ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
    ("a.jsonl", b'{"text": 7}\n', "line 1: not a text but int"),
    ("a.jsonl", b'{"text": "  "}\n', "line 1: empty text"),
    ("a.jsonl", b'{"text": "\xff"}\n', "line 1: not UTF-8: byte 0xff at place 11"),
    ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: not UTF-8: or half"),
    ("a.jsonl", b'{"text": "' + b"x" * 300_000 + b'"}\n', "line 1: more bytes than max_document_bytes"),
    ("a.txt", b"", "a.txt: empty file"),
    ("a.txt", b" \n \n", "line 1: empty text"),
    ("a.txt", b"good\nbad \xe9\n", "line 2: not UTF-8: byte 0xe9 at place 5"),
    ("a.txt", b"a line of text\n" * 20_000, "line 1: more bytes than max_document_bytes"),
    ("a.csv", b"text,title\na,b\nc\n", "line 3: not as many values as columns: 1 and 2"),
    ("a.csv", b'text,title\na,b\n"c\nd \xff\n",e\n', "line 3: not UTF-8"),
    ("a.csv", b"text,title\na,b\n" + b"x" * 300_000 + b",y\n", "line 3: more bytes than max_document_bytes"),
    ("a.csv", b"text,title\n,b\n", "line 2: empty text"),
]


@pytest.mark.parametrize(("name", "content", "complaint"), BAD)
def test_a_bad_row_is_named_by_file_and_line_or_counted(
    tmp_path: Path, make_config: Make, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.jsonl").write_text("".join(f'{{"text": "poem {number}"}}\n' for number in range(20)))
    with pytest.raises(DataError, match=complaint) as raised:
        load_corpus(make_config(tmp_path, max_document_bytes=250_000))
    assert str(tmp_path / name) in str(raised.value)
    assert raised.value.exit_code == 3
    corpus = load_corpus(make_config(tmp_path, max_document_bytes=250_000, on_bad_row="skip"))
    assert sum(corpus.skipped.values()) == 1
    assert next(iter(corpus.skipped)) in complaint
    assert len(corpus.train) + len(corpus.held_out) >= 20


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", b"title,body\na,b\n", "line 1: 0 columns 'text'; there are: title, body"),
        ("a.csv", b"text,text\na,b\n", "line 1: 2 columns 'text'"),
        ("a.csv", b'text,title\na,b\n"c,d\ne,f\n', "line 3: not CSV: unexpected end of data"),
        ("a.csv", b'text\n"' + b"x\n" * 200_000 + b'"\n', "line 2: not CSV: field larger than field limit"),
        ("a.csv", b'text\n"x\n' + b"x" * 300_000 + b'\ny"\n', "line 3: .* part of the row that begins at .*, line 2"),
        ("a.parquet", b"PAR1 no", "a.parquet: not Parquet"),
    ],
)
def test_a_file_whose_rows_cannot_be_told_apart_is_an_error_even_if_bad_rows_are_skipped(
    tmp_path: Path, make_config: Make, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        load_corpus(make_config(tmp_path, max_document_bytes=250_000, on_bad_row="skip"))


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"title": ["a"]}, "no column 'text'; there are: title"),
        ({"text": [3]}, "row 1: not a text but int"),
        ({"text": ["a", None]}, "row 2: no text in the field 'text'"),
        ({"text": ["a", "x" * 2000]}, "row 2: more bytes than max_document_bytes, 1,000"),
    ],
)
def test_bad_parquet_is_rejected(tmp_path: Path, make_config: Make, table: dict[str, Any], complaint: str) -> None:
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=complaint):
        load_corpus(make_config(tmp_path / "a.parquet", max_document_bytes=1000))


@pytest.mark.parametrize(("name", "start"), [("a.jsonl", b'{"text": "'), ("a.txt", b""), ("a.csv", b"text\n")])
def test_one_line_of_200_megabytes_is_refused_in_little_memory(
    tmp_path: Path, make_config: Make, name: str, start: bytes
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.write(start)
        file.truncate(200_000_000)  # a sparse file: zero bytes and no line break
    tracemalloc.start()
    with pytest.raises(DataError, match=r"line \d: more bytes than max_document_bytes, 1,000,000"):
        load_corpus(make_config(tmp_path / name, max_document_bytes=1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("none.jsonl", r"data: cannot read .*none\.jsonl: No such file"),
        ("*.jsonl", "data: no file of format auto"),
        ("", "data: no file of format auto"),
        ("a.xml", "cannot tell the format of .*a.xml"),
        ("a.wp_source", r"data: cannot read .*a\.wp_target"),
    ],
)
def test_a_source_without_files_is_a_configuration_error(
    tmp_path: Path, make_config: Make, path: str, complaint: str
) -> None:
    if path.startswith("a."):
        (tmp_path / path).write_text("x")
    with pytest.raises(ConfigError, match=complaint):
        load_corpus(make_config(tmp_path / path))


def test_a_missing_shipped_file_is_a_configuration_error(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"data: cannot read package:none\.jsonl"):
        load_corpus(make_config("package:none.jsonl"))


def test_prompts_cannot_come_from_text_files(tmp_path: Path, make_config: Make) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"prompt_field: .*a\.txt is a text file"):
        load_corpus(make_config(tmp_path, prompt_field="prompt"))
